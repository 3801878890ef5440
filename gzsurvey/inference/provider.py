"""Which hardware ONNX Runtime really uses, proven by opening a session on it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import sys
from typing import Any, Literal, TypeAlias

from gzsurvey.errors import RecipeError

logger = logging.getLogger(__name__)

Provider: TypeAlias = Literal["auto", "cpu", "cuda"]
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

_CUDA_OPTIONS = {
    # The default, an exhaustive search, may choose another algorithm in every process.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Rounds inputs of matrix products to 10 bits: 1e-3 between machines.
    "use_tf32": "0",
}
_FATAL, _ERROR = 4, 3


def open_session(model: bytes, provider: Provider, threads: int) -> Any:
    """Open an ONNX Runtime session, never silently on other hardware than asked for.

    Parameters
    ----------
    model : bytes
        The ONNX file.
    provider : {"auto", "cpu", "cuda"}
        ``auto``: CUDA where a session really runs there, else the CPU.
    threads : int
        Threads of the CPU provider for one batch.

    Returns
    -------
    onnxruntime.InferenceSession
        ``get_providers()[0]`` is what it runs on.

    Raises
    ------
    gzsurvey.errors.RecipeError
        `provider` is ``cuda``, and CUDA does not run here.
    """
    if provider not in ("auto", "cpu", "cuda"):
        raise RecipeError(f"provider {provider!r}", "must be auto, cpu or cuda")
    if provider == "cpu" or (provider == "auto" and not cuda_devices()):
        return _start(model, [CPU], threads)
    session = _start_on_cuda(model, threads)
    if session.get_providers()[0] == CUDA:
        return session
    if provider == "cuda":
        raise RecipeError("provider 'cuda'", f"{why_no_cuda()}; use auto or cpu")
    logger.warning("a GPU is here, but %s; predicting on the CPU", why_no_cuda())
    return session


def cuda_devices() -> int:
    """Count the GPUs that the NVIDIA driver offers; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def why_no_cuda() -> str:
    """One clause that says why ONNX Runtime cannot use CUDA, and what to install."""
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime ({onnxruntime.__version__}) is built without CUDA: install 'gzsurvey[gpu]'"
    if not cuda_devices():
        return "the NVIDIA driver offers no GPU here"
    return "ONNX Runtime cannot load CUDA or cuDNN: install 'gzsurvey[gpu]', which brings their libraries"


def _start_on_cuda(model: bytes, threads: int) -> Any:
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        return _start(model, [CPU], threads)
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    # It reports missing libraries on stderr and goes on; the caller compares providers instead.
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        return _start(model, [(CUDA, _CUDA_OPTIONS), CPU], threads)
    finally:
        onnxruntime.set_default_logger_severity(_ERROR)


def _start(model: bytes, providers: list[Any], threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERROR
    options.use_deterministic_compute = True
    # Waiting threads would otherwise burn the cores that decode and prepare the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=providers)
