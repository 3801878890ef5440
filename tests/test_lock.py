import errno
import fcntl
import logging
import os
from pathlib import Path

import pytest

from gzsurvey.errors import OutputBusy
from gzsurvey.lock import alone_in, held, is_empty, is_held


def test_the_second_at_the_same_work_is_told_who_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        alone_in(out),
        pytest.raises(OutputBusy, match=rf"out: process {os.getpid()} on .* is working on it now; wait"),
        alone_in(out),
    ):
        pass
    with alone_in(out):
        assert is_empty(out)


def test_an_error_gives_the_lock_back(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"

    def fail() -> None:
        with held(path, "a"):
            assert is_held(path)
            raise ValueError("any")

    with pytest.raises(ValueError, match="any"):
        fail()
    assert not is_held(path)
    assert not is_held(tmp_path / "none.lock")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_without_locks_of_the_file_system_one_is_warned_and_goes_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), alone_in(tmp_path / "out"):
        pass
    assert "its file system knows no locks" in caplog.text


def test_another_error_of_the_file_system_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Input/output"), alone_in(tmp_path / "out"):
        pass
