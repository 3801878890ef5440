"""Differences between two catalogues, summed up as pairs of galaxies pass by.

Letters: n pairs, M answers, B bins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gzsurvey.outputs.columns import Column

FEWEST = 10
"""Pairs below which nothing is stated."""
Floats = NDArray[np.float64]

COLUMNS = (
    Column("answer", "A", 68, ucd="meta.id", description="Column that is compared"),
    Column(
        "quantity",
        "A",
        68,
        ucd="meta.id",
        description="Column that bins galaxies; all: one bin",
    ),
    Column("lower", "D", description="Least value in the bin"),
    Column("upper", "D", description="Greatest value in the bin"),
    Column("galaxies", "K", ucd="meta.number", description="Pairs for which both catalogues have a value"),
    Column("mean_difference", "D", ucd="stat.mean", description="Of this run minus the other catalogue"),
    Column("standard_error", "D", ucd="stat.error", description="Of mean_difference"),
    Column("rms_difference", "D", ucd="stat.value", description="Root mean square difference"),
    Column("mean_absolute_difference", "D", ucd="stat.mean", description="Mean of the differences without sign"),
    Column("correlation", "D", ucd="stat.correlation", description="Pearson's"),
)
"""Of ``differences.ecsv``."""


@dataclass
class Tally:
    """Sums over pairs, for each bin of a quantity and each answer."""

    quantity: str
    answers: tuple[str, ...]
    edges: Floats
    """Between bins, shape (B - 1,)."""
    sums: Floats = field(init=False)
    """Shape (B, M, 9): pairs, d, |d|, dd, x, y, xx, yy, xy, of values x and y and their difference d."""
    limits: Floats = field(init=False)
    """Least and greatest value, shape (B, 2)."""

    def __post_init__(self) -> None:
        bins = len(self.edges) + 1
        self.sums = np.zeros((bins, len(self.answers), 9))
        self.limits = np.tile([np.inf, -np.inf], (bins, 1))

    def add(self, values: Floats, ours: Floats, theirs: Floats) -> None:
        """Add pairs: the quantity, shape (n,), and both catalogues' values, shape (n, M); NaN is left out."""
        known = np.isfinite(values)
        places = np.searchsorted(self.edges, values, side="right")
        for number in np.unique(places[known]):
            chosen = known & (places == number)
            least, greatest = self.limits[number]
            self.limits[number] = min(least, values[chosen].min()), max(greatest, values[chosen].max())
            self.sums[number] += _sums(ours[chosen], theirs[chosen])

    def rows(self) -> Iterator[dict[str, str | float | int]]:
        """Yield the rows of the table, bin by bin."""
        for (lower, upper), sums in zip(self.limits, self.sums, strict=True):
            for answer, one in zip(self.answers, sums, strict=True):
                if one[0] >= FEWEST:
                    bounds = {"lower": float(lower), "upper": float(upper)}
                    yield {"answer": answer, "quantity": self.quantity, **bounds, **_statistics(one)}


def quantile_edges(values: Floats, bins: int) -> Floats:
    """Return the edges between `bins` bins of nearly equal numbers; fewer where values repeat."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.zeros(0)
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.asarray(edges[edges > known.min()])


def as_columns(tallies: Sequence[Tally]) -> dict[str, NDArray[np.generic]]:
    """Return the rows of several tallies as columns."""
    rows = [row for tally in tallies for row in tally.rows()]
    return {column.name: np.array([row[column.name] for row in rows]) for column in COLUMNS}


def _sums(ours: Floats, theirs: Floats) -> Floats:
    """Return the sums over pairs that both know, shape (M, 9)."""
    both = np.isfinite(ours) & np.isfinite(theirs)
    x, y = np.where(both, ours, 0.0), np.where(both, theirs, 0.0)
    terms = (both, x - y, np.abs(x - y), (x - y) ** 2, x, y, x * x, y * y, x * y)
    return np.stack([term.sum(axis=0) for term in terms], axis=-1)


def _statistics(sums: Floats) -> dict[str, float | int]:
    n, d, absolute, dd, x, y, xx, yy, xy = sums.tolist()
    mean, square = d / n, dd / n
    spread = np.sqrt(max(xx - x * x / n, 0) * max(yy - y * y / n, 0))
    return {
        "galaxies": int(n),
        "mean_difference": mean,
        "standard_error": float(np.sqrt(max(square - mean**2, 0) / n)),
        "rms_difference": float(np.sqrt(square)),
        "mean_absolute_difference": absolute / n,
        "correlation": float((xy - x * y / n) / spread) if spread > 0 else np.nan,
    }
