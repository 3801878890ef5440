"""Rows per second out of a store, and the share of a training's time that is spent waiting for them.

Run with ``python tests/benchmarks/bench_loading.py [cpu|cuda]``.
"""

from __future__ import annotations

import io
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from big_stores import OneLayer, write_big_store

from gzsurvey.dataset.store import Store
from gzsurvey.recipes.training import PretrainRecipe
from gzsurvey.training.data import batches
from gzsurvey.training.pretrain import Pretraining

BATCH = 128
STEPS = {"cpu": 12, "cuda": 300}
GALAXIES = {64: 8_192, 128: 2_048, 224: 1_024}


def rows_per_second(store: Store, batches: int = 20) -> float:
    """Images and votes of random galaxies, copied into a batch; the fastest of five rounds."""
    rng = np.random.default_rng(0)
    chosen = [rng.choice(len(store), BATCH, replace=False) for _ in range(batches)]
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        for rows in chosen:
            store.images(rows)
            store.vote_counts(rows)
        taken.append(time.perf_counter() - start)
    return batches * BATCH / min(taken)


def waiting(store: Path, out: Path, device: torch.device) -> tuple[float, float]:
    """Share of waiting, and galaxies per second, of a training whose encoder has one layer."""
    vars(sys.modules["gzsurvey.training.pretrain"])["create_encoder"] = lambda *_, **__: OneLayer()
    steps = STEPS[device.type]
    recipe = PretrainRecipe(approach="supervised", batch_size=BATCH, steps=steps)
    training = Pretraining(recipe, Store(store), out, device)
    started = None
    pinned = device.type == "cuda"
    for batch in training.waiting.watch(batches(training.store, training.order, range(steps), pinned)):
        started = started or time.perf_counter()
        training.step(batch)
    assert started is not None
    return training.waiting.share, steps * BATCH / (time.perf_counter() - started)


def decoded_per_second() -> float:
    """JPEGs of 424 pixels a side, as Galaxy Zoo's, decoded one after another."""
    jpeg = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 60, (424, 424, 3), np.uint8)).save(jpeg, "JPEG", quality=90)
    taken = []
    for _ in range(30):
        start = time.perf_counter()
        np.asarray(Image.open(jpeg))
        taken.append(time.perf_counter() - start)
    return 1 / min(taken)


def test_loading_is_faster_than_decoding_would_be(tmp_path: Path) -> None:
    assert rows_per_second(Store(write_big_store(tmp_path / "store", 512, 64, filled=True)), 4) > 2000


if __name__ == "__main__":
    device = torch.device(*sys.argv[1:] or ["cpu"])
    print(f"{datetime.now(UTC):%Y-%m-%d}, {device.type}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
          f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}")  # fmt: skip
    print(f"{decoded_per_second():,.0f} JPEGs of 424 px decoded per second")
    with tempfile.TemporaryDirectory() as folder:
        for size, galaxies in GALAXIES.items():
            store = write_big_store(Path(folder) / f"store-{size}", galaxies, size, filled=True)
            rate = rows_per_second(Store(store))
            shares = [waiting(store, Path(folder), device) for _ in range(3)]
            share, trained = min(shares)
            print(
                f"{size:4} px: {rate:9,.0f} rows/s read; waiting {share:.2%} of a training at {trained:,.0f} galaxies/s"
            )
