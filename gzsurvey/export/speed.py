"""What a lower precision is worth on the machine at hand."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import Precision
from gzsurvey.export.graph import INPUT
from gzsurvey.inference.provider import CPU, NAMES, open_session
from gzsurvey.inference.session import images_on_a_cpu

if TYPE_CHECKING:
    from onnx import ModelProto

_ON_A_GPU = 32
_ROUNDS = 20
_SECONDS = 3.0
"""Rounds end sooner where a batch takes long."""


def compare_speed(exact: ModelProto, lower: ModelProto, precision: Precision, images: NDArray[np.uint8]) -> str:
    """Time two graphs in turns, on a GPU if it is there, else on one thread of the CPU.

    Parameters
    ----------
    exact, lower : onnx.ModelProto
        In float32, and in `precision`.
    precision : {"fp16", "int8"}
        Of `lower`.
    images : uint8, shape (N, 3, S, S)
        To predict.

    Returns
    -------
    str
        One sentence.
    """
    sessions = [open_session(proto.SerializeToString(), "auto", 1) for proto in (exact, lower)]
    on_a_cpu = sessions[0].get_providers()[0] == CPU
    n = images_on_a_cpu(images.shape[-1]) if on_a_cpu else _ON_A_GPU
    batch = np.resize(images, (n, *images.shape[1:]))
    runs: list[Callable[[], object]] = [lambda s=session: s.run(None, {INPUT: batch}) for session in sessions]  # type: ignore[misc]
    slow, fast = _in_turns(runs)
    provider = NAMES[sessions[0].get_providers()[0]]
    verdict = "slower than" if fast > slow else f"{slow / fast:.1f} times as fast as"
    rates = f"{n / fast:,.0f} against {n / slow:,.0f} images/s"
    return f"here ({provider}) {precision} is {verdict} fp32: {rates}"


def _in_turns(runs: list[Callable[[], object]]) -> list[float]:
    """Median seconds of each."""
    for run in runs:
        run()
    seconds: list[list[float]] = [[] for _ in runs]
    began = time.perf_counter()
    while len(seconds[0]) < _ROUNDS and (not seconds[0] or time.perf_counter() - began < _SECONDS):
        for times, run in zip(seconds, runs, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]
