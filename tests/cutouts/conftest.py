"""What the tests of sources share: a server that shows the simulated sky, and a HiPS of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Services, Sky, serving
from skies import simulated_sky, write_hips


@pytest.fixture(scope="module")
def running() -> Iterator[Services]:
    with serving(Services(simulated_sky())) as services:
        yield services


@pytest.fixture
def services(running: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    """The server as it was at first, nothing in the user's cache, no token."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("GZSURVEY_TOKEN", raising=False)
    running.reset()
    return running


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sky]:
    """Folder with the HiPS ``equatorial/r``, and the sky that it shows; made once, as that takes long."""
    folder = tmp_path_factory.mktemp("hips")
    return folder, write_hips(folder / "equatorial")
