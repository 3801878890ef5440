"""How many images to give to a model at once: found out by a short measurement, on a GPU."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from gzsurvey.inference.provider import CPU, Provider
from gzsurvey.inference.session import OnnxModel

_SMALLEST = 32
_LARGEST = 2048
_WORTH = 1.05
"""A batch twice as large must be this much faster to be worth its memory."""
_SECONDS = 0.5


def choose_batch_size(path: Path, provider: Provider) -> int:
    """Double the batch for as long as it makes the model faster and fits into memory.

    Parameters
    ----------
    path : Path
        The model file.
    provider : {"auto", "cpu", "cuda", "tensorrt"}
        Where it will run.

    Returns
    -------
    int
        On a CPU what `images_on_a_cpu` says, so that equal plans are equal. On a GPU a batch is padded to it, so
        that a run keeps one size.
    """
    model = OnnxModel(path, provider)
    if model.provider == CPU:
        return model.batch_size
    best, rate = _SMALLEST, _rate(OnnxModel(path, provider, batch_size=_SMALLEST))
    while best < _LARGEST:
        larger = _larger(path, provider, 2 * best)
        if larger is None or larger < _WORTH * rate:
            break
        best, rate = 2 * best, larger
    return best


def _larger(path: Path, provider: Provider, batch_size: int) -> float | None:
    """Images per second of a batch size; None where it does not fit."""
    from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, Fail, RuntimeException

    try:
        return _rate(OnnxModel(path, provider, batch_size=batch_size))
    except (EPFail, Fail, RuntimeException):
        return None


def _rate(model: OnnxModel) -> float:
    shape = (model.batch_size, *model.input_shape)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(model.card.input_type)
    for _ in range(3):
        model.run(images)
    batches, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < _SECONDS or not batches:
        model.run(images)
        batches += 1
    return batches * model.batch_size / seconds
