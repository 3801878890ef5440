"""What this machine can do, and what stands in its way."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gzsurvey.inference.provider import Provider

_PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "numpy", "astropy", "dask", "distributed", "zarr",
             "pandas", "pyarrow", "matplotlib")  # fmt: skip
_RUNTIMES = ("onnxruntime-gpu", "onnxruntime", "onnxruntime-directml", "onnxruntime-openvino")
_LITTLE_SPACE_GB = 10


def doctor() -> str:
    """Describe versions, the hardware that is truly used, conflicts of packages, and free disk.

    Returns
    -------
    str
        One finding per line; a line that begins with ``!`` says what to change.
    """
    # ONNX Runtime first: torch would load CUDA libraries that a survey does without.
    return "\n".join([*_software(), *_onnxruntime(), *_torch(), *_machine()])


def _software() -> Iterator[str]:
    yield _line("gzsurvey", version("gzsurvey"))
    yield _line("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in _PACKAGES:
        yield _line(name, _installed(name) or "not installed")


def _onnxruntime() -> Iterator[str]:
    found = {name: number for name in _RUNTIMES if (number := _installed(name))}
    yield _line("ONNX Runtime", ", ".join(f"{name} {number}" for name, number in found.items()) or "not installed")
    problem = runtime_problem(tuple(found), _onnxruntime_imports())
    if problem:
        yield problem
    if not _onnxruntime_imports():
        return
    yield _line("  on the CPU", _runs_on("cpu"))
    yield _line("  on a GPU", _runs_on("cuda"))
    yield _line("  with TensorRT", _runs_on("tensorrt"))
    yield _line("  chosen by 'auto'", _runs_on("auto"))
    yield _line("  images at once", _images_at_once())


def runtime_problem(installed: Iterable[str], imports: bool) -> str | None:
    """Say how to mend the installed distributions of ONNX Runtime, or None.

    Parameters
    ----------
    installed : iterable of str
        Names of distributions; they share one folder, and the last one installed wins.
    imports : bool
        Whether ``onnxruntime`` can be used.
    """
    installed = tuple(installed)
    best = "onnxruntime-gpu" if "onnxruntime-gpu" in installed else (installed or ("onnxruntime",))[0]
    if len(installed) > 1:
        names = " ".join(installed)
        return (
            f"! {' and '.join(installed)} overwrite each other's files; keep one: pip uninstall -y {names} && "
            f"pip install {best}"
        )
    if not imports:
        return f"! onnxruntime cannot be used: pip uninstall -y {best} && pip install {best}"
    return None


def _onnxruntime_imports() -> bool:
    try:
        import onnxruntime
    except ImportError:
        return False
    return hasattr(onnxruntime, "InferenceSession")


def _runs_on(provider: Provider) -> str:
    """Open a session there and multiply two matrices."""
    import numpy as np

    from gzsurvey.errors import RecipeError
    from gzsurvey.inference.provider import open_session

    try:
        session = open_session(_product_model(), provider, 1)
    except RecipeError as problem:
        return f"no: {problem.problem}"
    values = np.eye(4, dtype=np.float32)
    (product,) = session.run(None, {"x": values})
    right = np.allclose(product, 2 * values)
    return f"yes: {session.get_providers()[0]}{'' if right else ', but with wrong numbers'}"


def _images_at_once() -> str:
    from gzsurvey.inference.session import images_on_a_cpu
    from gzsurvey.recipes.cluster import cores

    sizes = ", ".join(f"{images_on_a_cpu(size)} of {size} px" for size in (64, 128, 224))
    return f"on the CPU {sizes}, on each of {cores()} cores; on a GPU 'plan' measures"


def _product_model() -> bytes:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    shape: list[str | int | None] = ["n", 4]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "two"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(2 * np.eye(4, dtype=np.float32), "two")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def _torch() -> Iterator[str]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield f"! torch cannot be imported: {' '.join(str(error).split())[:200]}"
        return
    if torch.version.cuda is None:
        yield _line("torch on a GPU", "no: this torch is built for CPUs only")
    elif not torch.cuda.is_available():
        yield _line("torch on a GPU", f"no: built for CUDA {torch.version.cuda}, but no usable GPU is here")
    else:
        yield _line("torch on a GPU", f"yes: {_torch_product()}")
    yield _line("torch on the CPU", f"{torch.get_num_threads()} threads")


def _torch_product() -> str:
    """Multiply two matrices on the GPU, and name it."""
    import torch

    values = torch.eye(4, device="cuda")
    right = bool(torch.allclose(values @ (2 * values), 2 * values))
    return f"{torch.cuda.get_device_name()}{'' if right else ', but with wrong numbers'}"


def _machine() -> Iterator[str]:
    import psutil

    from gzsurvey.cutouts.cache import cache_folder

    memory = psutil.virtual_memory()
    yield _line("cores", f"{os.cpu_count()}")
    yield _line("memory", f"{memory.total / 1e9:.1f} GB, {memory.available / 1e9:.1f} GB free")
    for name, folder in (("this directory", Path.cwd()), ("cache", cache_folder())):
        free = shutil.disk_usage(_existing(folder)).free / 1e9
        yield _line(f"disk of {name}", f"{free:.1f} GB free ({folder})")
        if free < _LITTLE_SPACE_GB:
            yield f"! little space on the disk of {folder}; a training store or a large RUN may not fit"


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _installed(name: str) -> str | None:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def _line(name: str, value: str) -> str:
    return f"{name:<24}{value}"
