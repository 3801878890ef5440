"""Tables as text: CSV, and ECSV, which astropy reads with units and descriptions."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from gzsurvey.outputs.aside import written_aside
from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.parameters import Parameter

_TYPES = {"A": str, "L": bool, "I": np.int16, "J": np.int32, "K": np.int64, "E": np.float32, "D": np.float64}


@contextmanager
def open_csv(
    path: Path, columns: Sequence[Column], _n_rows: int, _parameters: Sequence[Parameter] = (), _name: str = ""
) -> Iterator[TextWriter]:
    """Write CSV with a line of names, row by row; like `gzsurvey.outputs.fits.open_table`."""
    with written_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(column.name for column in columns) + "\n")
        yield TextWriter(file, columns)


@contextmanager
def open_ecsv(
    path: Path, columns: Sequence[Column], _n_rows: int, parameters: Sequence[Parameter] = (), _name: str = ""
) -> Iterator[TextWriter]:
    """Write ECSV, row by row; like `gzsurvey.outputs.fits.open_table`."""
    with written_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        file.write(ecsv_header(columns, parameters))
        yield TextWriter(file, columns)


class TextWriter:
    """Writes rows to an open CSV or ECSV file; see `open_csv`."""

    def __init__(self, file: TextIO, columns: Sequence[Column]) -> None:
        self._file, self._columns = file, tuple(columns)

    def append(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write rows: arrays of shape (N,) by column name. NaN, blank and null become empty cells."""
        import pandas as pd

        cells = {column.name: _cells(column, rows[column.name]) for column in self._columns}
        pd.DataFrame(cells).to_csv(self._file, header=False, index=False, lineterminator="\n")


def ecsv_header(columns: Sequence[Column], parameters: Sequence[Parameter] = ()) -> str:
    """Return the lines of an ECSV file above its rows: types, units, descriptions, UCDs and names."""
    from astropy.table import Column as AstropyColumn
    from astropy.table import Table

    table = Table(meta={parameter.keyword: parameter.value for parameter in parameters})
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


def _cells(column: Column, values: NDArray[Any]) -> Any:
    """Return a column that pandas writes with the fewest digits that give the same number again."""
    import pandas as pd

    if column.dtype in "IJK":
        return pd.arrays.IntegerArray(np.array(values, dtype=np.int64), column.is_null(values))
    return values
