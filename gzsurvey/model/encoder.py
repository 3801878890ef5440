"""Encoders: any network of timm, from scratch or from published weights in safe formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from gzsurvey.errors import RecipeError
from gzsurvey.model.flux_stretch import stretch_flux
from gzsurvey.model.timm_import import import_timm
from gzsurvey.recipes.preparation import Preparation

_FILES = ("config.json", "model.safetensors")
_HUB = ("hf_hub:", "hf-hub:")


def create_encoder(
    name: str, preparation: Preparation | None = None, *, pretrained: bool = False, drop_path: float = 0.0
) -> nn.Module:
    """Build an encoder without its classifier: images (N, 3, H, W) to embeddings (N, D).

    Parameters
    ----------
    name : str
        A timm name, a local folder in the hub's layout (``config.json`` and
        ``model.safetensors``), or ``hf_hub:OWNER/NAME``. The latter two bring weights.
    preparation : Preparation, optional
        Of its images; pictures if not given.
    pretrained : bool
        Start from the weights that timm publishes for `name` (a download).
    drop_path : float
        Stochastic depth, where the encoder has residual branches.

    Returns
    -------
    nn.Module
        `embedding_size` gives its D.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such encoder, or its weights are in no safe format or cannot be fetched.
    """
    folder = _folder(name, pretrained)
    options = {"drop_path_rate": drop_path} if drop_path else {}
    encoder = _create(name if folder is None else f"local-dir:{folder}", name, folder is not None, options)
    if folder is not None:
        _refuse_special_options(encoder, name)
    if preparation is not None and preparation.is_flux:
        stretch_flux(encoder, preparation.stretch)
    return encoder


def is_encoder(name: str) -> bool:
    """Whether `create_encoder` can make `name`: by its name alone, without a download."""
    return name.startswith(_HUB) or _is_hub_folder(Path(name)) or bool(import_timm().is_model(name))


def architecture(encoder: nn.Module) -> str:
    """Return the timm name that builds the encoder again, without its weights."""
    settings: Any = encoder.pretrained_cfg
    return str(settings["architecture"])


def embedding_size(encoder: nn.Module) -> int:
    """Return D, the length of the encoder's embedding."""
    size = getattr(encoder, "head_hidden_size", None) or encoder.num_features
    assert isinstance(size, int)
    return size


def parameter_depths(encoder: nn.Module) -> dict[str, int]:
    """Say how deep each parameter lies: 0 for those next to the image, rising to the embedding."""
    from timm.models import group_parameters

    matcher: Any = encoder.group_matcher
    depths: dict[str, int] = group_parameters(encoder, matcher(coarse=False), reverse=True)
    return depths


def _create(source: str, name: str, with_weights: bool, options: dict[str, Any]) -> nn.Module:
    try:
        encoder: nn.Module = import_timm().create_model(
            source, pretrained=with_weights, num_classes=0, in_chans=3, **options
        )
    except SafetensorError as error:
        raise RecipeError(name, f"its {_FILES[1]} is damaged or of another format: {_first_line(error)}") from None
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise RecipeError(name, f"is no encoder that timm can make: {_first_line(error)}") from None
    return encoder


def _folder(name: str, pretrained: bool) -> str | None:
    """Return the local folder that holds the weights to start from; None: from scratch."""
    if name.startswith(_HUB):
        return _fetch(name, name[len(_HUB[0]) :])
    if _is_hub_folder(Path(name)):
        return str(Path(name).resolve())
    if Path(name).is_dir():
        raise RecipeError(name, f"must hold {' and '.join(_FILES)} to be used as an encoder")
    if not pretrained:
        return None
    settings = import_timm().get_pretrained_cfg(name)
    if settings is None or not settings.hf_hub_id:
        raise RecipeError(name, "timm publishes no weights for it in a safe format; set encoder.pretrained to 'no'")
    return _fetch(name, settings.hf_hub_id)


def _is_hub_folder(path: Path) -> bool:
    return all((path / file).is_file() for file in _FILES)


def _fetch(name: str, repository: str) -> str:
    """Download description and safe weights alone; nothing that would be unpickled."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = Path(snapshot_download(repository, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise RecipeError(name, f"cannot be fetched: {_first_line(error)}") from None
    if not _is_hub_folder(folder):
        raise RecipeError(name, f"has no {' and '.join(_FILES)}; other formats are not read, as they can hold code")
    return str(folder)


def _refuse_special_options(encoder: nn.Module, name: str) -> None:
    """A checkpoint names an architecture alone: refuse what its name does not build again."""
    with torch.device("meta"):
        plain = import_timm().create_model(architecture(encoder), num_classes=0, in_chans=3)
    shapes = {key: value.shape for key, value in plain.state_dict().items()}
    if shapes != {key: value.shape for key, value in encoder.state_dict().items()}:
        raise RecipeError(name, f"differs from timm's {architecture(encoder)!r} in its layers, which is not supported")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
