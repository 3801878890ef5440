"""One file that says what torch says, knows where it comes from, and tells nothing of this machine."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from gzsurvey.card import Card
from gzsurvey.errors import CardMismatch, ExportError, OutputConflict, RecipeError
from gzsurvey.export import export
from gzsurvey.export.agreement import TOLERANCE, _difference
from gzsurvey.export.graph import PixelsToOutputs
from gzsurvey.export.onnx import draft_card, keep
from gzsurvey.export.pictures import Pictures, decode_thumbnails, invented_images, travelling_pictures
from gzsurvey.inference.session import OnnxModel
from gzsurvey.model.checkpoint import CheckpointInfo
from gzsurvey.model.network import Network
from gzsurvey.votes.tree import DecisionTree


@pytest.fixture(scope="module")
def images(info: CheckpointInfo) -> np.ndarray:
    return decode_thumbnails(info.thumbnails, info.preparation.image_size)


@pytest.fixture(scope="module")
def proto(exported: Path) -> onnx.ModelProto:
    return onnx.load(exported)


@pytest.mark.parametrize("batch", [1, 2, 7, 32, 40])
def test_plain_onnxruntime_says_what_torch_says(
    exported: Path, network: Network, info: CheckpointInfo, images: np.ndarray, batch: int
) -> None:
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == ["embedding", *(head.output for head in info.heads)]
    found = session.run(names, {"image": images[-batch:]})
    with torch.no_grad():
        expected = network(torch.from_numpy(images[-batch:]).float() / 255)
    for name, values in zip(names, found, strict=True):
        np.testing.assert_allclose(values, expected[name].numpy(), rtol=TOLERANCE, atol=TOLERANCE)


def test_outputs_tell_galaxies_apart(exported: Path, images: np.ndarray) -> None:
    embedding = OnnxModel(exported, "cpu").run(images)["embedding"]
    assert embedding.std(axis=0).mean() > 10 * TOLERANCE * np.sqrt(np.mean(embedding**2))


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_row_does_not_depend_on_its_batch(exported: Path, images: np.ndarray, batch_size: int) -> None:
    whole = OnnxModel(exported, "cpu", batch_size=40).run(images)
    parts = OnnxModel(exported, "cpu", batch_size=batch_size, threads=2).run(images[::-1])
    for name, values in whole.items():
        np.testing.assert_array_equal(parts[name][::-1], values)


def test_card_records_differences_origin_and_versions(exported: Path, checkpoint: Path, info: CheckpointInfo) -> None:
    card = OnnxModel(exported, "cpu").card
    assert set(card.torch_difference) == set(card.outputs)
    assert all(0 <= value < 0.1 for value in card.torch_difference.values())
    assert card.heads == info.heads
    assert card.preparation == info.preparation
    assert card.thumbnails == info.thumbnails
    assert card.default_campaign == "gz2"
    assert len(card.checkpoint_sha256) == 64
    assert card.versions["opset"] == "20"
    assert card.versions["training: torch"] == "2.13.0"


def test_one_file_with_open_batch_and_folded_normalisation(exported: Path, proto: onnx.ModelProto) -> None:
    assert {path.name for path in exported.parent.iterdir()} == {"model.onnx", "model.md"}
    onnx.checker.check_model(proto, full_check=True)
    assert [item.domain for item in proto.opset_import if item.domain] == []
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    assert not [tensor for tensor in proto.graph.initializer if tensor.external_data]


def test_no_path_of_this_machine_travels_along(exported: Path, proto: onnx.ModelProto) -> None:
    assert [entry.key for entry in proto.metadata_props] == ["gzsurvey.card"]
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    content = exported.read_bytes() + exported.with_suffix(".md").read_bytes()
    here = [str(Path.home()), str(Path.cwd()), str(Path(torch.__file__).parent), str(exported.parent)]
    for path in here:
        assert path == "/" or path.encode() not in content
    assert not re.search(rb"/[\w.-]+/[\w./-]*\.py", content)


def test_page_for_people(exported: Path) -> None:
    page = exported.with_suffix(".md").read_text()
    for expected in (
        "simulated galaxies only",
        "**NON-COMMERCIAL: trained on pool under CC BY-NC-SA 4.0",
        "Willett et al. 2013",
        "`ring_probability`",
        "Range of r50 in training: 1.5 to 12",
        "`ood_score` is not available",
        "Agreement with torch",
    ):
        assert expected in page


def test_repeating_finishes_at_once_and_other_inputs_are_refused(
    exported: Path, checkpoint: Path, network: Network, info: CheckpointInfo, tmp_path: Path
) -> None:
    before = exported.stat().st_mtime_ns
    card = export([checkpoint], exported)
    assert card == OnnxModel(exported, "cpu").card
    assert exported.stat().st_mtime_ns == before
    from gzsurvey.model.checkpoint import save_checkpoint

    save_checkpoint(tmp_path, "best", network, info.model_copy(update={"epoch": 3}))
    with pytest.raises(OutputConflict, match="checkpoint"):
        export([tmp_path], exported)
    (tmp_path / "notes.onnx").write_text("mine")
    with pytest.raises(OutputConflict, match="did not write"):
        export([checkpoint], tmp_path / "notes.onnx")
    assert (tmp_path / "notes.onnx").read_text() == "mine"


class Small(torch.nn.Module):
    """Quick to trace. `factor`: what tracing alone sees differently; `divisor`: of its embedding."""

    def __init__(self, factor: float = 1.0, divisor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv = torch.nn.Conv2d(3, 5, 9, stride=9)
        self.votes, self.classes = torch.nn.Linear(5, DecisionTree.load("gz2").n_answers), torch.nn.Linear(5, 2)
        self.factor, self.divisor = factor, divisor

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        embedding = self.conv(images).mean(dim=(2, 3))
        votes = 1 + 100 * torch.sigmoid(self.votes(embedding))
        return {
            "embedding": embedding / self.divisor,
            "concentration": votes * self.factor if torch.compiler.is_exporting() else votes,
            "ring_probability": torch.softmax(self.classes(embedding), dim=1),
        }


@pytest.fixture
def small_card(info: CheckpointInfo) -> Card:
    return draft_card(
        info.model_copy(update={"embedding_size": 5, "heads": info.heads[:2], "calibration": {}}), "model"
    )


def refused(network: torch.nn.Module, card: Card, images: np.ndarray, folder: Path) -> str:
    with pytest.raises(ExportError) as caught:
        keep(network, card, Pictures(images, images), folder / "model.onnx")
    assert list(folder.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_that_disagrees_is_not_kept(small_card: Card, images: np.ndarray, tmp_path: Path) -> None:
    message = refused(Small(factor=1.01), small_card, images, tmp_path)
    assert "'concentration' differs from torch by 0.01" in message


def test_a_number_is_compared_in_its_standard_deviations() -> None:
    expected = np.array([[500.0, 0.1], [500.0, 10.0]], dtype=np.float32)
    difference, scale = _difference("number", expected + np.float32(0.01), expected)
    np.testing.assert_allclose(difference / scale, [[0.1, 0.1], [0.001, 0.001]], rtol=1e-2)


def test_an_output_that_is_not_finite_is_not_kept(small_card: Card, images: np.ndarray, tmp_path: Path) -> None:
    assert "'embedding' differs" in refused(Small(divisor=0.0), small_card, images, tmp_path)


def test_a_card_that_does_not_fit_is_not_kept(small_card: Card, images: np.ndarray, tmp_path: Path) -> None:
    card = small_card.model_copy(update={"embedding_size": 7})
    assert "embedding (batch, 7)" in refused(Small(), card, images, tmp_path)


def test_bad_requests_are_one_line_each(checkpoint: Path, info: CheckpointInfo, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="stands twice"):
        export([checkpoint, checkpoint], tmp_path / "m.onnx")
    with pytest.raises(RecipeError, match="no checkpoint"):
        export([tmp_path / "nothing"], tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="there is no directory"):
        export([checkpoint], tmp_path / "none" / "m.onnx")
    with pytest.raises(ExportError, match="must end in"):
        export([checkpoint], tmp_path / "model")
    with pytest.raises(ExportError, match="gz3"):
        export([checkpoint], tmp_path / "m.onnx", campaign="gz3")
    with pytest.raises(ExportError, match="finetune"):
        draft_card(info.model_copy(update={"heads": ()}), "m")


def test_said_aloud(exported: Path) -> None:
    text = str(OnnxModel(exported, "cpu").card)
    assert "NON-COMMERCIAL: trained on pool" in text
    assert "Largest difference from torch: embedding" in text
    assert "not for real sky" in text


def test_scales_pixels_inside(network: Network) -> None:
    model = PixelsToOutputs(network, ["embedding"])
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(model(white)[0], network(torch.ones(1, 3, 64, 64))["embedding"])


def test_images_to_compare_on(info: CheckpointInfo) -> None:
    assert travelling_pictures(info.thumbnails[:3], 64, "fp16").compared.shape == (3, 3, 64, 64)
    assert travelling_pictures(info.thumbnails[:3], 48, "fp32").compared.shape == (3, 3, 48, 48)
    halves = travelling_pictures(info.thumbnails[:5], 64, "int8")
    assert (len(halves.ranged), len(halves.compared)) == (3, 2)
    invented = travelling_pictures((), 48, "fp32").compared
    assert invented.shape == (32, 3, 48, 48)
    assert invented.std() > 5
    np.testing.assert_array_equal(invented, invented_images(48))


class Plain(torch.nn.Module):
    """Another architecture than any of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 24, 8, stride=8)
        layer = torch.nn.TransformerEncoderLayer(24, 4, 48, dropout=0.0, batch_first=True)
        self.mixer = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.votes = torch.nn.Linear(24, 5)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.patches(image.float() / 255).flatten(2).transpose(1, 2)
        embedding = self.mixer(tokens).mean(dim=1)
        return embedding, 1 + torch.nn.functional.softplus(self.votes(embedding))


