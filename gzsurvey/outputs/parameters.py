"""Parameters of a run, as header cards and VOTable PARAMs."""

from __future__ import annotations

import re
from dataclasses import dataclass

_KEYWORD = re.compile(r"[A-Z0-9_-]{1,8}")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One fact about the whole table."""

    keyword: str
    """A FITS keyword: up to 8 of A-Z, 0-9, ``-`` and ``_``."""
    value: str | int | float | bool
    """Text beyond 68 characters is cut in FITS cards, and whole in the VOTable."""
    comment: str = ""

    def __post_init__(self) -> None:
        if not _KEYWORD.fullmatch(self.keyword):
            raise ValueError(f"'keyword' must be 1 to 8 of A-Z, 0-9, '-' and '_', got {self.keyword!r}")
