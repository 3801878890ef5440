"""A HiPS of the simulated sky, made once: making it takes longer than most tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from loopback import Sky
from skies import write_hips


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sky]:
    """Folder with the HiPS ``equatorial/r``, and the sky that it shows."""
    folder = tmp_path_factory.mktemp("hips")
    return folder, write_hips(folder / "equatorial")
