"""An ONNX model file, opened, checked against its card, and run.

Letters: N galaxies, S pixels on a side of the model's input.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import Card, read_card
from gzsurvey.errors import CardMismatch
from gzsurvey.inference.fixed import FixedBatch, open_fixed_batch
from gzsurvey.inference.provider import CPU, CUDA, Provider, open_session

INPUT = "image"
_ROWS = 4
"""Batches on a CPU are multiples of it. ONNX Runtime takes logarithms four values at a time, those left over with
another rounding, and multiplies a single row by other kernels than several."""
_LARGEST_ON_A_CPU = 32
_PIXELS_ON_A_CPU = 1 << 17
"""Of images at once: activations of more do not stay in a core's cache. Measured: docs/benchmarks/inference.md."""
_ELEMENT_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}


class OnnxModel:
    """A model file whose inputs and outputs are what its card says.

    Parameters
    ----------
    path : Path
        The ONNX file.
    provider : {"auto", "cpu", "cuda", "tensorrt"}
        ``auto``: CUDA where there is a GPU, else the CPU.
    threads : int
        Batches side by side on a CPU, each on one thread: they wait for one another less than the threads of one
        batch do. Several workers on one machine share its cores: 1 each.
    batch_size : int, optional
        Images given to ONNX Runtime at once; default: `images_on_a_cpu`. On a GPU the last batch is padded to it,
        so that one set of kernels predicts every galaxy.

    Raises
    ------
    gzsurvey.errors.CardMismatch
        No ONNX file, no card, or inputs and outputs that are not the card's; says what is expected.
    gzsurvey.errors.RecipeError
        What was asked for does not run here, or a GPU is here that cannot be used.
    """

    def __init__(
        self, path: Path, provider: Provider = "auto", threads: int = 1, batch_size: int | None = None
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"'batch_size' must be at least 1, got {batch_size}")
        self.path = path
        content = _read(path)
        self.sha256 = hashlib.sha256(content).hexdigest()
        """Of the whole file."""
        self._session = _open(path, content, provider)
        self.card: Card = read_card(dict(self._session.get_modelmeta().custom_metadata_map), str(path))
        """What the model expects and means."""
        self.batch_size = batch_size or images_on_a_cpu(self.card.preparation.image_size)
        """Images given to ONNX Runtime at once."""
        self.threads = threads if self.provider == CPU else 1
        """Batches side by side."""
        _check_input(self._session.get_inputs(), self.card, str(path))
        _check_outputs(self._session.get_outputs(), self.card, str(path))
        self._fixed = self._open_fixed(content) if self.provider == CUDA else None

    @property
    def provider(self) -> str:
        """``CPUExecutionProvider``, ``CUDAExecutionProvider``, ...: what the session runs on."""
        return str(self._session.get_providers()[0])

    @property
    def versions(self) -> dict[str, str]:
        """Versions that influence predictions."""
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__}

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one image."""
        size = self.card.preparation.image_size
        return 3, size, size

    def run(self, images: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Predict images, each independently of its neighbours.

        Parameters
        ----------
        images : uint8 (float32 for flux models), shape (N, 3, S, S)
            Prepared images; N may be 0.

        Returns
        -------
        dict of float32, shape (N, ...)
            By output name, in the card's order. On one machine and provider a galaxy's values
            are the same to the bit whatever N, its position and its neighbours; on a CPU
            whatever the batch size too.

        Raises
        ------
        gzsurvey.errors.CardMismatch
            The images are of another type or shape than the card says.
        """
        self._check_images(images)
        results: dict[str, NDArray[np.float32]] = {
            name: np.empty((len(images), *shape), dtype=np.float32) for name, shape in self.card.output_shapes.items()
        }

        def fill(start: int) -> None:
            batch = images[start : start + self.batch_size]
            for name, values in zip(results, self._run_batch(batch), strict=True):
                self._check_values(name, values, len(batch), results[name].shape[1:])
                results[name][start : start + len(batch)] = values

        starts = range(0, len(images), self.batch_size)
        if min(self.threads, len(starts)) <= 1:
            for start in starts:
                fill(start)
        else:
            with ThreadPoolExecutor(self.threads, thread_name_prefix="inference") as pool:
                list(pool.map(fill, starts))
        return results

    def _open_fixed(self, content: bytes) -> FixedBatch:
        images = ((self.batch_size, *self.input_shape), np.dtype(self.card.input_type))
        return open_fixed_batch(content, self._session, images, self.card.output_shapes)

    def _run_batch(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        if self._fixed is not None:
            return list(self._fixed.run(batch))
        n = len(batch)
        missing = -n % _ROWS if self.provider == CPU else self.batch_size - n
        if missing:
            batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)])
        outputs = self._session.run(list(self.card.outputs), {INPUT: np.ascontiguousarray(batch)})
        return [values[:n] for values in outputs] if len(batch) > n else list(outputs)

    def _check_images(self, images: NDArray[Any]) -> None:
        if images.shape[1:] != self.input_shape or images.dtype != self.card.input_type:
            size = self.card.preparation.image_size
            raise CardMismatch(
                str(self.path),
                f"takes {self.card.input_type} images of shape (N, 3, {size}, {size}), "
                f"got {images.dtype} of shape {images.shape}",
            )

    def _check_values(self, name: str, values: NDArray[Any], n: int, shape: tuple[int, ...]) -> None:
        if values.shape != (n, *shape):
            raise CardMismatch(
                str(self.path),
                f"its output {name!r} has shape {values.shape} for {n} images; the card says {(n, *shape)}",
            )


