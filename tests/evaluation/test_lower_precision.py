"""A file in a lower precision is calibrated on what it itself says of held-out galaxies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from blobs import write_checkpoint, write_store

from gzsurvey.card import Card, VotesCalibration
from gzsurvey.dataset.store import Store
from gzsurvey.export import export
from gzsurvey.inference import OnnxModel
from gzsurvey.model.checkpoint import find_checkpoint, load_network, save_checkpoint
from gzsurvey.training.calibrate import calibrate_votes
from gzsurvey.training.data import labelled_rows


def calibration(card: Card) -> VotesCalibration:
    (fitted,) = card.calibration["concentration"]
    assert isinstance(fitted, VotesCalibration)
    return fitted


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of blobs, most of them for validation."""
    path = write_store(tmp_path_factory.mktemp("divided") / "store")
    table = pd.read_parquet(path / "galaxies.parquet")
    table["split"] = table["split"].replace("test", "validation")
    table.to_parquet(path / "galaxies.parquet")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, divided: Path) -> Path:
    """A checkpoint that says it was trained on the store."""
    folder = Path(write_checkpoint(tmp_path_factory.mktemp("lower") / "checkpoint", 4))
    network, info = load_network(find_checkpoint(str(folder)))
    sha256 = Store(divided).info.content_sha256
    save_checkpoint(folder, "best", network, info.model_copy(update={"dataset_sha256": sha256}))
    return folder


@pytest.mark.slow
def test_votes_are_calibrated_after_quantisation(trained: Path, divided: Path, tmp_path: Path) -> None:
    card = export([trained], tmp_path / "int8.onnx", precision="int8", dataset=divided)
    assert (card.precision, card.calibrated_in) == ("int8", "int8")
    fitted, store = calibration(card), Store(divided)
    rows = labelled_rows(store, store.rows("validation"))
    assert fitted.galaxies == len(rows)
    # The file's own embeddings, read by the checkpoint's head, give the same fit.
    network, _ = load_network(find_checkpoint(str(trained)))
    images = np.ascontiguousarray(store.images(rows).transpose(0, 3, 1, 2))
    embedding = torch.from_numpy(OnnxModel(tmp_path / "int8.onnx", "cpu").run(images)["embedding"])
    given = network.heads["concentration"](embedding).detach().numpy()
    again = calibrate_votes(given, store.vote_counts(rows), store.tree)
    assert again is not None
    np.testing.assert_allclose(fitted.offset, again.offset, atol=1e-3)
    np.testing.assert_allclose(fitted.shift, again.shift, atol=1e-3)


@pytest.mark.slow
def test_another_store_calibrates_nothing(
    checkpoints: tuple[str, str], store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = export(checkpoints, tmp_path / "fp16.onnx", precision="fp16", dataset=store_path)
    assert (card.members, card.calibrated_in, card.calibration) == (2, "fp32", {})
    assert "is not what the checkpoint was trained on" in capsys.readouterr().err
    assert card.torch_loss["concentration"].mean < 0.002
