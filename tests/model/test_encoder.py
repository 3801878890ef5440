from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gzsurvey.errors import RecipeError
from gzsurvey.model.encoder import architecture, create_encoder, embedding_size, is_encoder, parameter_depths


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext2", "mobilenetv4_conv_small_050", "efficientnet_b0"])
def test_embedding_size_is_what_comes_out(name: str) -> None:
    encoder = create_encoder(name).eval()
    with torch.inference_mode():
        assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, embedding_size(encoder))
    assert architecture(encoder) == name


def test_the_papers_encoder_has_1280_features() -> None:
    assert embedding_size(create_encoder("efficientnet_b0")) == 1280


def hub_folder(path: Path, tiny: str) -> torch.nn.Module:
    encoder = create_encoder(tiny)
    path.mkdir()
    config = {"architecture": tiny, "num_classes": 0, "pretrained_cfg": {"num_classes": 0, "input_size": [3, 64, 64]}}
    (path / "config.json").write_text(json.dumps(config))
    save_file(encoder.state_dict(), path / "model.safetensors")
    return encoder


def test_a_local_folder_in_the_hubs_layout_brings_its_weights(tmp_path: Path, tiny: str) -> None:
    saved = hub_folder(tmp_path / "encoder", tiny)
    loaded = create_encoder(str(tmp_path / "encoder"))
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), loaded.parameters(), strict=True))
    assert architecture(loaded) == tiny
    assert is_encoder(str(tmp_path / "encoder"))


def test_weights_that_could_hold_code_are_refused(tmp_path: Path, tiny: str) -> None:
    hub_folder(tmp_path / "encoder", tiny)
    (tmp_path / "encoder" / "model.safetensors").rename(tmp_path / "encoder" / "pytorch_model.bin")
    with pytest.raises(RecipeError, match=r"model\.safetensors"):
        create_encoder(str(tmp_path / "encoder"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own cache on disk, holding what was downloaded before; nothing else can be reached."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def downloaded(hub: Path, repository: str, tiny: str) -> torch.nn.Module:
    folder = hub / f"models--{repository.replace('/', '--')}"
    revision = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    (folder / "snapshots").mkdir()
    return hub_folder(folder / "snapshots" / revision, tiny)


@pytest.mark.parametrize(
    ("name", "repository", "pretrained"),
    [
        ("hf_hub:zoo/galaxies", "zoo/galaxies", False),
        ("hf-hub:zoo/galaxies", "zoo/galaxies", False),
        ("test_resnet", "timm/test_resnet.r160_in1k", True),
    ],
)
def test_weights_of_the_hub_and_of_timm_come_through_the_hubs_cache(
    hub: Path, tiny: str, name: str, repository: str, pretrained: bool
) -> None:
    saved = downloaded(hub, repository, tiny)
    loaded = create_encoder(name, pretrained=pretrained)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), loaded.parameters(), strict=True))
    assert architecture(loaded) == tiny


def test_a_repository_without_safe_weights_is_refused(hub: Path, tiny: str) -> None:
    downloaded(hub, "zoo/pickled", tiny)
    (weights,) = hub.rglob("model.safetensors")
    torch.save({}, weights.with_name("pytorch_model.bin"))
    weights.unlink()
    with pytest.raises(RecipeError, match="other formats are not read, as they can hold code"):
        create_encoder("hf_hub:zoo/pickled")
    with pytest.raises(RecipeError, match="hf_hub:zoo/absent: cannot be fetched") as caught:
        create_encoder("hf_hub:zoo/absent")
    assert "\n" not in str(caught.value)


def test_a_pickle_under_the_name_of_safe_weights_is_not_opened(tmp_path: Path, tiny: str) -> None:
    encoder = hub_folder(tmp_path / "encoder", tiny)
    torch.save(encoder.state_dict(), tmp_path / "encoder" / "model.safetensors")
    with pytest.raises(RecipeError, match=r"encoder: its model\.safetensors is damaged or of another format") as caught:
        create_encoder(str(tmp_path / "encoder"))
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_one_line() -> None:
    with pytest.raises(RecipeError, match="resnet1000") as caught:
        create_encoder("resnet1000")
    assert "\n" not in str(caught.value)
    assert not is_encoder("resnet1000")


def test_depths_rise_from_the_image_to_the_embedding(tiny: str) -> None:
    encoder = create_encoder(tiny)
    depths = parameter_depths(encoder)
    assert set(depths) == {name for name, _ in encoder.named_parameters()}
    values = [depths[name] for name, _ in encoder.named_parameters()]
    assert values[0] == 0
    assert values[-1] == max(values) > 3


@pytest.mark.remote
def test_published_weights_are_fetched_in_a_safe_format() -> None:
    encoder = create_encoder("hf_hub:timm/test_resnet.r160_in1k")
    assert architecture(encoder) == "test_resnet"
    assert architecture(create_encoder("test_resnet", pretrained=True)) == "test_resnet"
