"""One batch size on a GPU, through buffers that stay there.

Letters: B images of a batch, S pixels on a side.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.inference.provider import open_fixed_session, quiet

_CUDA_VERSIONS = (13, 12)
"""Of the runtime library that ONNX Runtime has loaded."""


class FixedBatch:
    """A session with its input and outputs bound to memory of the GPU, and page-locked memory here to fill them from.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        On CUDA.
    input_name : str
        Of its only input.
    images : tuple of int, and numpy dtype
        Shape (B, 3, S, S) and type of a batch.
    outputs : mapping of str to tuple of int
        Shapes of outputs without the batch; float32.
    """

    def __init__(
        self, session: Any, input_name: str, images: tuple[tuple[int, ...], Any], outputs: Mapping[str, tuple[int, ...]]
    ) -> None:
        from onnxruntime import OrtValue

        self.shape, self.dtype = shape, dtype = images
        self._session = session
        self._batch = np.zeros(shape, dtype)
        release = _lock_pages(self._batch)
        weakref.finalize(self, release, self._batch)
        self._input = OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cuda", 0)
        self._outputs = [
            OrtValue.ortvalue_from_shape_and_type((shape[0], *rest), np.float32, "cuda", 0) for rest in outputs.values()
        ]
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(input_name, self._input)
        for name, value in zip(outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def run(self, images: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Predict up to B images; the rest of the batch holds what the one before left there.

        Parameters
        ----------
        images : array, shape (n, 3, S, S)
            n at most B.

        Returns
        -------
        list of float32, shape (n, ...)
            In the order of the outputs.
        """
        n = len(images)
        self._batch[:n] = images
        self._input.update_inplace(self._batch)
        self._session.run_with_iobinding(self._binding)
        return [value.numpy()[:n] for value in self._outputs]


def open_fixed_batch(
    model: bytes, session: Any, images: tuple[tuple[int, ...], Any], outputs: Mapping[str, tuple[int, ...]]
) -> FixedBatch:
    """Prepare one batch size, with a CUDA graph where the model allows it, and predict it once.

    Parameters
    ----------
    model : bytes
        The ONNX file.
    session : onnxruntime.InferenceSession
        Of it, on CUDA; used where no CUDA graph can be.
    images, outputs
        As `FixedBatch` takes them.
    """
    from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, Fail, RuntimeException

    item = session.get_inputs()[0]
    graph = open_fixed_session(model, {str(item.shape[0]): images[0][0]})
    # The first batch chooses algorithms, which cuDNN comments on; it captures the graph too.
    with quiet():
        if graph is not None:
            with contextlib.suppress(EPFail, Fail, RuntimeException, RuntimeError):
                return _warm(FixedBatch(graph, item.name, images, outputs))
        return _warm(FixedBatch(session, item.name, images, outputs))


def _warm(batch: FixedBatch) -> FixedBatch:
    batch.run(np.zeros((0, *batch.shape[1:]), batch.dtype))
    return batch


def _lock_pages(array: NDArray[Any]) -> Callable[[NDArray[Any]], None]:
    """Keep an array in place, so that the GPU reads it without a copy in between; return what lets it go.

    Where CUDA refuses, the array stays as it is.
    """
    for version in _CUDA_VERSIONS:
        with contextlib.suppress(OSError):
            runtime = ctypes.CDLL(f"cudart64_{version}.dll" if sys.platform == "win32" else f"libcudart.so.{version}")
            if runtime.cudaHostRegister(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), 0) == 0:
                return lambda held: _unlock_pages(runtime, held)
            # ONNX Runtime would take it for an error of its own.
            runtime.cudaGetLastError()
            break
    return lambda _held: None


def _unlock_pages(runtime: Any, array: NDArray[Any]) -> None:
    runtime.cudaHostUnregister(ctypes.c_void_p(array.ctypes.data))
    runtime.cudaGetLastError()
