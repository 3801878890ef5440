"""Locks: of two processes at the same work the second is told so, before files of the two meet."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TextIO

from gzsurvey.errors import OutputBusy

LOCK = "out.lock"
"""In a directory that one process works on at a time."""
TRIES = 5
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems that know no locks answer, as Lustre mounted without ``flock`` does."""

logger = logging.getLogger(__name__)


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keep other processes out of a directory, which is made where there is none.

    Raises
    ------
    gzsurvey.errors.OutputBusy
        Another process is in it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with held(out / LOCK, str(out)):
        yield


def is_empty(out: Path) -> bool:
    """Whether a directory holds nothing, but perhaps a lock."""
    return all(path.name == LOCK for path in out.iterdir())


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold a lock; it dies with its process.

    Where the file system knows no locks, this is logged as a warning, and nothing is held.

    Parameters
    ----------
    path : Path
        Its file, which stays.
    what : str
        What it locks, for the error.

    Raises
    ------
    gzsurvey.errors.OutputBusy
        Another process holds it.
    """
    with path.open("a+") as file:
        if not _take(file):
            raise OutputBusy(what, holder(path))
        file.truncate(0)
        file.write(f"{os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


def holder(path: Path) -> str:
    """Say which process took a lock last."""
    return f"process {path.read_text().strip() or '?'}"


def is_held(path: Path) -> bool:
    """Whether a process holds a lock."""
    if not path.exists():
        return False
    with path.open("r") as file:
        return not _tried(file, fcntl.LOCK_SH)


def _take(file: TextIO) -> bool:
    """Take the lock; `is_held` of another process holds it for an instant."""
    for _ in range(TRIES):
        if _tried(file, fcntl.LOCK_EX):
            return True
        time.sleep(0.1)
    return False


def _tried(file: TextIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _warn(Path(file.name).parent)
    return True


@cache
def _warn(folder: Path) -> None:
    """Say it once."""
    logger.warning("%s: its file system knows no locks; see to it that one process alone works there", folder)
