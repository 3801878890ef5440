"""The step never waits for data, and memory does not grow with the store."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from big_stores import OneLayer, write_big_store
from PIL import Image

from gzsurvey.dataset import store as storing
from gzsurvey.dataset.store import Store
from gzsurvey.recipes.training import PretrainRecipe
from gzsurvey.training.data import batches
from gzsurvey.training.pretrain import Pretraining, pretrain

SIZE, BATCH = 64, 32
RECIPE = PretrainRecipe(approach="supervised", batch_size=BATCH, epochs=3, patience=None, guard={"least_spread": 0.0})


@pytest.fixture
def one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("gzsurvey.training.pretrain", "gzsurvey.model.checkpoint"):
        monkeypatch.setattr(sys.modules[module], "create_encoder", lambda *_, **__: OneLayer())


def fastest(action: Callable[[], object], times: int = 5) -> float:
    """Seconds."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return min(taken)


def test_the_step_never_waits_for_data(one_layer: None, tmp_path: Path) -> None:
    """With an encoder that takes less time for a galaxy than decoding its JPEG would."""
    path = write_big_store(tmp_path / "store", galaxies=600, size=SIZE, filled=True)
    training = Pretraining(RECIPE, Store(path), tmp_path / "timed", torch.device("cpu"))
    (batch,) = batches(training.store, training.order, range(1))
    jpeg = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 60, (424, 424, 3), np.uint8)).save(jpeg, "JPEG", quality=90)
    assert fastest(lambda: training.step(batch)) / BATCH < fastest(
        lambda: np.asarray(Image.open(jpeg).resize((64, 64)))
    )
    out = pretrain(RECIPE, path, tmp_path / "out", "cpu")
    waited = [json.loads(line)["waiting"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(waited) == 3
    assert min(waited) <= 0.05


def test_waiting_is_shown_where_it_is_much(one_layer: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_big_store(tmp_path / "store", galaxies=400, size=16)
    read = Store.images

    def from_afar(self: Store, rows: np.ndarray) -> np.ndarray:
        time.sleep(0.2)
        return read(self, rows)

    monkeypatch.setattr(Store, "images", from_afar)
    training = Pretraining(RECIPE.model_copy(update={"steps": 5}), Store(path), tmp_path, torch.device("cpu"))
    for batch in training.waiting.watch(batches(training.store, training.order, range(5))):
        training.step(batch)
    assert "% of the time waiting for data" in training._note()
    training.waiting.restart()
    assert "waiting" not in training._note()


def test_chunks_are_mapped_a_bounded_number_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "CHUNK_BYTES", 3 * 16**2 * 8)
    monkeypatch.setattr(storing, "MAPPED_CHUNKS", 5)
    path = write_big_store(tmp_path / "store", galaxies=400, size=16, filled=True)
    store = Store(path)
    assert store.rows_per_chunk == 8
    rows = np.random.default_rng(1).permutation(400)
    whole = np.concatenate([np.fromfile(path / f"store.zarr/images/c/{i}/0/0/0", np.uint8) for i in range(50)])
    assert np.array_equal(store.images(rows), whole.reshape(400, 16, 16, 3)[rows])
    assert store.vote_counts(rows).sum() == 400 * 20
    for kind in ("images", "votes"):
        maps = Path("/proc/self/maps").read_text().count(f"{path}/store.zarr/{kind}/")
        assert 0 < maps <= 5


MEASURE = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import big_stores
from gzsurvey.recipes.training import PretrainRecipe
from gzsurvey.training import describe, pretrain
describe.REFERENCE_GALAXIES = 4_000
for module in ("gzsurvey.training.pretrain", "gzsurvey.model.checkpoint"):
    sys.modules[module].create_encoder = lambda *_, **__: big_stores.OneLayer()
# Black images do look like a collapse.
sys.modules["gzsurvey.training.pretrain"].Pretraining._refuse_collapse = lambda *_: None

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024

peak, running = 0.0, True

def watch():
    global peak
    while running:
        peak = max(peak, anonymous())
        time.sleep(0.02)

thread = threading.Thread(target=watch, daemon=True)
thread.start()
recipe = PretrainRecipe(batch_size=64, steps=6, byol={"hidden": 16, "projection": 8}, sampling=sys.argv[4])
pretrain(recipe, Path(sys.argv[2]), Path(sys.argv[3]), "cpu")
running = False
thread.join()
print(peak)
"""


def peak_mib(store: Path, out: Path, sampling: str) -> float:
    """Anonymous memory at its highest while a process opens a store, trains on it and describes it, MiB."""
    command = [sys.executable, "-c", MEASURE, str(Path(__file__).parent), str(store), str(out), sampling]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return float(done.stdout)


@pytest.mark.long
def test_memory_is_the_same_for_two_million_galaxies(tmp_path: Path) -> None:
    """But for row numbers, their permutations and positions: about 100 bytes a galaxy, where one image has 3,072."""
    small = write_big_store(tmp_path / "small", galaxies=8_192, size=32)
    large = write_big_store(tmp_path / "large", galaxies=2_000_000, size=32)
    files = [file.stat() for file in large.rglob("*") if file.is_file()]
    assert sum(file.st_size for file in files) > 6e9
    assert sum(file.st_blocks * 512 for file in files) < 5e8
    for sampling in ("natural", "stratified"):
        more = peak_mib(large, tmp_path / f"large-{sampling}", sampling) - peak_mib(
            small, tmp_path / f"small-{sampling}", sampling=sampling
        )
        assert more < 200
