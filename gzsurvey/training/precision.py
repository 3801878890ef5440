"""In what numbers a network computes, and whether torch compiles it."""

from __future__ import annotations

import os
import shutil

import torch

from gzsurvey.errors import TrainingError

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FIRST_SCALE = 2.0**10
"""Of losses in float16. With torch's own, 2^16, the votes of a fresh network skip several steps."""


def autocast_type(name: str, device: torch.device) -> torch.dtype:
    """Return the type of the recipe's `precision`: ``auto`` is bfloat16 on a GPU, float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return _TYPES[name]


def make_scaler(kind: torch.dtype, device: torch.device) -> torch.amp.GradScaler:
    """Return what keeps small gradients of float16 above 0; for other types it does nothing."""
    return torch.amp.GradScaler(device.type, init_scale=_FIRST_SCALE, enabled=kind is torch.float16)


def compile_online(encoder: torch.nn.Module) -> None:
    """Let torch compile `encoder` when it is first called; the names of its weights stay.

    Raises
    ------
    gzsurvey.errors.TrainingError
        There is no C++ compiler, which torch needs for it.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise TrainingError(
            f"compile 'online' needs the C++ compiler {compiler!r}, which is not here; set it to 'none'"
        )
    encoder.compile()
