"""What is kept between runs, in a folder of the user's."""

from __future__ import annotations

import os
from pathlib import Path

REPLIES = "replies"
"""Folder in it with what services sent."""


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/gzsurvey`` or ``~/.cache/gzsurvey``: indexes of mosaics, replies of services."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gzsurvey"
