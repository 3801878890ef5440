"""The one place that imports timm.

timm imports torchvision, and the torchvision of the package index is compiled for CUDA.
Beside a CPU build of torch its compiled library cannot be loaded; its Python part then asks
torch for operators that nobody declared, and the import fails. Declaring those operators
first lets it pass: models and transforms work, and only the compiled operators (non-maximum
suppression and the like, which no encoder uses) would fail when called.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

_ASKED_FOR = re.compile(r"register_fake\(\s*[\"']torchvision::(\w+)[\"']")
_DECLARED: list[object] = []
"""Keeps the declarations alive: torch drops them with the library object."""


@cache
def import_timm() -> ModuleType:
    """Return the module `timm`, importable beside a CPU build of torch.

    Returns
    -------
    module
        `timm`.
    """
    declare_missing_operators()
    return importlib.import_module("timm")


def declare_missing_operators() -> None:
    """Make `torchvision` importable beside a CPU build of torch; elsewhere nothing is missing."""
    import torch

    names = missing_operators() if torch.version.cuda is None else ()
    if not names:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in names:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _DECLARED.append(library)


def missing_operators() -> tuple[str, ...]:
    """Name the operators that torchvision's Python part asks for and nobody declared.

    Returns
    -------
    tuple of str
        Empty where torchvision is absent or its compiled library loads.
    """
    import torch

    found = find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        return ()
    folder = Path(found.submodule_search_locations[0])
    registrations = folder / "_meta_registrations.py"
    if _compiled_library_loads(folder) or not registrations.is_file():
        return ()
    asked_for = dict.fromkeys(_ASKED_FOR.findall(registrations.read_text(encoding="utf-8")))
    return tuple(name for name in asked_for if not hasattr(torch.ops.torchvision, name))


def _compiled_library_loads(folder: Path) -> bool:
    import torch

    for library in (*folder.glob("_C*.so"), *folder.glob("_C*.pyd")):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError:
            return False
        return True
    return False
