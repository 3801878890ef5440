from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gzsurvey.card import ClassesHead, TrainingRange
from gzsurvey.errors import ExportError
from gzsurvey.export import export
from gzsurvey.export.ensemble import Ensemble, describe_ensemble
from gzsurvey.export.pictures import decode_thumbnails
from gzsurvey.inference.session import OnnxModel
from gzsurvey.model.checkpoint import CheckpointInfo, load_network, save_checkpoint
from gzsurvey.model.encoder import create_encoder
from gzsurvey.model.network import Network


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory, info: CheckpointInfo) -> list[Path]:
    """Two checkpoints of other weights and another encoder; the second is not calibrated and has another balance."""
    found = []
    for number, name in enumerate(("test_efficientnet", "test_resnet")):
        torch.manual_seed(number)
        changes = {"encoder": name}
        if number:
            ring = info.heads[1].model_copy(update={"balance": {"no": 0.6, "yes": 0.4}})
            changes |= {"calibration": {}, "heads": (info.heads[0], ring, *info.heads[2:])}
        own = info.model_copy(update=changes)
        network = Network(create_encoder(name), own.heads, calibration=own.calibration).eval()
        own = own.model_copy(update={"embedding_size": network.embedding_size})
        folder = tmp_path_factory.mktemp(f"member{number}")
        save_checkpoint(folder, "best", network, own)
        found.append(folder)
    return found


@pytest.mark.long
def test_members_stand_side_by_side_in_one_file(members: list[Path], info: CheckpointInfo, tmp_path: Path) -> None:
    card = export(members, tmp_path / "both.onnx")
    assert card.members == 2
    assert [c is None for c in card.calibration["r50"]] == [False, True]
    ring = next(head for head in card.heads if isinstance(head, ClassesHead))
    assert ring.balance == pytest.approx({"no": 0.7, "yes": 0.3})
    images = decode_thumbnails(info.thumbnails, info.preparation.image_size)[:5]
    found = OnnxModel(tmp_path / "both.onnx", "cpu").run(images)
    assert {name: values.shape[1:] for name, values in found.items()} == card.output_shapes
    for number, member in enumerate(members):
        with torch.no_grad():
            expected = load_network(member / "best.safetensors")[0](torch.from_numpy(images).float() / 255)
        for head in card.heads:
            np.testing.assert_allclose(found[head.output][:, number], expected[head.output], rtol=1e-3, atol=1e-4)
        if number == 0:
            np.testing.assert_allclose(found["embedding"], expected["embedding"], rtol=1e-3, atol=1e-4)
    assert "2 networks stand side by side" in (tmp_path / "both.md").read_text()


def test_members_of_different_tasks_or_images_are_refused(members: list[Path], info: CheckpointInfo) -> None:
    other = info.model_copy(update={"heads": info.heads[:2]})
    with pytest.raises(ExportError, match="b does not predict what a predicts"):
        describe_ensemble([info, other], ["a", "b"])
    larger = info.preparation.model_copy(update={"image_size": 96})
    with pytest.raises(ExportError, match="b was trained on images prepared differently"):
        describe_ensemble([info, info.model_copy(update={"preparation": larger})], ["a", "b"])


def test_what_trained_any_member_is_described(info: CheckpointInfo) -> None:
    one = info.model_copy(update={"training_cells": {"voted": (1, 2), "seen": (3, 4)}, "simulated": True})
    two = info.model_copy(
        update={
            "training_cells": {"voted": (3,), "seen": (5,)}, "simulated": False, "dataset_sha256": "b",
            "training_ranges": {"r50": TrainingRange(low=0.1, high=3.0)},
            "credits": (info.credits[0].model_copy(update={"galaxies": 5000}),),
        }
    )  # fmt: skip
    both = describe_ensemble([one, two], ["a", "b"])
    assert both.training_cells == {"voted": (1, 2, 3), "seen": (4, 5)}
    assert both.simulated is False
    assert both.training_ranges["r50"].low == 0.1
    assert {credit.name: credit.galaxies for credit in both.credits} == {"gz2": 5000, "pool": 50}
    assert both.dataset_sha256 not in (one.dataset_sha256, "b")
    unknown = describe_ensemble([one, two.model_copy(update={"training_cells": None})], ["a", "b"])
    assert unknown.training_cells is None


def test_the_embedding_is_the_first_members() -> None:
    class Constant(torch.nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            filled = torch.full((len(images), 3), self.value)
            return {"embedding": filled, "task": filled}

    found = Ensemble([Constant(1.0), Constant(2.0)])(torch.zeros(4, 3, 8, 8))
    assert found["embedding"].shape == (4, 3)
    assert found["task"].mean(dim=(0, 2)).tolist() == [1.0, 2.0]
