"""Rows per second out of a store, and the share of a training's time that is spent waiting for them.

Run with ``python tests/benchmarks/bench_loading.py``.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from big_stores import OneLayer, write_big_store

from gzsurvey.dataset.store import Store
from gzsurvey.progress import Progress
from gzsurvey.recipes.training import PretrainRecipe
from gzsurvey.training import pretrain

BATCH = 128
GALAXIES = {64: 16_384, 128: 4_096, 224: 2_048}


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


def waiting(store: Path, out: Path, steps: int = 24) -> tuple[float, float]:
    """Share of waiting, and galaxies per second, of a training whose encoder has one layer."""
    for module in ("gzsurvey.training.pretrain", "gzsurvey.model.checkpoint"):
        vars(sys.modules[module])["create_encoder"] = lambda *_, **__: OneLayer()
    recipe = PretrainRecipe(approach="supervised", batch_size=BATCH, steps=steps, guard={"least_spread": 0.0})
    start = time.perf_counter()
    pretrain(recipe, store, out, "cpu")
    taken = time.perf_counter() - start
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return min(record["waiting"] for record in records), steps * BATCH / taken


def test_loading_is_faster_than_decoding_would_be(tmp_path: Path) -> None:
    assert rows_per_second(Store(write_big_store(tmp_path / "store", 512, 64, filled=True)), 4) > 2000


if __name__ == "__main__":
    Progress.quiet = True
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
          f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for size, galaxies in GALAXIES.items():
            store = write_big_store(Path(folder) / f"store-{size}", galaxies, size, filled=True)
            rate = rows_per_second(Store(store))
            share, overall = waiting(store, Path(folder) / f"out-{size}")
            print(
                f"{size:4} px: {rate:9,.0f} rows/s read; waiting {share:.1%} of a training at {overall:,.0f} galaxies/s"
            )
