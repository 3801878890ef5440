from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pictures import pictures

from gzsurvey.dataset.store import Store
from gzsurvey.errors import TableError, TrainingError
from gzsurvey.model.checkpoint import read_tensors
from gzsurvey.recipes.training import PretrainRecipe
from gzsurvey.training.monitor import Monitor, weighted_neighbours
from gzsurvey.training.pretrain import pretrain

RECIPE = PretrainRecipe.model_validate(
    {"encoder": {"name": "test_resnet"}, "batch_size": 16, "steps": 8, "byol": {"hidden": 32, "projection": 16}}
)


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def labels(store_path: Path, tmp_path: Path) -> Path:
    """Which blobs are elongated; one row is of no galaxy of the store."""
    elongated = pictures(96, 0)[1]
    frame = pd.DataFrame({"id": [*(f"g{i}" for i in range(96)), "elsewhere"], "label": [*elongated.astype(int), 1]})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path / "labels.csv"


def test_nearest_neighbours_vote_as_scikit_learns_do() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, 400)
    centres = rng.normal(size=(3, 8))
    bank, asked = ((centres[t] + rng.normal(size=(len(t), 8))).astype(np.float32) for t in (target, target[:90]))
    theirs = KNeighborsClassifier(100, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1))
    theirs.fit(bank, target)
    assert weighted_neighbours(bank, target, asked) == pytest.approx(theirs.predict_proba(asked), abs=1e-5)
    few = weighted_neighbours(bank[:5], np.array([0, 1, 2, 0, 1]), asked)
    assert few.sum(axis=1) == pytest.approx(1)
    assert (few > 0).all()


def test_the_test_split_is_never_looked_at_and_every_class_is_on_both_sides(
    store_path: Path, labels: Path, tmp_path: Path
) -> None:
    store = Store(store_path)
    galaxies = store.galaxies.assign(split=np.where(np.arange(96) % 3 == 0, "test", store.galaxies["split"]))
    other = tmp_path / "store"
    other.mkdir()
    for name in ("store.json", "store.zarr"):
        (other / name).symlink_to(store_path / name)
    galaxies.to_parquet(other / "galaxies.parquet")
    monitor = Monitor(labels, Store(other), seed=1)
    assert sorted(monitor.rows) == [row for row in range(96) if row % 3]
    assert np.array_equal(monitor.target, pictures(96, 0)[1].astype(int)[monitor.rows])
    assert monitor.asked.mean() == pytest.approx(0.2, abs=0.02)
    assert set(monitor.target[monitor.asked]) == set(monitor.target[~monitor.asked]) == {0, 1}


@pytest.mark.slow
def test_a_monitor_is_logged_drawn_and_changes_no_bit(store_path: Path, labels: Path, tmp_path: Path) -> None:
    plain = pretrain(RECIPE, store_path, tmp_path / "plain", "cpu")
    watched = pretrain(RECIPE, store_path, tmp_path / "watched", "cpu", labels)
    for name in ("best", "last", "last-training"):
        ours, theirs = (read_tensors(out / f"{name}.safetensors") for out in (watched, plain))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    added = {"knn_accuracy", "knn_balanced_accuracy"}
    for with_it, without in zip(log(watched), log(plain), strict=True):
        assert with_it.keys() - without.keys() == added
        assert all(with_it[name] == without[name] for name in without if name not in ("waiting", "images_per_second"))
        assert all(0 <= with_it[name] <= 1 for name in added)
    assert len(log(watched)) == 2
    assert (watched / "curves.png").stat().st_size > (plain / "curves.png").stat().st_size


def test_labels_that_cannot_be_watched_are_one_line(store_path: Path, tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": ["g0", "g1", "x", "y"], "label": [0, 0, 1, 1], "ra": 1.0, "dec": 1.0})
    frame.to_csv(tmp_path / "few.csv", index=False)
    with pytest.raises(TableError, match=r"class '1' has 0 labels in the train and validation splits"):
        Monitor(tmp_path / "few.csv", Store(store_path), 0)
    frame.drop(columns="id").to_csv(tmp_path / "nameless.csv", index=False)
    with pytest.raises(TableError, match="add a column id"):
        Monitor(tmp_path / "nameless.csv", Store(store_path), 0)


TRACKED = RECIPE.model_copy(update={"trackers": ("tensorboard",)})


def test_tensorboard_holds_what_the_log_holds(store_path: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = pretrain(TRACKED, store_path, tmp_path / "out", "cpu")
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    records = log(out)
    assert len(records) == 2
    assert set(events.Tags()["scalars"]) == records[0].keys() - {"step"}
    for name in ("contrastive", "supervised", "validation_votes", "waiting"):
        shown = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in shown] == [record["step"] for record in records]
        assert [value for _, value in shown] == pytest.approx([record[name] for record in records])


def test_without_tensorboard_the_extra_is_named(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match=r"pip install 'gzsurvey\[tensorboard\]'"):
        pretrain(TRACKED, store_path, tmp_path / "out", "cpu")
