"""Coverage maps (MOC) of a run: asked for, requested, delivered, missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.outputs import columns as c
from gzsurvey.outputs.aside import written_aside
from gzsurvey.status import Status

ORDER = 11
"""HEALPix order of the maps: cells of 1.7 arcmin."""


@dataclass
class Coverage:
    """Gathers cells as blocks pass by."""

    delivered: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)

    def append(self, block: Mapping[str, NDArray[Any]]) -> None:
        """Add the cells of a block.

        Parameters
        ----------
        block : mapping of str to array, shape (N,)
            ``healpix_29`` (-1 without position) and ``status``.
        """
        cells = np.asarray(block[c.HEALPIX.name])
        predicted = np.asarray(block[c.STATUS.name]) == Status.PREDICTED
        for found, rows in ((self.delivered, predicted), (self.missing, ~predicted)):
            found.update(np.unique(cells[rows & (cells >= 0)] >> 2 * (29 - ORDER)).tolist())

    @property
    def requested(self) -> set[int]:
        """Cells with a target."""
        return self.delivered | self.missing

    def write(self, folder: Path, footprint: Any | None) -> None:
        """Write the four maps; none for a run without positions.

        Parameters
        ----------
        folder : Path
            ``moc/``.
        footprint : mocpy.MOC or None
            The region asked for; None: wherever there are targets.
        """
        if not self.requested:
            return
        folder.mkdir(exist_ok=True)
        requested = _moc(self.requested)
        maps = {
            "footprint": requested if footprint is None else footprint,
            "requested": requested,
            "delivered": _moc(self.delivered),
            "missing": _moc(self.missing),
        }
        for name, moc in maps.items():
            with written_aside(folder / f"{name}.fits") as aside:
                moc.save(str(aside), format="fits", overwrite=True)


def _moc(cells: set[int]) -> Any:
    from mocpy import MOC

    if not cells:
        return MOC.new_empty(ORDER)
    found = np.array(sorted(cells), dtype=np.uint64)
    return MOC.from_healpix_cells(found, np.full(len(found), ORDER, dtype=np.uint8), ORDER)
