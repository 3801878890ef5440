from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gzsurvey.card import ClassesHead, VotesHead
from gzsurvey.errors import RecipeError
from gzsurvey.model.checkpoint import (
    METADATA_KEY,
    CheckpointInfo,
    find_checkpoint,
    load_network,
    read_info,
    save_checkpoint,
)
from gzsurvey.model.encoder import create_encoder
from gzsurvey.model.network import Network
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.votes.tree import DecisionTree

HEADS = (
    VotesHead(questions=tuple(DecisionTree.load("gz2").to_json())),
    ClassesHead(task="ring", classes=("no", "yes"), balance={"no": 0.7, "yes": 0.3}),
)


@pytest.fixture
def saved(tmp_path: Path, tiny: str) -> tuple[Path, Network]:
    network = Network(create_encoder(tiny), HEADS).eval()
    info = CheckpointInfo(
        encoder=tiny,
        embedding_size=network.embedding_size,
        heads=HEADS,
        preparation=Preparation(image_size=32),
        trained_by="pretrain",
        training_cells={"voted": (1, 2**36), "seen": ()},
    )
    save_checkpoint(tmp_path, "best", network, info)
    return tmp_path, network


def test_outputs_and_their_ranges(saved: tuple[Path, Network]) -> None:
    outputs = saved[1](torch.rand(5, 3, 32, 32))
    assert list(outputs) == ["embedding", "concentration", "ring_probability"]
    assert outputs["embedding"].shape == (5, saved[1].embedding_size)
    assert outputs["concentration"].shape == (5, HEADS[0].width)
    assert outputs["concentration"].min() >= 1
    assert torch.allclose(outputs["ring_probability"].sum(dim=1), torch.ones(5))


def test_a_loaded_network_predicts_the_same_bits_every_time(saved: tuple[Path, Network]) -> None:
    loaded, info = load_network(find_checkpoint(str(saved[0])))
    images = torch.rand(5, 3, 32, 32)
    for _ in range(2):
        for name, value in saved[1](images).items():
            assert torch.equal(value, loaded(images)[name])
    assert info.training_cells == {"voted": (1, 2**36), "seen": ()}
    assert info.heads == HEADS


@pytest.mark.parametrize("name", ["", "best.safetensors", "best.json"])
def test_a_checkpoint_is_found_by_folder_or_file(saved: tuple[Path, Network], name: str) -> None:
    assert find_checkpoint(str(saved[0] / name)) == saved[0] / "best.safetensors"


def test_the_weights_alone_are_enough(saved: tuple[Path, Network]) -> None:
    (saved[0] / "best.json").unlink()
    load_network(saved[0] / "best.safetensors")


def test_nothing_is_left_aside(saved: tuple[Path, Network]) -> None:
    assert sorted(path.name for path in saved[0].iterdir()) == ["best.json", "best.safetensors"]


def refused(path: Path, match: str) -> None:
    with pytest.raises(RecipeError, match=match) as caught:
        load_network(find_checkpoint(str(path)))
    assert "\n" not in str(caught.value)


def test_missing_damaged_foreign_and_newer_files_are_refused_in_one_line(saved: tuple[Path, Network]) -> None:
    out, network = saved
    refused(out / "nothing", "is no checkpoint")
    (out / "empty").mkdir()
    refused(out / "empty", r"holds no best\.safetensors")
    whole = (out / "best.safetensors").read_bytes()
    (out / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(out / "cut.safetensors", "is damaged")
    (out / "text.safetensors").write_bytes(b"not weights")
    refused(out / "text.safetensors", "is damaged")
    save_file({"a": torch.zeros(1)}, out / "foreign.safetensors")
    refused(out / "foreign.safetensors", "no checkpoint of gzsurvey")
    newer = read_info(out / "best.safetensors").model_dump_json().replace('"format_version":1', '"format_version":2')
    save_file(network.state_dict(), out / "newer.safetensors", {METADATA_KEY: newer})
    refused(out / "newer.safetensors", "format 2")
    info = read_info(out / "best.safetensors").model_dump_json()
    save_file({"a": torch.zeros(1)}, out / "other.safetensors", {METADATA_KEY: info})
    refused(out / "other.safetensors", "do not fit")
