"""Does an ONNX file say what its torch network says? Measured before the file is kept.

Letters: N galaxies, S pixels on a side of the model's input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gzsurvey.errors import ExportError
from gzsurvey.export.graph import PixelsToOutputs
from gzsurvey.inference.session import OnnxModel

BATCH_SIZES = (1, 2, 7, 32)
"""One galaxy, the size of the traced example, an odd one, a survey's."""

TOLERANCE = 1e-3
"""Largest difference from torch, relative to the output's own scale.

Embeddings: to their root mean square; `predictions.zarr` rounds them to float16, 5e-4 of each value.
Concentrations: to each value, which moves a fraction by less than 2.5e-4 (f (1 - f) times the tolerance).
Probabilities: absolute. Numbers: to their predicted standard deviation.
Kernels that sum in another order differ by 1e-5; a wrong graph by 0.1 and more.
"""


@dataclass(frozen=True)
class Agreement:
    """Differences between an ONNX file and torch on the same images."""

    images: int
    absolute: dict[str, float]
    """Largest absolute difference by output."""
    relative: dict[str, float]
    """Largest difference by output, in the scale of `TOLERANCE`."""


def measure(model: PixelsToOutputs, onnx_model: OnnxModel, images: NDArray[np.uint8]) -> Agreement:
    """Run both on the same images, in batches of `BATCH_SIZES`.

    Parameters
    ----------
    model : PixelsToOutputs
        In evaluation mode, on the CPU.
    onnx_model : OnnxModel
        Made from it.
    images : uint8, shape (N, 3, S, S)
        N at least 1.

    Raises
    ------
    gzsurvey.errors.ExportError
        They differ by more than `TOLERANCE`, or a value is not finite.
    """
    kinds = {head.output: head.kind for head in onnx_model.card.heads}
    absolute = dict.fromkeys(model.outputs, 0.0)
    relative = dict.fromkeys(model.outputs, 0.0)
    for number, size in enumerate(BATCH_SIZES):
        batch = np.roll(images, -number * 5, axis=0)[:size]
        expected, found = _torch_outputs(model, batch), onnx_model.run(batch)
        for name in model.outputs:
            difference, scale = _difference(kinds.get(name, "embedding"), found[name], expected[name])
            absolute[name] = max(absolute[name], _largest(difference))
            relative[name] = max(relative[name], _largest(difference / scale))
    agreement = Agreement(len(images), absolute, relative)
    _refuse_disagreement(agreement.relative)
    return agreement


def _refuse_disagreement(relative: Mapping[str, float]) -> None:
    worst = max(relative, key=lambda name: relative[name])
    if not relative[worst] <= TOLERANCE:
        raise ExportError(
            f"the ONNX file's {worst!r} differs from torch by {relative[worst]:.2g} of its scale "
            f"(at most {TOLERANCE:g} is allowed), so nothing was kept; check that the checkpoint's outputs are "
            f"finite, and try other versions of torch, onnxscript or onnxruntime"
        )


def _torch_outputs(model: PixelsToOutputs, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    with torch.no_grad():
        outputs = model(torch.from_numpy(np.ascontiguousarray(images)))
    return {name: values.numpy() for name, values in zip(model.outputs, outputs, strict=True)}


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
