"""Close pairs among positions in sky order, counted exactly in bounded memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gzsurvey.sky import healpix

PIECE = 262_144
"""Positions compared at a time."""
_CELL_ORDER = 15
"""Its cells are at least 3.8 arcsec wide: what is nearer than `LARGEST_ARCSEC` is in the same cell or in the next."""
LARGEST_ARCSEC = 3.0
Positions = NDArray[np.float64]


class ClosePairs:
    """Counts pairs of positions that are nearer to each other than some distance.

    Positions come in sky order (HEALPix, NESTED), in pieces. A pair inside a piece is counted at once. Positions at
    a piece's border, whose neighbourhood reaches into other cells than the piece spans, are put on disk: in a second
    round they are counted as positions of their own, and pairs that were counted before are taken off.

    Parameters
    ----------
    folder : Path
        For a temporary file.
    within_arcsec : float
        The distance, at most `LARGEST_ARCSEC`.
    piece : int
        Positions of a piece.
    """

    def __init__(self, folder: Path, within_arcsec: float, piece: int = PIECE) -> None:
        if within_arcsec > LARGEST_ARCSEC:
            raise ValueError(f"'within_arcsec' must be at most {LARGEST_ARCSEC:g}, got {within_arcsec:g}")
        self._folder, self._within, self._piece = folder, within_arcsec, piece
        self._held: list[Positions] = []
        self._pairs = self._seen = self._at_borders = 0
        self._borders = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed, and so removed, by `finish`

    def add(self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> None:
        """Go on with more positions, ICRS degrees, shape (n,), in sky order."""
        self._held.append(np.stack([ra_deg, dec_deg], axis=-1))
        while sum(map(len, self._held)) >= self._piece:
            together = np.concatenate(self._held)
            self._count(together[: self._piece])
            self._held = [together[self._piece :]]

    def finish(self) -> int:
        """Return how many pairs there are."""
        if not self._seen:
            self._borders.close()
            return _pairs(np.concatenate([np.zeros((0, 2)), *self._held]), self._within)
        self._count(np.concatenate(self._held))
        self._borders.seek(0)
        # Where most positions are at a border, longer pieces have less of it.
        longer = self._piece * 2 if self._at_borders > self._seen // 2 else self._piece
        again = ClosePairs(self._folder, self._within, longer)
        while content := self._borders.read(16 * self._piece):
            values = np.frombuffer(content)
            again.add(values[::2], values[1::2])
        self._borders.close()
        return self._pairs + again.finish()

    def _count(self, positions: Positions) -> None:
        border = positions[_reach_out(positions)]
        self._pairs += _pairs(positions, self._within) - _pairs(border, self._within)
        self._seen += len(positions)
        self._at_borders += len(border)
        self._borders.write(border.tobytes())


def _reach_out(positions: Positions) -> NDArray[np.bool_]:
    """Return which positions have neighbours in cells that a piece in sky order does not wholly cover, shape (n,)."""
    from cdshealpix.nested import neighbours

    cells = healpix.cells(positions[:, 0], positions[:, 1]) >> 2 * (healpix.ORDER - _CELL_ORDER)
    if not len(cells):
        return np.zeros(0, dtype=bool)
    # The first and the last cell may go on in other pieces.
    first, last = cells[0], cells[-1]
    distinct, place = np.unique(cells, return_inverse=True)
    around = np.asarray(neighbours(distinct.astype(np.uint64), _CELL_ORDER)).astype(np.int64)
    outside = ((around <= first) | (around >= last)) & (around >= 0)
    reaching: NDArray[np.bool_] = outside.any(axis=1)[place]
    return reaching


def _pairs(positions: Positions, within_arcsec: float) -> int:
    return healpix.close_pairs(positions[:, 0], positions[:, 1], within_arcsec)
