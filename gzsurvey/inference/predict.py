"""A stream of prepared images in, predictions out, preparation and inference side by side.

Letters: S pixels on a side of the model's input, n galaxies of one batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.inference.session import OnnxModel

_BATCHES_AHEAD = 2
"""Batches waiting for each thread of the model: one being predicted, one ready."""


@dataclass(frozen=True)
class Predictions:
    """What the model says of one batch."""

    rows: NDArray[np.int64]
    """Row numbers as they came with the images, shape (n,)."""
    outputs: dict[str, NDArray[np.float32]]
    """By output name, shape (n, ...)."""


def predict(model: OnnxModel, images: Iterable[tuple[int, NDArray[Any]]]) -> Iterator[Predictions]:
    """Predict a stream of images, batch by batch and in order, in bounded memory.

    The model runs in threads of its own while this generator pulls, and so prepares, the next images.

    Parameters
    ----------
    model : OnnxModel
        Its `batch_size` and `threads` are used.
    images : iterable of (int, array of shape (3, S, S))
        Row number and prepared image in the model's layout; consumed in the caller's thread. An error raised here
        reaches the caller.

    Yields
    ------
    Predictions
        Every row once.
    """
    pending: deque[tuple[NDArray[np.int64], Future[dict[str, NDArray[np.float32]]]]] = deque()
    executor = ThreadPoolExecutor(model.threads, thread_name_prefix="inference")
    try:
        for rows, pixels in _batches(images, model.batch_size):
            pending.append((rows, executor.submit(model.run, pixels)))
            while pending and (len(pending) >= _BATCHES_AHEAD * model.threads or pending[0][1].done()):
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def to_model_input(images: NDArray[Any]) -> NDArray[Any]:
    """Turn pictures into the model's layout.

    Parameters
    ----------
    images : array, shape (..., S, S, 3)
        One prepared image or several, planes R, G, B last.

    Returns
    -------
    array of the same dtype, shape (..., 3, S, S)
        Contiguous.
    """
    return np.ascontiguousarray(np.moveaxis(images, -1, -3))


def _batches(images: Iterable[tuple[int, NDArray[Any]]], size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    stream = iter(images)
    while batch := list(islice(stream, size)):
        rows, pixels = zip(*batch, strict=True)
        yield np.array(rows, dtype=np.int64), np.stack(pixels)


def _finished(rows: NDArray[np.int64], future: Future[dict[str, NDArray[np.float32]]]) -> Predictions:
    return Predictions(rows, future.result())
