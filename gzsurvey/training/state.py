"""What a stopped training needs to go on as if it had never stopped.

Batches, views and dropout are functions of seed and step, so no random state is kept: the
weights of all networks, their buffers, the optimiser's moments and a few counters are all.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from gzsurvey.errors import RecipeError
from gzsurvey.model.checkpoint import load_weights, read_tensors, save_tensors, write_aside
from gzsurvey.progress import Progress
from gzsurvey.recipes.base import Section

FILE, PREVIOUS = "last-training.safetensors", "previous-training.safetensors"
_KEY = "gzsurvey.progress"
_MODEL, _OPTIMISER = "model.", "optimiser."


class TrainingProgress(Section):
    """How far a training is."""

    step: int = 0
    """Steps finished."""
    best: float | None = None
    """Lowest validation loss so far."""
    stale: int = 0
    """Epochs since then."""
    skipped: int = 0
    """Batches whose loss or gradient was not finite."""
    skipped_in_row: int = 0
    sums: dict[str, float] = {}
    """Sums over the steps of the epoch so far."""
    scaler: dict[str, int | float] = {}
    """Of float16: the scale of the loss, and since when it holds."""


def count_step(progress: TrainingProgress, step: int, measured: dict[str, torch.Tensor] | None) -> TrainingProgress:
    """Count one step.

    Parameters
    ----------
    progress : TrainingProgress
        Before the step.
    step : int
        Its number.
    measured : dict of str to Tensor, or None
        What the batch said, scalars; None: the batch was skipped.
    """
    sums = dict(progress.sums)
    for name, value in ({} if measured is None else measured | {"steps": torch.ones(())}).items():
        sums[name] = sums.get(name, 0.0) + float(value.detach())
    bad = measured is None
    return progress.model_copy(
        update={
            "step": step + 1,
            "sums": sums,
            "skipped": progress.skipped + bad,
            "skipped_in_row": progress.skipped_in_row + 1 if bad else 0,
        }
    )


def mean_values(progress: TrainingProgress) -> dict[str, float]:
    """Return the means over the steps of the epoch so far."""
    sums = dict(progress.sums)
    steps = sums.pop("steps", 0.0)
    return {name: value / steps for name, value in sums.items()} if steps else {}


def save_state(out: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, progress: TrainingProgress) -> None:
    """Write the one file from which training resumes; the one before is kept."""
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for name, parameter in _trained(model):
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{_OPTIMISER}{name}.{key}"] = torch.as_tensor(value)
    write_aside(out / FILE, save_tensors(tensors, {_KEY: progress.model_dump_json()}), out / PREVIOUS)


def load_state(out: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> TrainingProgress:
    """Put a saved state back into `model` and `optimiser`.

    Where the newest file is damaged or missing, the one before is used, and a line says so.

    Returns
    -------
    TrainingProgress
        A fresh one if nothing was saved yet.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No file can be read.
    """
    newest, previous = out / FILE, out / PREVIOUS
    if not newest.is_file() and not previous.is_file():
        return TrainingProgress()
    if not previous.is_file():
        return _load(newest, model, optimiser)
    try:
        return _load(newest, model, optimiser)
    except RecipeError as error:
        progress = _load(previous, model, optimiser)
        Progress.say(f"{error}; training goes on from step {progress.step} of {PREVIOUS}")
        return progress


def _load(path: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> TrainingProgress:
    progress = _read_progress(path)
    tensors = read_tensors(path)
    load_weights(model, {n.removeprefix(_MODEL): t for n, t in tensors.items() if n.startswith(_MODEL)}, path)
    for name, parameter in _trained(model):
        prefix = f"{_OPTIMISER}{name}."
        saved = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        if saved:
            optimiser.state[parameter] = {key: _like(parameter, value) for key, value in saved.items()}
    return progress


def _trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _like(parameter: torch.nn.Parameter, value: torch.Tensor) -> torch.Tensor:
    """Lay a moment out in memory as its parameter, and beside it: fused optimisers walk both in step."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, memory_format=torch.preserve_format).detach().copy_(value)


def _read_progress(path: Path) -> TrainingProgress:
    try:
        with safe_open(path, framework="pt") as file:
            return TrainingProgress.model_validate(json.loads((file.metadata() or {})[_KEY]))
    except (SafetensorError, OSError, KeyError, ValidationError) as error:
        raise RecipeError(str(path), f"is damaged ({' '.join(str(error).split())[:100]}); remove it") from None
