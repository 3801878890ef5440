"""A model file is what its card says, or it is refused; each row is predicted for itself."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from gzsurvey.card import METADATA_KEY, Card
from gzsurvey.errors import CardMismatch, GZSurveyError, RecipeError
from gzsurvey.inference import choose_batch_size, provider
from gzsurvey.inference.session import OnnxModel, images_on_a_cpu
from gzsurvey.recipes.preparation import Stretch

Build = Callable[..., bytes]


def test_gives_what_plain_onnxruntime_gives(model_file: Path, images: np.ndarray) -> None:
    ours = OnnxModel(model_file, "cpu").run(images)
    session = onnxruntime.InferenceSession(model_file, providers=["CPUExecutionProvider"])
    plain = session.run(["embedding", "concentration", "ring_probability"], {"image": images})
    assert list(ours) == ["embedding", "concentration", "ring_probability"]
    for name, values in zip(ours, plain, strict=True):
        assert ours[name].dtype == np.float32
        np.testing.assert_array_equal(ours[name], values)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 32, 100])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_does_not_depend_on_its_batch(
    model_file: Path, images: np.ndarray, batch_size: int, threads: int
) -> None:
    reference = OnnxModel(model_file, "cpu").run(images)
    model = OnnxModel(model_file, "cpu", threads=threads, batch_size=batch_size)
    order = np.random.default_rng(batch_size).permutation(len(images))
    shuffled = model.run(images[order])
    for name, values in reference.items():
        np.testing.assert_array_equal(shuffled[name], values[order])


def test_a_cpu_is_given_what_its_cache_holds(model_file: Path) -> None:
    assert [images_on_a_cpu(size) for size in (32, 64, 128, 224, 600)] == [32, 32, 8, 4, 4]
    assert OnnxModel(model_file, "cpu").batch_size == choose_batch_size(model_file, "cpu") == 32


KEPT_THREADS = """
import sys, time
from pathlib import Path
import numpy as np
import psutil
from gzsurvey.inference.session import OnnxModel

images = np.zeros((20, 3, 32, 32), np.uint8)
path = Path(sys.argv[1])
OnnxModel(path, "cpu").run(images)
before = {thread.id for thread in psutil.Process().threads()}
session = OnnxModel(path, "cpu", threads=4, batch_size=8)
session.run(images)
deadline = time.monotonic() + 20
while (kept := {thread.id for thread in psutil.Process().threads()} - before) and time.monotonic() < deadline:
    time.sleep(0.02)
