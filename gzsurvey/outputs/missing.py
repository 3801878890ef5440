"""``missing.ecsv``: every target without a prediction, and why."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from gzsurvey.outputs import columns as c
from gzsurvey.outputs.aside import written_aside
from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.text import ecsv_header
from gzsurvey.status import DESCRIPTIONS, Status

REASON = Column("reason", "A", 1, ucd="meta.note", description="Why there is no prediction")


@contextmanager
def open_missing(path: Path, target_id: Column) -> Iterator[MissingWriter]:
    """Write the table of misses as blocks pass by, in bounded memory.

    Parameters
    ----------
    path : Path
        The file; it appears when it is whole.
    target_id : Column
        Name and type of the ids.
    """
    with written_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        file.write(ecsv_header((target_id, c.RA, c.DEC, c.STATUS, REASON)))
        yield MissingWriter(file)


class MissingWriter:
    """Writes the rows of ``missing.ecsv`` to an open file; see `open_missing`."""

    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(file, delimiter=",", lineterminator="\n")
        self.rows = 0
        """Misses so far."""

    def append(self, block: Mapping[str, NDArray[Any]]) -> None:
        """Add the rows of a block that have no prediction.

        Parameters
        ----------
        block : mapping of str to array, shape (N,)
            ``id``, ``ra``, ``dec``, ``status``, ``reason``.
        """
        rows = np.flatnonzero(block["status"] != Status.PREDICTED)
        self.rows += len(rows)
        columns = [block[name][rows].tolist() for name in ("id", "ra", "dec", "status", "reason")]
        for target, ra, dec, status, reason in zip(*columns, strict=True):
            said = " ".join(str(reason).split()) or DESCRIPTIONS[Status(status)]
            self._writer.writerow((target, repr(ra), repr(dec), status, said))


def read_missing(path: Path) -> Iterator[list[str]]:
    """Yield the cells of each row of ``missing.ecsv`` as text: id, ra, dec, status, reason."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = (line for line in file if not line.startswith("#"))
        next(lines)
        yield from csv.reader(lines)
