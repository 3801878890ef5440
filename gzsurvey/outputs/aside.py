"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a path to write to; afterwards flush it to disk and give it the name `path`.

    After an error nothing is left, and an older `path` stays as it was.

    Examples
    --------
    >>> with written_aside(Path("a.json")) as aside:  # doctest: +SKIP
    ...     aside.write_text("{}")
    """
    aside = path.with_name(f".part.{path.name}")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
        sync_directory(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def sync_directory(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
