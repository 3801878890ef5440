"""A catalogue reaches a program on a SAMP hub of this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from astropy import samp
from outputs.runs import make_run

import gzsurvey
from gzsurvey.errors import GZSurveyError, TableError
from gzsurvey.survey.publish import publish


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("send") / "run"
    make_run(run, n=20)
    publish(run)
    return run


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[samp.SAMPHubServer]:
    lock = tmp_path / "samp"
    monkeypatch.setenv("SAMP_HUB", f"std-lockurl:{lock.as_uri()}")
    monkeypatch.setattr(samp.conf, "use_internet", False)
    hub = samp.SAMPHubServer(lockfile=str(lock), web_profile=False, mode="single", addr="127.0.0.1")
    hub.start()
    yield hub
    hub.stop()


def test_table_and_map_are_loaded(run: Path, hub: samp.SAMPHubServer) -> None:
    got: dict[str, dict[str, str]] = {}
    both = threading.Event()

    def receive(_key: str, _sender: str, mtype: str, params: dict[str, str], _extra: object) -> None:
        got[mtype] = params
        if len(got) == 2:
            both.set()

    viewer = samp.SAMPIntegratedClient(name="viewer", addr="127.0.0.1")
    viewer.connect()
    for mtype in ("table.load.fits", "coverage.load.moc.fits"):
        viewer.bind_receive_notification(mtype, receive)
    try:
        assert gzsurvey.send(run) == "catalogue.fits, delivered.fits sent to viewer"
        assert both.wait(10)
    finally:
        viewer.disconnect()
    assert got["table.load.fits"]["name"] == "run/catalogue.fits"
    with urlopen(got["table.load.fits"]["url"]) as file:
        assert file.read() == (run / "catalogue.fits").read_bytes()


def test_nobody_there_is_said(run: Path, hub: samp.SAMPHubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GZSurveyError, match="no program on the SAMP hub takes tables"):
        gzsurvey.send(run)
    monkeypatch.setenv("SAMP_HUB", "std-lockurl:file:///nowhere/samp")
    with pytest.raises(GZSurveyError, match="no SAMP hub is running; start TOPCAT"):
        gzsurvey.send(run)
    with pytest.raises(TableError, match="no such catalogue"):
        gzsurvey.send(run.parent)
