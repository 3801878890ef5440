"""The token of a service: in the environment, where workers find it, and nowhere else."""

from __future__ import annotations

import os
from pathlib import Path

from gzsurvey.errors import SourceError

VARIABLE = "GZSURVEY_TOKEN"


def token() -> str | None:
    """Return the token that was given, or None."""
    return os.environ.get(VARIABLE)


def use_token_file(_context: object, _option: object, path: Path | None) -> None:
    """Take the token from a file, for this process and those that it starts; an option's callback.

    Raises
    ------
    gzsurvey.errors.SourceError
        Others may read the file, or it is empty.
    """
    if path is None:
        return
    if path.stat().st_mode & 0o077:
        raise SourceError(str(path), f"others may read it; 'chmod 600 {path.name}' and ask for a new token")
    content = path.read_text(encoding="utf-8").strip()
    if not content:
        raise SourceError(str(path), "holds no token")
    os.environ[VARIABLE] = content
