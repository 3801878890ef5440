"""Sampled layers: maps of a survey (PSF size, exposures, …), read at each target."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gzsurvey.cutouts.mosaic_index import Tile, outlines
from gzsurvey.cutouts.tiles import OpenTile, TileCache
from gzsurvey.images.affine import pixels_of_sky

POINT_ARCSEC = 1e-3
"""Width of a field that is a point."""


class Layer:
    """One quantity as a mosaic of maps.

    Parameters
    ----------
    name : str
        Of its catalogue column.
    tiles : sequence of Tile
        The maps; where they overlap, the one whose edge is farther away goes first.
    """

    def __init__(self, name: str, tiles: Sequence[Tile]) -> None:
        self.name = name
        self._tiles = tiles
        self._where = outlines(tiles)

    def sample(
        self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], cache: TileCache
    ) -> NDArray[np.float32]:
        """Return the value of the pixel that holds each position, shape (N,); NaN where there is none."""
        values = np.full(len(ra_deg), np.nan, dtype=np.float32)
        ranked = self._where.ranked(ra_deg, dec_deg, np.full(len(ra_deg), POINT_ARCSEC))
        for rank in range(max(map(len, ranked), default=0)):
            groups: defaultdict[int, list[int]] = defaultdict(list)
            for row in np.flatnonzero(np.isnan(values)).tolist():
                if rank < len(ranked[row]):
                    groups[ranked[row][rank]].append(row)
            for number in sorted(groups):
                tile = cache.get(self._tiles[number])
                if tile is not None:
                    rows = np.array(groups[number])
                    values[rows] = _values(tile, ra_deg[rows], dec_deg[rows], cache)
                    cache.trim(in_use=1)
        return values


def _values(
    tile: OpenTile, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], cache: TileCache
) -> NDArray[np.float32]:
    """Nearest pixels of one map."""
    places = pixels_of_sky(tile.wcs, ra_deg, dec_deg)
    values = np.full(len(places), np.nan, dtype=np.float32)
    known = np.flatnonzero(np.isfinite(places).all(axis=1))
    nearest = np.floor(places[known] + 0.5).astype(np.intp)
    parts = np.concatenate([nearest, nearest + 1], axis=1)
    pixels = np.empty((len(known), 1, 1), dtype=np.float32)
    cache.expect(tile, parts)
    cache.flux(tile, parts, pixels)
    values[known] = pixels[:, 0, 0]
    return values