def images_on_a_cpu(size: int) -> int:
    """Return how many images of `size` pixels on a side a CPU is best given at once: 4 of 224, 8 of 128, 32 of 64."""
    return max(_ROWS, min(_LARGEST_ON_A_CPU, _PIXELS_ON_A_CPU // size**2 // _ROWS * _ROWS))


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CardMismatch(str(path), f"cannot be read: {error.strerror or error}; expected an ONNX file") from None
    if not content:
        raise CardMismatch(str(path), "is empty; expected an ONNX file with a gzsurvey card")
    return content


def _open(path: Path, content: bytes, provider: Provider) -> Any:
    from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

    broken = (ort_errors.InvalidProtobuf, ort_errors.NoModel)
    unusable = (
        ort_errors.Fail,
        ort_errors.InvalidArgument,
        ort_errors.InvalidGraph,
        ort_errors.NotImplemented,
        ort_errors.RuntimeException,
    )
    try:
        return open_session(content, provider, 1)
    except broken:
        raise CardMismatch(str(path), "is truncated, or no ONNX file; expected one with a gzsurvey card") from None
    except unusable as error:
        cause = " ".join(str(error).split())[:300]
        raise CardMismatch(str(path), f"ONNX Runtime refuses it ({cause}); expected one self-contained file") from None


def _check_input(inputs: list[Any], card: Card, where: str) -> None:
    size = card.preparation.image_size
    expected = f"one input {INPUT!r}, {card.input_type}, shape (batch, 3, {size}, {size}) with a dynamic batch"
    found = "; ".join(_describe(item) for item in inputs) or "none"
    if len(inputs) != 1 or inputs[0].name != INPUT or inputs[0].type != _ELEMENT_TYPES[card.input_type]:
        raise CardMismatch(where, f"must have {expected}; it has {found}")
    shape = inputs[0].shape
    if len(shape) != 4 or isinstance(shape[0], int) or not _fits(shape[1:], (3, size, size)):
        raise CardMismatch(where, f"must have {expected}; it has {found}")


def _check_outputs(outputs: list[Any], card: Card, where: str) -> None:
    expected = card.output_shapes
    wanted = ", ".join(f"{name} (batch, {', '.join(map(str, shape))})" for name, shape in expected.items())
    found = ", ".join(_describe(item) for item in outputs)
    names_fit = sorted(item.name for item in outputs) == sorted(expected)
    types_fit = all(item.type == "tensor(float)" for item in outputs)
    if not names_fit or not types_fit or not all(_fits(item.shape[1:], expected[item.name]) for item in outputs):
        raise CardMismatch(where, f"its card (question tree, tasks) needs float32 outputs {wanted}; it has {found}")


def _fits(shape: list[Any], expected: tuple[int, ...]) -> bool:
    """Tell whether a declared shape, sizes that are not fixed as str or None, allows `expected`."""
    return len(shape) == len(expected) and all(
        size == wanted or not isinstance(size, int) for size, wanted in zip(shape, expected, strict=True)
    )


def _describe(item: Any) -> str:
    kind = item.type.removeprefix("tensor(").removesuffix(")")
    return f"{item.name} {kind} ({', '.join(str(size) for size in item.shape)})"
