"""Encoders: any network of timm, from scratch or from published weights in safe formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from gzsurvey.errors import RecipeError
from gzsurvey.model.timm_import import import_timm


def create_encoder(name: str, *, pretrained: bool = False, drop_path: float = 0.0) -> nn.Module:
    """Build an encoder without its classifier: images (N, 3, H, W) to embeddings (N, D).

    Parameters
    ----------
    name : str
        A timm name, a local folder in the hub's layout (``config.json`` and
        ``model.safetensors``), or ``hf_hub:OWNER/NAME``. The latter two bring weights.
    pretrained : bool
        Start from the weights timm publishes for `name`.
    drop_path : float
        Stochastic depth, where the encoder has residual branches.

    Returns
    -------
    nn.Module
        With `num_features` = D.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such encoder, or its weights are in no safe format.
    """
    timm = import_timm()
    options: dict[str, Any] = {"num_classes": 0, "in_chans": 3}
    if drop_path:
        options["drop_path_rate"] = drop_path
    source, weights = _source(name)
    try:
        encoder: nn.Module = timm.create_model(source, pretrained=pretrained or weights, **options)
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise RecipeError(name, f"is no encoder that timm can make: {_first_line(error)}") from None
    return encoder


def embedding_size(encoder: nn.Module) -> int:
    """Return D, the length of the encoder's embedding."""
    head = getattr(encoder, "head_hidden_size", None) or encoder.num_features
    assert isinstance(head, int)
    return head


def _source(name: str) -> tuple[str, bool]:
    """Return the name as timm wants it, and whether weights come with it."""
    if name.startswith(("hf_hub:", "hf-hub:")):
        return name.replace("hf_hub:", "hf-hub:"), True
    folder = Path(name)
    if not folder.is_dir():
        return name, False
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise RecipeError(name, "must hold config.json and model.safetensors to be used as an encoder")
    return f"local-dir:{folder.resolve()}", True


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
