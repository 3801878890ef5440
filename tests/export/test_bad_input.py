"""A file that is no model, or no model for this, is refused by the commands in one line that says what is expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper
from safetensors.torch import save_file
from survey import tiny

from gzsurvey.card import METADATA_KEY as CARD_KEY
from gzsurvey.card import Card, VotesHead
from gzsurvey.cli import cli
from gzsurvey.model.checkpoint import METADATA_KEY, CheckpointInfo, save_checkpoint
from gzsurvey.model.encoder import create_encoder
from gzsurvey.model.network import Network
from gzsurvey.recipes.preparation import Preparation

SIZE = tiny.SIZE


def one_line(*arguments: str | Path) -> str:
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exit_code == 1, done.output
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny.write_model(tmp_path_factory.mktemp("model") / "model.onnx").read_bytes()


def changed(model: bytes, change: Callable[[onnx.ModelProto], Any]) -> bytes:
    proto = onnx.load_from_string(model)
    change(proto)
    return proto.SerializeToString()


def card_with(**changes: Any) -> Callable[[onnx.ModelProto], None]:
    described = tiny.card()
    values = {name: getattr(described, name) for name in Card.model_fields} | changes
    return lambda proto: helper.set_model_props(proto, Card.model_construct(**values).to_metadata())


def shape(*sizes: str | int) -> Callable[[onnx.ModelProto], None]:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, sizes)
    return lambda proto: proto.graph.input[0].CopyFrom(image)


def four_channels(proto: onnx.ModelProto) -> None:
    kernel = next(tensor for tensor in proto.graph.initializer if tensor.name == "kernel")
    values = onnx.numpy_helper.to_array(kernel).repeat(2, axis=1)[:, :4]
    kernel.CopyFrom(onnx.numpy_helper.from_array(values, "kernel"))
    shape("batch", 4, SIZE, SIZE)(proto)


FOREIGN = VotesHead(questions=(tiny.QUESTIONS[0],))
MODELS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "without a card": (
        lambda model: changed(model, lambda proto: helper.set_model_props(proto, {})),
        f"has no card: metadata '{CARD_KEY}' must be JSON with at least name, created, preparation",
    ),
    "a card of another version": (
        lambda model: changed(model, card_with(card_version=2)), "card_version: Input should be 1"),
    "a fixed batch": (
        lambda model: changed(model, shape(8, 3, SIZE, SIZE)),
        f"must have one input 'image', uint8, shape (batch, 3, {SIZE}, {SIZE}) with a dynamic batch; it has",
    ),
    "images of another size": (
        lambda model: changed(model, shape("batch", 3, 64, 64)), f"shape (batch, 3, {SIZE}, {SIZE})"),
    "four channels": (lambda model: changed(model, four_channels), f"shape (batch, 3, {SIZE}, {SIZE})"),
    "a foreign question tree": (
        lambda model: changed(model, card_with(heads=(FOREIGN, *tiny.card().heads[1:]))),
        "its card (question tree, tasks) needs float32 outputs embedding (batch, 6), concentration (batch, 3)",
    ),
    "another embedding": (lambda model: changed(model, card_with(embedding_size=7)), "embedding (batch, 7)"),
    "truncated": (
        lambda model: model[: len(model) // 3], "is truncated, or no ONNX file; expected one with a gzsurvey card"),
    "empty": (lambda _model: b"", "is empty; expected an ONNX file with a gzsurvey card"),
    "a picture": (lambda _model: b"\x89PNG\r\n", "is truncated, or no ONNX file"),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_model_file_that_is_not_what_a_survey_needs(model: bytes, tmp_path: Path, name: str) -> None:
    spoil, expected = MODELS[name]
    path = tmp_path / "bad.onnx"
    path.write_bytes(spoil(model))
    targets = tiny.write_targets(tmp_path / "targets.csv", 5)
    line = one_line("plan", "--model", path, "--targets", targets, "--cutouts", "synthetic:", "--out", tmp_path / "run")
    assert expected in line
    assert str(path) in line
    assert not (tmp_path / "run").exists()


def described(network: Network, **changes: Any) -> CheckpointInfo:
    info = CheckpointInfo(
        encoder="test_resnet", embedding_size=network.embedding_size, heads=(FOREIGN,),
        preparation=Preparation(image_size=32), trained_by="pretrain",
    )  # fmt: skip
    return info.model_copy(update=changes)


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(create_encoder("test_resnet"), (FOREIGN,))


def newer(network: Network, folder: Path) -> None:
    save_checkpoint(folder, "best", network, described(network, format_version=2))


def cut(network: Network, folder: Path) -> None:
    path = save_checkpoint(folder, "best", network, described(network))
    path.write_bytes(path.read_bytes()[:5000])


def other_weights(network: Network, folder: Path) -> None:
    info = described(network).model_dump_json()
    save_file({"stem.weight": torch.zeros(8, 4, 3, 3)}, folder / "best.safetensors", {METADATA_KEY: info})


def other_tree(network: Network, folder: Path) -> None:
    heads = (VotesHead(questions=tiny.QUESTIONS),)
    save_checkpoint(folder, "best", network, described(network, heads=heads))


CHECKPOINTS: dict[str, tuple[Callable[[Network, Path], None], str]] = {
    "of another version": (newer, "format 2"),
    "truncated": (cut, "expected a file as 'pretrain' or 'finetune' wrote it"),
    "of other layers": (other_weights, "encoder.conv1.0.weight is absent, expected ["),
    "of another question tree": (other_tree, "heads.concentration.linear.weight is [3, 96], expected [5, 96]"),
    "of nothing": (lambda _network, _folder: None, "holds no best.safetensors"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_cannot_be_exported(network: Network, tmp_path: Path, name: str) -> None:
    spoil, expected = CHECKPOINTS[name]
    (tmp_path / "trained").mkdir()
    spoil(network, tmp_path / "trained")
    line = one_line("export", tmp_path / "trained", tmp_path / "model.onnx")
    assert expected in line
    assert str(tmp_path / "trained") in line
    assert not (tmp_path / "model.onnx").exists()
