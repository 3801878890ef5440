from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pictures import pictures
from PIL import Image

from gzsurvey.dataset.store import Store
from gzsurvey.errors import OutputConflict, RecipeError, TableError, TrainingError
from gzsurvey.model.checkpoint import CheckpointInfo, find_checkpoint, load_network, read_tensors
from gzsurvey.model.network import Network
from gzsurvey.recipes.training import FinetuneRecipe, PretrainRecipe, load_finetune_recipe
from gzsurvey.training import finetune, pretrain
from gzsurvey.training.tune import BEST_SO_FAR, Examples, Tuning


def recipe(**changes: object) -> FinetuneRecipe:
    base = {
        "task": "shape",
        "class_names": {"0": "round", "1": "long"},
        "encoder": {"name": "test_resnet"},
        "views": 1,
        "batch_size": 16,
        "epochs": 2,
        "optimiser": {"kind": "adamw", "learning_rate": 1e-3},
    }
    return FinetuneRecipe.model_validate(base | changes)


@pytest.fixture(scope="module")
def pretrained(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"encoder": {"name": "test_resnet"}, "approach": "supervised", "batch_size": 16, "steps": 12}
    return pretrain(PretrainRecipe.model_validate(settings), store_path, tmp_path_factory.mktemp("p") / "out", "cpu")


