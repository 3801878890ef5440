"""Where everything lies in the directory of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ComparisonPaths:
    """The files of one comparison."""

    out: Path

    @property
    def inputs(self) -> Path:
        """What was compared (JSON)."""
        return self.out / "comparison.json"

    @property
    def table(self) -> Path:
        """Differences, answer by answer, over all galaxies and in bins."""
        return self.out / "differences.ecsv"

    @property
    def page(self) -> Path:
        """The same as a page that needs nothing else."""
        return self.out / "comparison.html"
