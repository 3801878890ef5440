"""Does an ONNX file say what its torch network says? Measured before the file is kept.

Letters: N galaxies, S pixels on a side of the model's input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gzsurvey.card import Loss, Precision
from gzsurvey.errors import ExportError
from gzsurvey.export.graph import PixelsToOutputs
from gzsurvey.inference.session import OnnxModel
from gzsurvey.votes.fractions import expected_fractions

BATCH_SIZES = (1, 2, 7, 32)
"""One galaxy, the size of the traced example, an odd one, a survey's."""

TOLERANCE = 1e-3
"""Largest difference of a float32 file from torch, relative to the output's own scale.

Embeddings: to their root mean square; `predictions.zarr` rounds them to float16, 5e-4 of each value.
Concentrations: to each value, which moves a fraction by less than 2.5e-4 (f (1 - f) times the tolerance).
Probabilities: absolute. Numbers: to their predicted standard deviation.
Kernels that sum in another order differ by 1e-5; a wrong graph by 0.1 and more.
"""


@dataclass(frozen=True)
class Limit:
    """What a lower precision may cost, in the units of `gzsurvey.card.Loss`."""

    mean: float
    largest: float


LIMITS: Mapping[Precision, Limit] = {"fp16": Limit(0.002, 0.02), "int8": Limit(0.02, 0.2)}
"""Half precision must not be seen in a catalogue. 8-bit integers may change a vote fraction by 0.02 in the mean, a
quarter of what forty volunteers leave open (0.08 at a fraction of one half)."""


@dataclass(frozen=True)
class Agreement:
    """Differences between an ONNX file and torch on the same images."""

    absolute: dict[str, float]
    """Largest absolute difference by output."""
    relative: dict[str, float]
    """Largest difference by output, in the scale of `TOLERANCE`."""
    loss: dict[str, Loss]
    """What it means to a user, by output."""


def measure(model: PixelsToOutputs, onnx_model: OnnxModel, images: NDArray[Any]) -> Agreement:
    """Run both on the same images: all of them, and some in batches of `BATCH_SIZES`.

    Parameters
    ----------
    model : PixelsToOutputs
        In float32 and evaluation mode, on the CPU.
    onnx_model : OnnxModel
        Made from it.
    images : uint8, or float32 flux, shape (N, 3, S, S)
        N at least 1.

    Raises
    ------
    gzsurvey.errors.ExportError
        They differ by more than `TOLERANCE` or, in a lower precision, `LIMITS`; or a value is not finite.
    """
    expected, found = _torch_outputs(model, images), onnx_model.run(images)
    kinds = {head.output: head.kind for head in onnx_model.card.heads}
    absolute = dict.fromkeys(model.outputs, 0.0)
    relative = dict.fromkeys(model.outputs, 0.0)
    for rows, part in _batches(onnx_model, images, found):
        for name in model.outputs:
            difference, scale = _difference(kinds.get(name, "embedding"), part[name], expected[name][rows])
            absolute[name] = max(absolute[name], _largest(difference))
            relative[name] = max(relative[name], _largest(difference / scale))
    precision = onnx_model.card.precision
    if precision == "fp32":
        _refuse_disagreement(relative)
    loss = {name: _loss(onnx_model, name, found[name], expected[name]) for name in model.outputs}
    if precision != "fp32":
        _refuse_loss(precision, loss)
    return Agreement(absolute, relative, loss)


def _batches(
    model: OnnxModel, images: NDArray[Any], whole: dict[str, NDArray[np.float32]]
) -> list[tuple[NDArray[np.int64], dict[str, NDArray[np.float32]]]]:
    """Outputs of all images, then of some in batches of other sizes, with their rows."""
    rows = np.arange(len(images))
    chosen = [np.roll(rows, -number * 5)[:size] for number, size in enumerate(BATCH_SIZES)]
    return [(rows, whole), *((part, model.run(images[part])) for part in chosen)]


def _refuse_disagreement(relative: Mapping[str, float]) -> None:
    worst = max(relative, key=lambda name: relative[name])
    if not relative[worst] <= TOLERANCE:
        raise ExportError(
            f"the ONNX file's {worst!r} differs from torch by {relative[worst]:.2g} of its scale "
            f"(at most {TOLERANCE:g} is allowed), so nothing was kept; check that the checkpoint's outputs are "
            f"finite, and try other versions of torch, onnxscript or onnxruntime"
        )


def _refuse_loss(precision: Precision, losses: Mapping[str, Loss]) -> None:
    limit = LIMITS[precision]
    for name, loss in losses.items():
        if not (loss.mean <= limit.mean and loss.largest <= limit.largest):
            unit = "1 - cosine" if name == "embedding" else "fractions, probabilities or standard deviations"
            raise ExportError(
                f"{precision} changes {name!r} by {loss.mean:.2g} in the mean and {loss.largest:.2g} at most ({unit}; "
                f"allowed are {limit.mean:g} and {limit.largest:g}), so nothing was kept; export it in a higher "
                f"precision"
            )


def _torch_outputs(model: PixelsToOutputs, images: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    with torch.no_grad():
        parts = [model(torch.from_numpy(np.ascontiguousarray(part))) for part in _split(images, BATCH_SIZES[-1])]
    return {name: torch.cat([part[i] for part in parts]).numpy() for i, name in enumerate(model.outputs)}


def _split(images: NDArray[Any], size: int) -> list[NDArray[Any]]:
    return [images[start : start + size] for start in range(0, len(images), size)]


def _loss(model: OnnxModel, name: str, found: NDArray[np.float32], expected: NDArray[np.float32]) -> Loss:
    head = next((head for head in model.card.heads if head.output == name), None)
    ours, theirs = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if head is None:
        lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        change = np.clip(1.0 - (ours * theirs).sum(axis=1) / np.maximum(lengths, 1e-300), 0.0, None)
    elif head.kind == "votes":
        fractions = [expected_fractions(values.reshape(-1, head.width), head.tree) for values in (ours, theirs)]
        change = np.abs(fractions[0] - fractions[1])
    elif head.kind == "number":
        change = np.abs(ours - theirs) / theirs[..., 1:]
    else:
        change = np.abs(ours - theirs)
    known = np.where(np.isfinite(change), change, np.inf)
    return Loss(images=len(found), mean=float(known.mean()), largest=float(known.max()))


def _difference(
    kind: str, found: NDArray[np.float32], expected: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Absolute differences, infinite where a value is not finite, and what they are to be compared with."""
    finite = np.isfinite(found) & np.isfinite(expected)
    difference = np.full(expected.shape, np.inf)
    np.subtract(found, expected, out=difference, where=finite, dtype=np.float64)
    if kind == "embedding":
        scale = np.sqrt(np.mean(np.square(expected, where=finite, out=np.zeros(expected.shape)))) + 1e-12
    elif kind == "votes":
        scale = np.where(finite, np.abs(expected), 1.0)
    elif kind == "number":
        scale = np.where(finite, np.abs(expected), 1.0)[..., 1:]
    else:
        scale = np.float64(1.0)
    return np.abs(difference), np.asarray(scale, dtype=np.float64)


def _largest(values: NDArray[np.float64]) -> float:
    return float(np.max(values))
