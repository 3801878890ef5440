"""Half precision and 8-bit integers: what they change is measured, stated, and refused where it is too much."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from gzsurvey.card import Card
from gzsurvey.errors import ExportError, OutputConflict
from gzsurvey.export import agreement, export
from gzsurvey.export.graph import PixelsToOutputs, to_onnx
from gzsurvey.export.onnx import draft_card, keep
from gzsurvey.export.pictures import Pictures, decode_thumbnails
from gzsurvey.export.precision import lowered
from gzsurvey.inference import OnnxModel, choose_batch_size
from gzsurvey.model.checkpoint import CheckpointInfo
from gzsurvey.model.network import Network
from gzsurvey.votes.fractions import expected_fractions

PRECISIONS = ("fp16", "int8")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("precisions")
    paths = {precision: folder / f"{precision}.onnx" for precision in PRECISIONS}
    for precision, path in paths.items():
        export([checkpoint], path, precision=precision)  # type: ignore[arg-type]
    return paths


@pytest.fixture(scope="module")
def images(info: CheckpointInfo) -> np.ndarray:
    return decode_thumbnails(info.thumbnails, info.preparation.image_size)


def types(graph: onnx.GraphProto) -> Counter[int]:
    return Counter(tensor.data_type for tensor in graph.initializer)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_is_one_valid_file_with_heads_in_float32(files: dict[str, Path], precision: str) -> None:
    model = onnx.load(files[precision])
    onnx.checker.check_model(model, full_check=True)
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    heads = [kind for name, kind in weights.items() if ".heads." in name or ".calibrators." in name]
    assert heads
    assert set(heads) == {onnx.TensorProto.FLOAT}
    lower = onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.INT8
    assert types(model.graph)[lower] > 15
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert not [node for node in convolutions if weights.get(node.input[1]) == onnx.TensorProto.FLOAT]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_card_states_what_it_costs(files: dict[str, Path], exported: Path, images: np.ndarray, precision: str) -> None:
    card = OnnxModel(files[precision], "cpu").card
    assert (card.precision, card.calibrated_in) == (precision, "fp32")
    lower, exact = (OnnxModel(path, "cpu").run(images) for path in (files[precision], exported))
    assert card.votes is not None
    change = np.abs(
        expected_fractions(lower["concentration"], card.votes.tree)
        - expected_fractions(exact["concentration"], card.votes.tree)
    )
    stated = card.torch_loss["concentration"]
    limit = agreement.LIMITS[precision]  # type: ignore[index]
    assert 0 < stated.mean <= limit.mean
    assert stated.largest <= limit.largest
    # Measured again, over more images than the file was compared on for int8.
    assert change.mean() == pytest.approx(stated.mean, rel=0.5)
    assert f"| `concentration` | {stated.mean:.2g}" in files[precision].with_suffix(".md").read_text()


def test_one_extreme_pixel_does_not_coarsen_the_steps_of_all(network: Network, info: CheckpointInfo) -> None:
    proto = to_onnx(PixelsToOutputs(network, ("embedding",)).eval(), info.preparation)
    dark = np.random.default_rng(0).integers(0, 64, (128, 3, 64, 64), dtype=np.uint8)
    dark[7, 0, 30, 30] = 255
    graph = lowered(proto, "int8", dark).graph
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear")
    (scale,) = (onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == first.input[1])
    assert 63 / 255 < scale * 255 < 100 / 255


def test_half_precision_is_not_float32(files: dict[str, Path], exported: Path, images: np.ndarray) -> None:
    halves, exact = (OnnxModel(path, "cpu").run(images)["embedding"] for path in (files["fp16"], exported))
    assert files["fp16"].stat().st_size < 0.8 * exported.stat().st_size
    np.testing.assert_allclose(halves, exact, atol=0.01 * np.abs(exact).max())
    assert not np.array_equal(halves, exact)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_plain_onnxruntime_runs_it_at_any_batch(files: dict[str, Path], images: np.ndarray, precision: str) -> None:
    session = onnxruntime.InferenceSession(files[precision], providers=["CPUExecutionProvider"])
    whole = session.run(["embedding"], {"image": images})[0]
    np.testing.assert_array_equal(session.run(["embedding"], {"image": images[3:5]})[0], whole[3:5])


class Rough(torch.nn.Module):
    """Its embedding has values that half precision and integers cannot tell apart, and a head that tells them."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 9, stride=9), torch.nn.Flatten())
        self.heads = torch.nn.ModuleDict({"concentration": torch.nn.Linear(5 * 49, answers)})
        torch.nn.init.constant_(self.encoder[0].bias, 1000.0)  # type: ignore[arg-type]
        torch.nn.init.normal_(self.heads["concentration"].weight, 0.0, 5.0)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        embedding = self.encoder(images)
        return {
            "embedding": embedding,
            "concentration": 1 + 100 * torch.sigmoid(self.heads["concentration"](embedding - 1000.0)),
        }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_refused_where_it_costs_too_much(
    info: CheckpointInfo, images: np.ndarray, tmp_path: Path, precision: str
) -> None:
    head = info.heads[0]
    changes = {"embedding_size": 5 * 49, "heads": (head,), "calibration": {}}
    card = draft_card(info.model_copy(update=changes), "model")
    card = Card.model_validate({name: getattr(card, name) for name in Card.model_fields} | {"precision": precision})
    with pytest.raises(ExportError, match=f"{precision} changes 'concentration' by .* allowed are") as caught:
        keep(Rough(head.width), card, Pictures(images, images), tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_another_precision_under_the_same_name_is_refused(files: dict[str, Path], checkpoint: Path) -> None:
    with pytest.raises(OutputConflict, match="precision fp16, now fp32"):
        export([checkpoint], files["fp16"])


@pytest.mark.gpu
def test_on_a_gpu_half_precision_keeps_its_promise(files: dict[str, Path], exported: Path, images: np.ndarray) -> None:
    model, exact = OnnxModel(files["fp16"], "cuda", batch_size=16), OnnxModel(exported, "cpu").run(images)
    assert model.provider == "CUDAExecutionProvider"
    whole, reversed_rows = model.run(images), model.run(images[::-1])
    limit = agreement.LIMITS["fp16"]
    for name, values in whole.items():
        np.testing.assert_array_equal(reversed_rows[name][::-1], values)
        loss = agreement._loss(model, name, values, exact[name])
        assert loss.mean <= limit.mean
        assert loss.largest <= limit.largest


@pytest.mark.gpu
def test_on_a_gpu_the_batch_is_measured(files: dict[str, Path]) -> None:
    assert choose_batch_size(files["fp16"], "cuda") >= 32
