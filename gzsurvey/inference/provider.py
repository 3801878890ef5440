"""Which hardware ONNX Runtime really uses, proven by opening a session on it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from gzsurvey.errors import RecipeError

Provider: TypeAlias = Literal["auto", "cpu", "cuda", "tensorrt"]
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
NAMES = {CPU: "CPU", CUDA: "CUDA", TENSORRT: "TensorRT"}
_WANTED = {"cuda": CUDA, "tensorrt": TENSORRT}

_CUDA_OPTIONS: dict[str, str] = {
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
    provider : {"auto", "cpu", "cuda", "tensorrt"}
        ``auto``: CUDA where there is a GPU, else the CPU. TensorRT is taken by name only: it chooses kernels by
        timing them, so that two workers may differ.
    threads : int
        Threads of the CPU provider for one batch.

    Returns
    -------
    onnxruntime.InferenceSession
        ``get_providers()[0]`` is what it runs on.

    Raises
    ------
    gzsurvey.errors.RecipeError
        What is asked for does not run here, or there is a GPU that `auto` cannot use.
    """
    if provider not in ("auto", "cpu", *_WANTED):
        raise RecipeError(f"provider {provider!r}", "must be auto, cpu, cuda or tensorrt")
    if provider == "cpu" or (provider == "auto" and not cuda_devices()):
        return _start(model, [CPU], threads)
    wanted = _WANTED.get(provider, CUDA)
    session = _start_on_gpu(model, wanted, threads)
    if session.get_providers()[0] == wanted:
        return session
    if provider == "auto":
        raise RecipeError("provider 'auto'", f"a GPU is here, but {why_not(CUDA)}; provider cpu does without it")
    raise RecipeError(f"provider {provider!r}", f"{why_not(wanted)}; use auto or cpu")


def open_fixed_session(model: bytes, batch: Mapping[str, int]) -> Any:
    """Open a session on CUDA that predicts batches of one size by replaying one CUDA graph.

    Parameters
    ----------
    model : bytes
        The ONNX file.
    batch : mapping of str to int
        The name of its open dimension, and the size that is given to it.

    Returns
    -------
    onnxruntime.InferenceSession or None
        None where the model holds an operation that CUDA cannot replay.
    """
    from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, Fail, RuntimeException

    try:
        session = _start_on_gpu(model, CUDA, 1, {"enable_cuda_graph": "1"}, batch)
    except (EPFail, Fail, RuntimeException):
        return None
    return session if session.get_providers()[0] == CUDA else None


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


def why_not(provider: str) -> str:
    """One clause that says why ONNX Runtime cannot use CUDA or TensorRT, and what to install."""
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        return (
            f"this ONNX Runtime ({onnxruntime.__version__}) is built without {NAMES[provider]}: install 'gzsurvey[gpu]'"
        )
    if not cuda_devices():
        return "the NVIDIA driver offers no GPU here"
    if provider == TENSORRT:
        return "ONNX Runtime cannot load TensorRT: pip install tensorrt, of the version its documentation names"
    return "ONNX Runtime cannot load CUDA or cuDNN: install 'gzsurvey[gpu]', which brings their libraries"


def _start_on_gpu(
    model: bytes,
    provider: str,
    threads: int,
    options: Mapping[str, str] | None = None,
    fixed: Mapping[str, int] | None = None,
) -> Any:
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        return _start(model, [CPU], threads)
    if hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()
    first: list[Any] = [(TENSORRT, {})] if provider == TENSORRT else []
    # It reports missing libraries on stderr and goes on; the caller compares providers instead.
    with quiet():
        return _start(model, [*first, (CUDA, _CUDA_OPTIONS | dict(options or {})), CPU], threads, fixed)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what ONNX Runtime says on stderr to itself, unless it ends the process."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(_ERROR)


def _start(model: bytes, providers: list[Any], threads: int, fixed: Mapping[str, int] | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for dimension, size in (fixed or {}).items():
        options.add_free_dimension_override_by_name(dimension, size)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERROR
    options.use_deterministic_compute = True
    # Waiting threads would otherwise burn the cores that decode and prepare the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=providers)
