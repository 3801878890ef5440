"""Parts of the sky that a run covers, far enough from each other to need maps of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ORDER = 5
"""HEALPix order at which cells that touch are one region: 1.8 deg."""
_MOST = 3


@dataclass(frozen=True)
class Region:
    """One connected part of the sky."""

    rows: NDArray[np.int64]
    """Rows of the catalogue, ascending."""
    ra: NDArray[np.float64]
    """Right ascension of these rows, degrees, without a jump at 360."""


def regions(healpix_29: NDArray[np.int64], ra_deg: NDArray[np.float64]) -> list[Region]:
    """Split positions into regions.

    Parameters
    ----------
    healpix_29 : int64, shape (N,)
        NESTED cells; -1 without position.
    ra_deg : float64, shape (N,)
        Right ascension.

    Returns
    -------
    list of Region
        The three with most rows, the largest first.
    """
    coarse = np.where(healpix_29 < 0, -1, healpix_29 >> 2 * (29 - _ORDER))
    found = [np.flatnonzero(np.isin(coarse, sorted(part))) for part in _connected(np.unique(coarse[coarse >= 0]))]
    found.sort(key=len, reverse=True)
    return [Region(rows, _unwrapped(ra_deg[rows])) for rows in found[:_MOST]]


def _connected(cells: NDArray[np.int64]) -> list[set[int]]:
    from cdshealpix.nested import neighbours

    beside: Any = np.asarray(neighbours(cells.astype(np.uint64), _ORDER)).astype(np.int64)
    links = dict(zip(cells.tolist(), beside.tolist(), strict=True))
    parts: list[set[int]] = []
    left = set(links)
    while left:
        part, todo = set(), [left.pop()]
        while todo:
            cell = todo.pop()
            part.add(cell)
            near = left.intersection(links[cell])
            left -= near
            todo += near
        parts.append(part)
    return parts


def _unwrapped(ra_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    ra = np.asarray(ra_deg, dtype=np.float64)
    return np.where(ra > 180, ra - 360, ra) if np.ptp(ra) > 180 else ra
