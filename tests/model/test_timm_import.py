from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from gzsurvey.model.timm_import import import_timm, missing_operators


def test_timm_imports_and_builds() -> None:
    assert import_timm().create_model("test_resnet", num_classes=0).eval()(torch.zeros(1, 3, 32, 32)).ndim == 2


def test_nothing_is_missing_once_declared() -> None:
    import_timm()
    assert missing_operators() == ()


@pytest.mark.slow
def test_it_is_the_shim_that_makes_torchvision_importable() -> None:
    """Beside a CPU torch a CUDA torchvision fails alone; where it loads alone nothing is declared."""
    alone = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True).returncode
    code = (
        "import torch; from gzsurvey.model.timm_import import import_timm, missing_operators;"
        "print(len(missing_operators())); import_timm(); import torchvision.ops"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if torch.version.cuda is None:
        assert (int(done.stdout) > 0) == (alone != 0)


@pytest.mark.slow
def test_nobody_else_imports_timm_first() -> None:
    """A plain import of any module of model and training does not load timm."""
    code = "import gzsurvey.training, gzsurvey.model.checkpoint, sys; assert 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
