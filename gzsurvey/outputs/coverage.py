"""Coverage maps (MOC) of a run: asked for, requested, delivered, missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
Cells = NDArray[np.bool_]
"""One value for each cell of the sky: 50 MB, of which only what is touched is held."""


def _empty_sky() -> Cells:
    return np.zeros(12 * 4**ORDER, dtype=bool)


@dataclass
class Coverage:
    """Gathers cells as blocks pass by."""

    delivered: Cells = field(default_factory=_empty_sky)
    """Cells with a prediction."""
    missing: Cells = field(default_factory=_empty_sky)
    """Cells with a miss."""

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
            found[cells[rows & (cells >= 0)] >> 2 * (29 - ORDER)] = True

    def maps(self) -> dict[str, Any]:
        """Return the `mocpy.MOC` of cells with a target, with a prediction, with a miss, by name."""
        cells = {
            "requested": (self.delivered, self.missing),
            "delivered": (self.delivered,),
            "missing": (self.missing,),
        }
        return {name: _moc(*found) for name, found in cells.items()}

    def write(self, folder: Path, footprint: Any | None) -> None:
        """Write the four maps; none for a run without positions.

        Parameters
        ----------
        folder : Path
            ``moc/``.
        footprint : mocpy.MOC or None
            The region asked for; None: wherever there are targets.
        """
        maps = self.maps()
        if maps["requested"].empty():
            return
        folder.mkdir(exist_ok=True)
        maps["footprint"] = maps["requested"] if footprint is None else footprint
        for name, moc in maps.items():
            with written_aside(folder / f"{name}.fits") as aside:
                # Version 1 of the standard: TOPCAT and STILTS as Debian 12 has them cannot read version 2.
                moc.save(str(aside), format="fits", overwrite=True, v1_compatible=True)


def read_maps(folder: Path, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield some maps, `mocpy.MOC`, by name."""
    from mocpy import MOC

    for name in names:
        yield name, MOC.from_fits(folder / f"{name}.fits")


def _moc(*cells: Cells) -> Any:
    """Return the map of what is in any of some sets; one twelfth of the sky at a time, whose numbers need memory."""
    from mocpy import MOC

    moc = MOC.new_empty(ORDER)
    for start in range(0, 12 * 4**ORDER, 4**ORDER):
        found = start + np.flatnonzero(np.logical_or.reduce([one[start : start + 4**ORDER] for one in cells]))
        if len(found):
            moc |= MOC.from_healpix_cells(found.astype(np.uint64), np.uint8(ORDER), ORDER)
    return moc