@pytest.fixture(scope="module")
def hand_written_card() -> str:
    page = Path(__file__).parents[2] / "docs" / "reference" / "card.md"
    (block,) = re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL)
    return str(block)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path: Path = tmp_path_factory.mktemp("foreign") / "foreign.onnx"
    torch.onnx.export(
        Plain().eval(),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8),),
        path,
        dynamo=True,
        input_names=["image"],
        output_names=["embedding", "concentration"],
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
        external_data=False,
        verbose=False,
    )
    return path


def test_a_model_of_others_with_a_card_by_hand_works(foreign: Path, hand_written_card: str, tmp_path: Path) -> None:
    model = onnx.load(foreign)
    onnx.helper.set_model_props(model, {"gzsurvey.card": hand_written_card})
    path = tmp_path / "with-card.onnx"
    onnx.save(model, path)
    opened = OnnxModel(path, "cpu", batch_size=4)
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 64, 64), dtype=np.uint8)
    outputs = opened.run(images)
    assert outputs["concentration"].shape == (9, 5)
    assert (outputs["concentration"] > 1).all()
    np.testing.assert_array_equal(opened.run(images[5:6])["embedding"], outputs["embedding"][5:6])


def test_a_model_of_others_without_card_is_refused(foreign: Path) -> None:
    with pytest.raises(CardMismatch, match="has no card"):
        OnnxModel(foreign, "cpu")


def test_exports_quietly_and_the_same_each_time(
    small_card: Card, images: np.ndarray, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        keep(Small(), small_card, Pictures(images, images), tmp_path / name / "model.onnx")
        contents.append((tmp_path / name / "model.onnx").read_bytes())
    assert contents[0] == contents[1]
    assert capfd.readouterr() == ("", "")
