"""HEALPix (NESTED) order of the sky: why rows near each other on disk are near on the sky."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ORDER = 29
"""The finest order of a 64-bit index: 0.4 milliarcsec."""
NO_CELL = -1
"""Stands for a row without a position."""


def cells(ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], order: int = ORDER) -> NDArray[np.int64]:
    """Return the NESTED cell of each position.

    Parameters
    ----------
    ra_deg, dec_deg : float64, shape (N,)
        ICRS degrees; NaN where a row has no position.
    order : int
        HEALPix order, at most 29.

    Returns
    -------
    int64, shape (N,)
        `NO_CELL` where there is no position.
    """
    from astropy.coordinates import Latitude, Longitude
    from cdshealpix.nested import lonlat_to_healpix

    out = np.full(len(ra_deg), NO_CELL, dtype=np.int64)
    known = np.isfinite(ra_deg) & np.isfinite(dec_deg)
    if known.any():
        lon, lat = Longitude(ra_deg[known], "deg"), Latitude(dec_deg[known], "deg")
        out[known] = np.asarray(lonlat_to_healpix(lon, lat, depth=order)).astype(np.int64)
    return out


def with_neighbours(cells: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """Return some cells and all that touch them, ascending, int64."""
    from cdshealpix.nested import neighbours

    if not len(cells):
        return cells
    found = np.unique(np.asarray(neighbours(np.asarray(cells, dtype=np.uint64), order)).astype(np.int64))
    return np.asarray(found[found >= 0])


def unit_vectors(ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return positions as points of the unit sphere, float64, shape (N, 3)."""
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def close_pairs(ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], within_arcsec: float) -> int:
    """Count pairs of positions closer than `within_arcsec`."""
    from scipy.spatial import cKDTree

    if len(ra_deg) < 2:
        return 0
    tree = cKDTree(unit_vectors(ra_deg, dec_deg))
    chord = 2 * np.sin(np.radians(within_arcsec / 3600) / 2)
    return int((tree.count_neighbors(tree, chord) - len(ra_deg)) // 2)
