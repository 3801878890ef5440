"""torchvision beside a CPU build of torch, for contestants that need it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

TIMM_IMPORT = Path(__file__).parents[2] / "gzsurvey" / "model" / "timm_import.py"


def make_torchvision_importable() -> None:
    """Beside a CPU build of torch: see the module that is used, a file that needs torch alone."""
    spec = importlib.util.spec_from_file_location("timm_import", TIMM_IMPORT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # torch forgets what was declared once the module is gone.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.declare_missing_operators()
