"""Replies kept on disk, the last used within a budget."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path
from tempfile import NamedTemporaryFile

TRIM_TO = 0.9
"""Share of the budget that is left when the oldest replies are removed."""


class ReplyCache:
    """Bodies of replies that were checked, by what was asked for; several processes may share the folder.

    Parameters
    ----------
    folder : Path
        Made when the first reply is kept.
    limit_bytes : int
        Budget; 0 keeps nothing.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes
        self._lock = threading.Lock()
        self._bytes = sum(size for _, size, _ in self._files()) if limit_bytes else 0

    def get(self, key: str) -> bytes | None:
        """Return a reply, or None."""
        path = self._path(key)
        try:
            body = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return body

    def put(self, key: str, body: bytes) -> None:
        """Keep a reply, and remove the oldest ones if the budget is passed."""
        if len(body) > self._limit * TRIM_TO:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, delete=False) as aside:
            aside.write(body)
        Path(aside.name).replace(path)
        with self._lock:
            self._bytes += len(body)
            if self._bytes > self._limit:
                self._trim()

    def drop(self, key: str) -> None:
        """Forget a reply that turned out to be damaged."""
        self._path(key).unlink(missing_ok=True)

    def _trim(self) -> None:
        files = sorted(self._files())
        held = sum(size for _, size, _ in files)
        for _, size, path in files:
            if held <= self._limit * TRIM_TO:
                break
            path.unlink(missing_ok=True)
            held -= size
        self._bytes = held

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        return found

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()[:40]
        return self._folder / name[:2] / name[2:]
