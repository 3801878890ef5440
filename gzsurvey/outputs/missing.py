"""``missing.ecsv``: every target without a prediction, and why."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from astropy.table import Column as AstropyColumn
from astropy.table import Table
from numpy.typing import NDArray

from gzsurvey.outputs import columns as c
from gzsurvey.outputs.aside import written_aside
from gzsurvey.outputs.columns import Column
from gzsurvey.status import DESCRIPTIONS, Status

_TYPES = {"A": str, "K": np.int64, "D": np.float64, "I": np.int16}
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
        file.write(_ecsv_header((target_id, c.RA, c.DEC, c.STATUS, REASON)))
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


def _ecsv_header(columns: tuple[Column, ...]) -> str:
    table = Table()
    for column in columns:
        table[column.name] = AstropyColumn(
            np.zeros(0, dtype=_TYPES[column.dtype]),
            unit=column.unit or None,
            description=column.description,
            meta={"ucd": column.ucd},
        )
    text = io.StringIO()
    table.write(text, format="ascii.ecsv", delimiter=",")
    return text.getvalue()
