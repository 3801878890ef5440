"""Parquet as the Virtual Observatory reads it: units, UCDs and descriptions in the file ("VOParquet").

NaN and null are nulls here, so that SQL does not take them for large numbers. Text is blank, never null: astropy
cannot read a column with both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gzsurvey.outputs.aside import written_aside
from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.parameters import Parameter
from gzsurvey.outputs.votable import dataless_votable

_TYPES = {
    "L": pa.bool_(), "I": pa.int16(), "J": pa.int32(), "K": pa.int64(), "E": pa.float32(), "D": pa.float64(),
    "A": pa.string(),
}  # fmt: skip
MOST_CHUNKS = 131_072
"""Columns times groups of rows in a ``_metadata``: it is kept in memory while it grows, and by who reads it."""


def arrow_schema(columns: Sequence[Column], parameters: Sequence[Parameter] = (), name: str = "catalogue") -> Any:
    """Return the `pyarrow.Schema` of a table, with everything that is known of it.

    Parameters
    ----------
    columns : sequence of Column
        One field each; unit, UCD and description stand in its metadata, too.
    parameters : sequence of Parameter
        Facts about the run.
    name : str
        Of the table.
    """
    votable = dataless_votable(name, columns, None, parameters)
    known = {"IVOA.VOTable-Parquet.version": "1.0", "IVOA.VOTable-Parquet.content": votable}
    astropy = {f"table::len::{column.name}": str(column.width) for column in columns if column.dtype == "A"}
    return pa.schema([_field(column) for column in columns], metadata=known | astropy)


def arrow_table(columns: Sequence[Column], rows: Mapping[str, NDArray[Any]], schema: Any) -> Any:
    """Return rows, arrays of shape (N,) by column name, as a `pyarrow.Table` of `schema`."""
    arrays = [
        pa.array(np.asarray(rows[c.name]), mask=None if c.dtype == "A" else c.is_null(rows[c.name]), type=field.type)
        for c, field in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


@contextmanager
def open_parquet(
    path: Path,
    columns: Sequence[Column],
    _n_rows: int,
    parameters: Sequence[Parameter] = (),
    name: str = "catalogue",
) -> Iterator[ParquetWriter]:
    """Write a Parquet file, row group by row group; like `gzsurvey.outputs.fits.open_table`."""
    schema = arrow_schema(columns, parameters, name)
    with written_aside(path) as aside, pq.ParquetWriter(aside, schema, compression="zstd") as file:
        yield ParquetWriter(file, columns, schema)


class ParquetWriter:
    """Writes rows to an open Parquet file; see `open_parquet`."""

    def __init__(self, file: Any, columns: Sequence[Column], schema: Any) -> None:
        self._file, self._columns, self._schema = file, tuple(columns), schema

    def append(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write rows, arrays of shape (N,) by column name, as one row group."""
        self._file.write_table(arrow_table(self._columns, rows, self._schema))


class Dataset:
    """A folder of Parquet files with one schema, which ``_common_metadata`` has; their footers stand in ``_metadata``.

    Parameters
    ----------
    folder : Path
        It is made.
    schema : pyarrow.Schema
        Of every file.
    most_chunks : int
        A footer has an entry for each column of each group of rows, 1 kB of memory. A dataset of more entries than
        this gets no ``_metadata``.
    """

    def __init__(self, folder: Path, schema: Any, most_chunks: int = MOST_CHUNKS) -> None:
        self._folder, self._schema, self._most_chunks = folder, schema, most_chunks
        self.rows, self.bytes = 0, 0
        folder.mkdir(parents=True)
        pq.write_metadata(schema, folder / "_common_metadata")
        self._footers = pq.read_metadata(folder / "_common_metadata")

    def write(self, place: Path, table: Any, rows_per_group: int | None = None) -> None:
        """Write one file, at `place` in the folder, by default as one row group."""
        path = self._folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        # Hardly two measured numbers are alike: a dictionary of them would be built for nothing.
        repeated = [field.name for field in self._schema if not pa.types.is_floating(field.type)]
        pq.write_table(
            table, path, rows_per_group or len(table), compression="zstd", compression_level=1, use_dictionary=repeated
        )
        self._describe(path, place)
        self.rows += len(table)
        self.bytes += path.stat().st_size

    def finish(self) -> None:
        """Write the footers of all files, unless there are too many."""
        if self._footers is not None:
            self._footers.write_metadata_file(self._folder / "_metadata")

    def _describe(self, path: Path, place: Path) -> None:
        if self._footers is None:
            return
        about = pq.read_metadata(path)
        about.set_file_path(place.as_posix())
        self._footers.append_row_groups(about)
        if self._footers.num_row_groups * self._footers.num_columns > self._most_chunks:
            self._footers = None


def _field(column: Column) -> Any:
    about = {"unit": column.unit, "ucd": column.ucd, "description": column.description}
    return pa.field(column.name, _TYPES[column.dtype], metadata={key: text for key, text in about.items() if text})
