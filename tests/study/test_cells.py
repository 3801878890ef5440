from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gzsurvey.dataset import build
from gzsurvey.dataset.store import Store
from gzsurvey.errors import OutputConflict, RecipeError, TableError, TrainingError
from gzsurvey.recipes.dataset import load_dataset_recipe
from gzsurvey.recipes.study import LabelsRecipe, StudyRecipe, load_study_recipe
from gzsurvey.study import study
from gzsurvey.study.cells import arms, cells, divide, modes, pretrained_arms
from gzsurvey.study.results import comparisons
from gzsurvey.study.tasks import Task, check_held_out, derived_labels, load_task, prepare_tasks

SIZE = 32


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Round blobs and elongated ones: uint8 (n, 32, 32, 3), and whether each is elongated."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    elongated, angle = rng.random(n) < 0.5, rng.uniform(0, np.pi, n)[:, None, None]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    light = np.exp(-((along / 6) ** 2) - (across / np.where(elongated, 2, 6)[:, None, None]) ** 2)
    pixels = 220 * light[..., None] * rng.uniform(0.7, 1, (n, 1, 1, 3)) + rng.normal(12, 3, (n, SIZE, SIZE, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8), elongated


def write_pictures(path: Path, names: list[str], pixels: np.ndarray) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, picture in zip(names, pixels, strict=True):
            with archive.open(f"{name}.png", "w") as file:
                Image.fromarray(picture).save(file, format="PNG")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with voted galaxies, and labelled ones of another source."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(5)
    pixels, elongated = draw(80, 1)
    names = [f"v{i}" for i in range(80)]
    write_pictures(folder / "voted.zip", names, pixels)
    featured = rng.binomial(20, np.where(elongated, 0.85, 0.15))
    votes = {"smooth": 20 - featured, "featured-or-disk": featured, "artifact": 0}
    columns = {f"smooth-or-featured-gz2_{answer}": n for answer, n in votes.items()}
    pd.DataFrame({"id": names, "ra": np.linspace(0, 9, 80), "dec": 0.0} | columns).to_csv(
        folder / "voted.csv", index=False
    )
    pixels, elongated = draw(48, 2)
    names = [f"t{i}" for i in range(48)]
    write_pictures(folder / "labelled.zip", names, pixels)
    labels = {"id": names, "image": [f"{n}.png" for n in names], "shape": elongated.astype(int)}
    pd.DataFrame(labels | {"ra": np.linspace(20, 29, 48), "dec": 0.0}).to_csv(folder / "labelled.csv", index=False)
    recipe = {
        "name": "blobs",
        "image_size": SIZE,
        "splits": {"train": 0.8, "validation": 0.2, "test": 0.0},
        "sources": [
            {"name": "voted", "campaign": "gz2", "images": "voted.zip", "catalogue": "voted.csv"},
            {"name": "labelled", "images": "labelled.zip", "catalogue": "labelled.csv"},
        ],
    }
    (folder / "blobs.yaml").write_text(json.dumps(recipe | {"data": str(folder)}))
    return folder


def recipe(data: Path, **changes: object) -> StudyRecipe:
    content = {
        "name": "blobs",
        "data": str(data),
        "dataset": {"recipe": str(data / "blobs.yaml"), "hold_out": ["labelled"]},
        "tasks": [
            {
                "name": "shape",
                "labels": {
                    "table": "labelled.csv",
                    "images": "labelled.zip",
                    "column": "shape",
                    "classes": {"round": ["0"], "long": ["1"]},
                },
                "folds": 2,
                "counts": [12, "all"],
            }
        ],
        "pretrain": {
            "encoder": {"name": "test_byobnet"},
            "batch_size": 16,
            "steps": 3,
            "patience": None,
            "byol": {"hidden": 16, "projection": 8},
        },
        "linear": {"views": 1},
        "full": {"epochs": 1, "least_steps": 1},
        "direct": {"epochs": 1, "least_steps": 1},
        "seeds": 2,
        "resamples": 200,
    }
    return StudyRecipe.model_validate(content | changes)


def task_of(target: np.ndarray) -> Task:
    rows = np.arange(len(target))
    nowhere = np.full(len(target), np.nan)
    return Task("t", ("a", "b"), np.zeros((len(target), 8, 8, 3), np.uint8), target, rows.astype(str), nowhere, nowhere,
                rows[::2], rows[1::2])  # fmt: skip


def test_folds_test_every_galaxy_once_and_never_learn_from_it(data: Path) -> None:
    target = np.repeat([0, 1], [21, 30])
    task, task_recipe = task_of(target), recipe(data).tasks[0].model_copy(update={"folds": 3})
    seen = []
    for fold in range(3):
        pool, test = divide(task, task_recipe, 1, fold)
        assert not set(pool) & set(test)
        assert len(pool) + len(test) == 51
        assert np.bincount(target[test]).tolist() == [7, 10]
        seen += list(test)
    assert sorted(seen) == list(range(51))
    first, second = (divide(task, task_recipe, seed, 0)[1] for seed in (1, 2))
    assert not np.array_equal(first, second)


def test_cells_are_arms_times_labels_times_seeds_times_folds(data: Path) -> None:
    loaded = recipe(data, pretraining_seeds=2)
    made = list(cells(loaded, {"shape": task_of(np.repeat([0, 1], 24))}))
    assert len({(c.task, c.name) for c in made}) == len(made) == 2 * 2 * 2 * (3 + 3 * 2)
    assert {c.labels for c in made} == {12, 24}
    assert {c.encoder for c in made if c.arm == "random"} == {"random-s0", "random-s1"}


def test_variants_differ_from_their_arm_in_what_they_say(data: Path) -> None:
    variants = {
        "heavy": {"changes": {"hybrid.weight": 10}},
        "long_contrastive": {"approach": "contrastive", "changes": {"steps": 9, "augmentation.area": [0.5, 1.0]}},
    }
    loaded = recipe(data, arms=["direct", "hybrid"], variants=variants, modes=["linear"], pretraining_seeds=2)
    made = list(cells(loaded, {"shape": task_of(np.repeat([0, 1], 24))}))
    assert len({c.name for c in made}) == 2 * 2 * 2 * (1 + 3 * 2)
    assert pretrained_arms(loaded) == ("hybrid", "heavy", "long_contrastive")
    assert [modes(loaded, arm) for arm in ("direct", "heavy")] == [("full",), ("linear",)]
    heavy, other = loaded.pretraining("heavy"), loaded.pretraining("hybrid")
    assert heavy.model_copy(update={"hybrid": other.hybrid}) == other
    assert heavy.hybrid.weight == 10
    assert (loaded.pretraining("long_contrastive").approach, loaded.pretraining("long_contrastive").steps) == (
        "contrastive", 9,
    )  # fmt: skip
    with pytest.raises(RecipeError, match=r"variant 'heavy': unknown key 'hybrid\.wait'"):
        recipe(data, variants={"heavy": {"changes": {"hybrid.wait": 10}}})
    with pytest.raises(ValueError, match="variant 'pixels' has the name of an arm"):
        recipe(data, variants={"pixels": {"changes": {"steps": 10}}})


def test_a_test_galaxy_in_the_pretraining_is_refused(data: Path, tmp_path: Path) -> None:
    loaded = recipe(data)
    store = build(load_dataset_recipe(str(data / "blobs.yaml")), tmp_path / "store")
    prepare_tasks(loaded, data, store, tmp_path / "tasks")
    tasks = {"shape": load_task("shape", tmp_path / "tasks")}
    with pytest.raises(TrainingError, match=r"48 test galaxies are among the pretraining galaxies by id \(t0, t1"):
        check_held_out(tasks, store)
    moved = Task(**{**vars(tasks["shape"]), "ids": tasks["shape"].ids.astype("U9") + "x"})
    with pytest.raises(TrainingError, match="by position within 5 arcsec"):
        check_held_out({"shape": moved}, store)
    nowhere = Task(**{**vars(moved), "ra": np.full(48, np.nan)})
    with pytest.raises(TrainingError, match="by pixels"):
        check_held_out({"shape": nowhere}, store)


def test_labels_are_derived(data: Path, tmp_path: Path) -> None:
    table = pd.DataFrame({"name": [1, 2, 3], "image": ["a.png", "b.png", "c.png"], "share": [0.2, np.nan, 0.9]})
    table.to_csv(tmp_path / "t.csv", index=False)
    cut = {"at": 0.5, "below": "smooth", "above": "featured"}
    made = derived_labels(LabelsRecipe(table="t.csv", column="share", id_column="name", cut=cut), tmp_path)
    assert made[["id", "label"]].to_numpy().tolist() == [["1", "smooth"], ["3", "featured"]]
    some = LabelsRecipe(table="t.csv", column="image", id_column="name", classes={"first": ("a.png", "b.png")})
    assert derived_labels(some, tmp_path)["id"].tolist() == ["1", "2"]
    with pytest.raises(TableError, match="no column 'shape'"):
        derived_labels(LabelsRecipe(table="t.csv", column="shape"), tmp_path)


def test_bad_recipes_are_one_line(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no source 'nothing' to hold out; it has voted, labelled"):
        study(recipe(data, dataset={"recipe": str(data / "blobs.yaml"), "hold_out": ["nothing"]}), tmp_path / "out")
    with pytest.raises(RecipeError, match="--set data=FOLDER"):
        study(load_study_recipe("study-real"), tmp_path / "real")
    with pytest.raises(ValueError, match="'test' or 'folds', not both"):
        recipe(data, tasks=[{"name": "t", "labels": {"table": "a"}, "test": {"table": "b"}, "folds": 2, "counts": [9]}])


@pytest.mark.long
def test_a_whole_study_is_stopped_repeated_and_told(data: Path, tmp_path: Path) -> None:
    variants = {"heavy": {"changes": {"hybrid.weight": 10.0}}}
    out, loaded = tmp_path / "out", recipe(data, variants=variants)
    text = study(loaded, out, "cpu", workers=2)
    results = json.loads((out / "results.json").read_text())
    at = results["tasks"]["shape"]["labels"]["12"]
    assert set(at["arms"]) == {
        "pixels/pixels", "pixels/chosen", "random/linear", "random/chosen", "direct/full", "direct/chosen",
        *(f"{arm}/{mode}" for arm in ("contrastive", "supervised", "hybrid", "heavy")
          for mode in ("linear", "full", "chosen")),
    }  # fmt: skip
    for arm in at["arms"].values():
        for value in arm.values():
            assert 0 <= value["low"] <= value["mean"] <= value["high"] <= 1
    assert "hybrid - supervised" in text
    assert "hybrid - heavy" in text
    assert "+6 at 750 labels" in text
    assert (out / "results.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((out / "held-out.json").read_text())["shape"]["with_position"] == 48
    assert set(Store(out / "store").galaxies["source"]) == {"voted"}
    # A cell that was lost is filled again, to the same numbers; the others are left alone.
    lost = out / "cells" / "shape" / "hybrid-p0-n12-s0-f0.json"
    before = json.loads(lost.read_text())
    others = {p: p.stat().st_mtime_ns for p in (out / "cells").rglob("*.json") if p != lost}
    lost.unlink()
    state = json.loads((out / "job.json").read_text())
    (out / "job.json").write_text(json.dumps(state | {"finished": False}))
    assert study(loaded, out, "cpu", workers=2) == text
    assert json.loads(lost.read_text())["modes"] == before["modes"]
    assert all(p.stat().st_mtime_ns == t for p, t in others.items())
    with pytest.raises(OutputConflict, match=r"recipe\.seeds was 2, now 3"):
        study(recipe(data, variants=variants, seeds=3), out)
    Store(out / "store")


def test_what_is_compared() -> None:
    recipe = load_study_recipe("study-variants")
    pairs = list(comparisons(recipe))
    assert len(set(pairs)) == len(pairs)
    assert {arm for one, arm in pairs if one == "hybrid"} == set(arms(recipe)) - {"hybrid"}
    assert {("long", "long_contrastive"), ("long", "long_supervised"), ("crops", "crops_contrastive")} <= set(pairs)
    assert {("long_contrastive", "contrastive"), ("long_supervised", "supervised")} <= set(pairs)
    assert ("long", "crops_contrastive") not in pairs
    direct = list(comparisons(load_study_recipe("study-simulated")))
    assert {("hybrid", "direct"), ("contrastive", "direct"), ("pixels", "direct")} <= set(direct)
