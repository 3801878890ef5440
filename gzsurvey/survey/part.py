"""Every N-th block of a run: what one process works on, beside others and without a scheduler."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One of several equal shares of a run's blocks, taken in turn, so that each is spread over the sky.

    Parameters
    ----------
    number : int
        1 to `of`.
    of : int
        How many parts the run is worked on in.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ValueError(f"a part is I/N with I from 1 to N, got {self}")

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read ``I/N``.

        Raises
        ------
        ValueError
            It is no part.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
        if found is None:
            raise ValueError(f"a part is I/N, such as 3/16, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def __contains__(self, block: int) -> bool:
        return block % self.of == self.number - 1

    def blocks(self, n_blocks: int) -> range:
        """Return its blocks of so many."""
        return range(self.number - 1, n_blocks, self.of)

    @property
    def said(self) -> str:
        """How messages call it: ``, part 3/16``, and nothing for a whole run."""
        return "" if self == WHOLE else f", part {self}"


WHOLE = Part()
"""A run that is not divided."""


def spoken(parts: Iterable[Part]) -> str:
    """Name the parts of one run, e.g. ``parts 1-3, 7 of 16``."""
    numbers = sorted({part.number for part in parts})
    of = max(part.of for part in parts)
    runs = [list(run) for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    names = [f"{run[0][1]}" if len(run) == 1 else f"{run[0][1]}-{run[-1][1]}" for run in runs]
    return f"part{'s' if len(numbers) > 1 else ''} {', '.join(names)} of {of}"
