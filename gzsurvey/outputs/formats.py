"""A table of rows in the format that its file name asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from gzsurvey.errors import TableError
from gzsurvey.outputs.fits import open_table
from gzsurvey.outputs.parquet import open_parquet
from gzsurvey.outputs.text import open_csv, open_ecsv
from gzsurvey.outputs.votable import open_votable


class RowWriter(Protocol):
    """An open table."""

    def append(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write rows: arrays of shape (N,) by column name."""
        ...


Opener = Callable[..., AbstractContextManager[RowWriter]]
"""Takes path, columns, number of rows, parameters and name; see `gzsurvey.outputs.fits.open_table`."""
_BY_SUFFIX: dict[str, Opener] = {
    ".fits": open_table, ".fit": open_table, ".csv": open_csv, ".ecsv": open_ecsv, ".vot": open_votable,
    ".xml": open_votable, ".votable": open_votable, ".parquet": open_parquet, ".pq": open_parquet,
}  # fmt: skip


def opener(path: Path) -> Opener:
    """Return what writes tables of the format that a file name ends with.

    Raises
    ------
    gzsurvey.errors.TableError
        The ending is none of FITS, CSV, ECSV, VOTable, Parquet.
    """
    try:
        return _BY_SUFFIX[path.suffix.lower()]
    except KeyError:
        raise TableError(str(path), f"ends with none of {', '.join(_BY_SUFFIX)}") from None