print(len(kept))
"""


def test_a_session_keeps_no_threads_of_its_own(model_file: Path) -> None:
    """Several workers of one machine share its cores; a joined thread may take a moment to leave the kernel."""
    command = [sys.executable, "-c", KEPT_THREADS, str(model_file)]
    assert subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout == "0\n"


def test_no_image_gives_no_row(model_file: Path, images: np.ndarray) -> None:
    empty = OnnxModel(model_file, "cpu").run(images[:0])
    assert {name: values.shape for name, values in empty.items()} == {
        "embedding": (0, 6),
        "concentration": (0, 5),
        "ring_probability": (0, 2),
    }


def test_knows_its_file_provider_and_versions(model_file: Path, card: Card) -> None:
    model = OnnxModel(model_file, "auto")
    assert model.card == card
    assert model.sha256 == hashlib.sha256(model_file.read_bytes()).hexdigest()
    assert model.provider in {"CPUExecutionProvider", "CUDAExecutionProvider"}
    assert model.versions["onnxruntime"] == onnxruntime.__version__


@pytest.mark.skipif(provider.cuda_devices() > 0, reason="a GPU is here")
def test_cuda_asked_for_by_name_never_becomes_the_cpu(model_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RecipeError, match="use auto or cpu") as caught:
        OnnxModel(model_file, "cuda")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(provider.cuda_devices() > 0, reason="a GPU is here")
def test_a_gpu_that_cannot_be_used_is_no_reason_to_be_slow_in_silence(
    model_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(provider, "cuda_devices", lambda: 1)
    with pytest.raises(RecipeError, match=r"a GPU is here, but .*provider cpu does without it"):
        OnnxModel(model_file, "auto")
    assert capfd.readouterr() == ("", "")
    assert OnnxModel(model_file, "cpu").provider == provider.CPU


@pytest.mark.gpu
def test_on_a_gpu_rows_are_equal_and_near_the_cpu(model_file: Path, images: np.ndarray) -> None:
    model = OnnxModel(model_file, "cuda", batch_size=16)
    assert model.provider == "CUDAExecutionProvider"
    whole, tail = model.run(images), model.run(images[3:8])
    cpu = OnnxModel(model_file, "cpu").run(images)
    for name in whole:
        np.testing.assert_array_equal(tail[name], whole[name][3:8])
        np.testing.assert_allclose(whole[name], cpu[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (np.zeros((2, 3, 16, 16), np.uint8), "takes uint8 images of shape (N, 3, 32, 32), got uint8 of shape"),
        (np.zeros((2, 32, 32, 3), np.uint8), "takes uint8 images"),
        (np.zeros((2, 3, 32, 32), np.float32), "got float32"),
    ],
)
def test_refuses_other_images(model_file: Path, images: np.ndarray, expected: str) -> None:
    with pytest.raises(CardMismatch) as caught:
        OnnxModel(model_file, "cpu").run(images)
    assert expected in str(caught.value)


def refused(path: Path, content: bytes | None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CardMismatch) as caught:
        OnnxModel(path, "cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_refuses_what_is_no_model(tmp_path: Path, model_file: Path) -> None:
    path = tmp_path / "bad.onnx"
    assert "cannot be read" in refused(path, None)
    assert "is empty" in refused(path, b"")
    assert "truncated, or no ONNX file" in refused(path, b"\x89PNG\r\n not a model")
    whole = model_file.read_bytes()
    for share in (0.02, 0.3, 0.5, 0.9, 0.999):
        message = refused(path, whole[: int(len(whole) * share)])
        assert "expected" in message or "no card" in message
    assert "cannot be read" in refused(tmp_path, None)


def test_refuses_a_model_without_card(tmp_path: Path, built: Build) -> None:
    message = refused(tmp_path / "bare.onnx", built({}))
    assert "has no card" in message
    assert "preparation" in message
    assert "heads" in message


def test_refuses_a_card_of_another_version(tmp_path: Path, built: Build, card: Card) -> None:
    other = card.model_dump_json().replace('"card_version":1', '"card_version":2')
    assert "card_version: Input should be 1" in refused(tmp_path / "next.onnx", built({METADATA_KEY: other}))


def test_refuses_a_foreign_question_tree(tmp_path: Path, built: Build, card: Card) -> None:
    message = refused(tmp_path / "foreign.onnx", built(card.to_metadata(), answers=9))
    assert "concentration (batch, 5)" in message
    assert "concentration float (batch, 9)" in message


def test_refuses_other_inputs(tmp_path: Path, built: Build, card: Card) -> None:
    path = tmp_path / "other.onnx"
    expected = "must have one input 'image', uint8, shape (batch, 3, 32, 32)"
    assert expected in refused(path, built(card.to_metadata(), input_name="x"))
    assert expected in refused(path, built(card.to_metadata(), size=64))
    stretch = Stretch(kind="flux")
    flux = card.model_copy(
        update={"input_type": "float32", "preparation": card.preparation.model_copy(update={"stretch": stretch})}
    )
    assert "'image', float32" in refused(path, built(flux.to_metadata()))


def test_refuses_a_card_whose_input_and_stretch_differ(tmp_path: Path, built: Build, card: Card) -> None:
    torn = card.model_copy(update={"input_type": "float32"})
    assert "'float32' and 'flux' belong together" in refused(tmp_path / "torn.onnx", built(torn.to_metadata()))


def test_an_output_of_unknown_width_is_checked_when_it_comes(tmp_path: Path, built: Build, card: Card) -> None:
    model = onnx.load_from_string(built(card.to_metadata(), answers=9))
    last = next(node for node in model.graph.node if "concentration" in node.output)
    last.output[0] = "all"
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["positive", "rows"], ["most"], keepdims=0),
            helper.make_node("ReduceMin", ["positive"], ["least"], keepdims=0),
            helper.make_node("GreaterOrEqual", ["most", "least"], ["every"]),
            helper.make_node("Compress", ["all", "every"], ["concentration"], axis=1),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "rows"))
    concentration = next(output for output in model.graph.output if output.name == "concentration")
    concentration.type.tensor_type.shape.dim[1].dim_param = "n"
    path = tmp_path / "vague.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CardMismatch, match="'concentration' has shape"):
        OnnxModel(path, "cpu").run(np.zeros((2, 3, 32, 32), np.uint8))


def test_an_unknown_provider_is_refused(model_file: Path) -> None:
    with pytest.raises(GZSurveyError, match="must be auto, cpu, cuda or tensorrt"):
        OnnxModel(model_file, "tpu")  # type: ignore[arg-type]


def test_inference_needs_no_torch() -> None:
    code = "import sys, gzsurvey.inference; raise SystemExit('torch' in sys.modules or 'onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