@pytest.fixture(scope="module")
def labels(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    columns = {name: store.galaxies[name] for name in ("id", "ra", "dec")}
    pd.DataFrame(columns | {"label": pictures(len(store), 0)[1].astype(int)}).to_csv(path, index=False)
    return path


def load(out: Path) -> tuple[Network, CheckpointInfo]:
    return load_network(find_checkpoint(str(out)))


def test_a_frozen_encoder_keeps_what_it_could_do(
    pretrained: Path, labels: Path, store_path: Path, store: Store, tmp_path: Path
) -> None:
    out = finetune(recipe(), str(pretrained), tmp_path / "out", labels, store_path, "cpu")
    (before, old), (after, new) = load(pretrained), load(out)
    images = torch.from_numpy(store.images(np.arange(8))).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        first, second = before(images), after(images)
    assert torch.equal(first["embedding"], second["embedding"])
    assert torch.equal(first["concentration"], second["concentration"])
    assert second["shape_probability"].shape == (8, 2)
    assert new.approach == "linear"
    assert new.heads[-1].classes == ("long", "round")
    assert sum(new.heads[-1].balance.values()) == pytest.approx(1)
    assert new.embedding_reference == old.embedding_reference
    assert new.credits == old.credits
    assert new.simulated
    assert set(old.training_cells["voted"]) <= set(new.training_cells["voted"])
    assert new.metrics["validation_roc_auc"] > 0.8
    assert not (out / "images.npy").exists()


@pytest.mark.parametrize("mode", ["last_blocks", "full"])
def test_an_encoder_that_learns_drops_the_old_heads(
    pretrained: Path, labels: Path, store_path: Path, tmp_path: Path, mode: str
) -> None:
    out = finetune(recipe(mode=mode), str(pretrained), tmp_path / "out", labels, store_path, "cpu")
    (before, _), (after, info) = load(pretrained), load(out)
    assert [head.output for head in info.heads] == ["shape_probability"]
    changed = [
        not torch.equal(a, b) for a, b in zip(before.encoder.parameters(), after.encoder.parameters(), strict=True)
    ]
    assert changed[-1]
    assert changed[0] == (mode == "full")
    assert np.isfinite(info.metrics["validation_loss"])


def test_direct_training(labels: Path, store_path: Path, tmp_path: Path) -> None:
    out = finetune(recipe(), "none", tmp_path / "out", labels, store_path, "cpu")
    _, info = load(out)
    assert info.approach == "full"
    assert info.preparation == Store(store_path).info.preparation
    assert info.encoder == "test_resnet"


def test_positions_stand_in_for_ids(pretrained: Path, labels: Path, store_path: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(labels).drop(columns="id")
    frame["ra"] += 0.5 / 3600
    frame.loc[0, "dec"] += 5 / 3600
    frame.to_csv(tmp_path / "positions.csv", index=False)
    out = finetune(recipe(), str(pretrained), tmp_path / "out", tmp_path / "positions.csv", store_path, "cpu")
    (lost,) = pd.read_csv(out / "unmatched.csv").itertuples()
    assert lost.reason == "no galaxy of the store within 1 arcsec"
    assert load(out)[1].metrics["validation_roc_auc"] > 0.8


def test_pictures_in_a_zip_some_of_them_broken(pretrained: Path, tmp_path: Path, store: Store) -> None:
    images, long = pictures(40, 9)
    with zipfile.ZipFile(tmp_path / "stamps.zip", "w") as archive:
        for number, image in enumerate(images[:38]):
            Image.fromarray(image).resize((64, 64)).save(tmp_path / "one.png")
            content = (tmp_path / "one.png").read_bytes()
            archive.writestr(f"stamps/{number}.png", content if number else content[:100])
    pd.DataFrame({"id": range(40), "label": long.astype(int)}).to_csv(tmp_path / "labels.csv", index=False)
    inputs = tmp_path / "labels.csv", tmp_path / "stamps.zip"
    out = finetune(recipe(), str(pretrained), tmp_path / "out", *inputs, "cpu")
    lost = pd.read_csv(out / "unmatched.csv").set_index("id")["reason"]
    assert set(lost.index) == {0, 38, 39}
    assert lost[0] != lost[38] == "there is no image of this name"
    info = load(out)[1]
    # Their positions are unknown, but embedding and votes never saw them.
    assert info.training_cells == load(pretrained)[1].training_cells


def test_repeating_returns_and_other_inputs_are_refused(
    pretrained: Path, labels: Path, store_path: Path, tmp_path: Path
) -> None:
    arguments = str(pretrained), tmp_path / "out", labels, store_path, "cpu"
    out = finetune(recipe(), *arguments)
    before = (out / "best.safetensors").stat().st_mtime_ns
    finetune(recipe(), *arguments)
    assert (out / "best.safetensors").stat().st_mtime_ns == before
    with pytest.raises(OutputConflict, match=r"recipe\.seed was 69, now 1"):
        finetune(recipe(seed=1), *arguments)


def test_equal_seeds_give_equal_weights(pretrained: Path, labels: Path, store_path: Path, tmp_path: Path) -> None:
    outs = [finetune(recipe(), str(pretrained), tmp_path / n, labels, store_path, "cpu") for n in ("a", "b")]
    one, other = (load(out)[0].state_dict() for out in outs)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_bad_input_is_one_line(pretrained: Path, labels: Path, store_path: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(labels)
    frame.assign(id="x" + frame["id"]).to_csv(tmp_path / "strangers.csv", index=False)
    cases = [
        (str(pretrained), tmp_path / "strangers.csv", store_path, TableError, "no label has an image.*xg0, xg1"),
        ("resnet1000", labels, store_path, RecipeError, "no timm name"),
        (str(pretrained), None, store_path, TrainingError, "needs --labels"),
        (str(pretrained), labels, None, TrainingError, "needs --images"),
    ]
    for checkpoint, table, images, error, match in cases:
        with pytest.raises(error, match=match) as caught:
            finetune(recipe(), checkpoint, tmp_path / "out", table, images, "cpu")
        assert "\n" not in str(caught.value)


def test_shipped_recipe_loads() -> None:
    loaded = load_finetune_recipe("finetune", ["task=ring"])
    assert (loaded.task, loaded.mode, loaded.augmentation.jitter) == ("ring", "auto", 0.0)


def test_resumed_after_its_best_epoch_it_still_keeps_that_epoch(
    pretrained: Path, labels: Path, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    monkeypatch.setattr("gzsurvey.training.tune.measure", lambda *_: {"loss": next(losses)})
    slow = recipe(mode="full", epochs=3)
    straight = finetune(slow, str(pretrained), tmp_path / "straight", labels, store_path, "cpu")
    end_epoch = Tuning._end_epoch

    def stop_after_two(self: Tuning, validation: Examples, steps: int) -> bool:
        end_epoch(self, validation, steps)
        if self.progress.step == 2 * steps:
            raise KeyboardInterrupt
        return False

    with monkeypatch.context() as patch:
        patch.setattr(Tuning, "_end_epoch", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            finetune(slow, str(pretrained), tmp_path / "stopped", labels, store_path, "cpu")
    resumed = finetune(slow, str(pretrained), tmp_path / "stopped", labels, store_path, "cpu")
    ours, theirs = (read_tensors(out / "best.safetensors") for out in (resumed, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (resumed / BEST_SO_FAR).exists()
