"""Rows of any number on disk: appended in table order, cut and sorted by DuckDB in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gzsurvey.errors import RecipeError

ROW, ID = "row", "id"
"""Columns that every spool has: the row's number in the table, ascending, and its id, int64 or text."""
Columns = dict[str, NDArray[Any]]
_ROWS_OF_A_BATCH = 65_536
_MOST_THREADS = 4
"""Each holds memory of its own."""
_SQL_TYPES = {
    "bool": "BOOLEAN", "int8": "TINYINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT",
    "uint8": "UTINYINT", "uint16": "USMALLINT", "uint32": "UINTEGER", "uint64": "UBIGINT",
    "float16": "FLOAT", "float32": "FLOAT", "float64": "DOUBLE",
}  # fmt: skip
"""By numpy name; everything else is text."""


class Spool:
    """Rows on disk.

    Parameters
    ----------
    folder : Path
        An empty folder for its files, and for what a sort does not hold in memory.
    memory_mb : int
        Memory that cuts and sorts may use.
    """

    def __init__(self, folder: Path, memory_mb: int) -> None:
        self._folder = folder
        self._files: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._source = ""
        self._made = 0
        self.dtypes: dict[str, np.dtype[Any]] = {}
        """By column, wide enough for every chunk."""
        folder.mkdir(parents=True, exist_ok=True)
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{memory_mb}MB",
                "temp_directory": str(folder / "sort"),
                "threads": min(os.cpu_count() or 1, _MOST_THREADS),
                "preserve_insertion_order": False,
            },
        )

    def append(self, columns: Mapping[str, Any]) -> None:
        """Add masked arrays of one chunk, shape (n,), the same columns each time; types may differ."""
        for name, values in columns.items():
            self.dtypes[name] = _wider(self.dtypes.get(name), values.dtype)
        arrays = [_to_arrow(values) for values in columns.values()]
        # Numbered names: those of kept columns may differ in case alone, which SQL does not see.
        table = pa.table(arrays, names=[f"c{i}" for i in range(len(arrays))])
        if self._writer is None or table.schema != self._writer.schema:
            self._close_file()
            self._files.append(self._new_file())
            self._writer = pq.ParquetWriter(self._files[-1], table.schema, compression="none", use_dictionary=False)
        self._writer.write_table(table)

    def seal(self) -> None:
        """End appending: from now on rows are cut and read."""
        self._close_file()
        types = [f"CAST(c{i} AS {_sql_type(dtype)}) AS c{i}" for i, dtype in enumerate(self.dtypes.values())]
        parts = [f"SELECT {', '.join(types)} FROM {_parquet(path)}" for path in self._files]
        self._source = f"({' UNION ALL '.join(parts)})"

    def count(self) -> int:
        """Return how many rows there are."""
        return int(self._one(f"SELECT count(*) FROM {self._source}")[0])

    def leave_out(self, ids: Path, column: str) -> None:
        """Drop the rows whose id stands in a column of a Parquet file; numbers equal text of the same digits."""
        numbers = pa.types.is_integer(pq.read_schema(ids).field(column).type)
        same = numbers == (self.dtypes[ID].kind == "i")
        ours, theirs = (f"s.{self._column(ID)}", f'o."{column}"')
        condition = f"{ours} = {theirs}" if same else f"CAST({ours} AS VARCHAR) = CAST({theirs} AS VARCHAR)"
        self._keep(f"SELECT s.* FROM {self._source} s ANTI JOIN {_parquet(ids)} o ON {condition}")

    def count_repeated(self) -> int:
        """Return how many rows have the id of an earlier row."""
        rows, ids = self._one(f"SELECT count(*), count(DISTINCT {self._column(ID)}) FROM {self._source}")
        return int(rows) - int(ids)

    def first_repeated(self, wanted: int) -> list[tuple[int, int | str]]:
        """Return row and id of the first few rows that have the id of an earlier row."""
        row, identifier = self._column(ROW), self._column(ID)
        query = f"SELECT s.{row}, s.{identifier} {self._repeated()} ORDER BY s.{row} LIMIT {wanted}"
        with self._explained():
            return [(int(number), value) for number, value in self._connection.execute(query).fetchall()]

    def drop_repeated(self) -> None:
        """Keep the first row of each id."""
        row = self._column(ROW)
        self._keep(
            f"SELECT s.* FROM {self._source} s ANTI JOIN (SELECT s.{row} AS again {self._repeated()}) r "
            f"ON s.{row} = r.again"
        )

    def keep_first(self, wanted: int) -> None:
        """Keep the first rows of the table."""
        row = self._column(ROW)
        (last,) = self._one(f"SELECT max({row}) FROM (SELECT {row} FROM {self._source} ORDER BY {row} LIMIT {wanted})")
        self._source = f"(SELECT * FROM {self._source} WHERE {row} <= {last})"

    def nulls(self, names: Sequence[str]) -> dict[str, int]:
        """Return how many values of some columns are missing."""
        if not names:
            return {}
        counts = ", ".join(f"count(*) - count({self._column(name)})" for name in names)
        found = self._one(f"SELECT {counts} FROM {self._source}")
        return dict(zip(names, map(int, found), strict=True))

    def read(self, by: Sequence[str], length: int) -> Iterator[dict[str, Any]]:
        """Yield masked arrays of `length` rows, the last shorter, sorted by some columns."""
        columns = [f"c{i}" for i in range(len(self.dtypes))]
        order = ", ".join(self._column(name) for name in by)
        query = f"SELECT {', '.join(columns)} FROM {self._source} ORDER BY {order}"
        with self._explained():
            held: list[Any] = []
            for batch in self._connection.sql(query).to_arrow_reader(_ROWS_OF_A_BATCH):
                held.append(batch)
                while sum(map(len, held)) >= length:
                    table = pa.Table.from_batches(held)
                    yield self._plain(table.slice(0, length))
                    held = table.slice(length).to_batches()
            if sum(map(len, held)):
                yield self._plain(pa.Table.from_batches(held))

    def close(self) -> None:
        """Let go of memory and files; the folder stays."""
        self._close_file()
        self._connection.close()

    def _column(self, name: str) -> str:
        return f"c{list(self.dtypes).index(name)}"

    def _repeated(self) -> str:
        """Return the end of a query for rows `s` that have the id of an earlier row."""
        row, identifier = self._column(ROW), self._column(ID)
        return (
            f"FROM {self._source} s JOIN (SELECT {identifier} AS repeated, min({row}) AS earliest FROM {self._source} "
            f"GROUP BY {identifier} HAVING count(*) > 1) d ON s.{identifier} = d.repeated AND s.{row} > d.earliest"
        )

    def _keep(self, query: str) -> None:
        """Let the rows of a query take the place of all."""
        path = self._new_file()
        with self._explained():
            self._connection.execute(f"COPY ({query}) TO '{_quoted(path)}' (FORMAT parquet, COMPRESSION uncompressed)")
        for file in self._files:
            file.unlink()
        self._files, self._source = [path], _parquet(path)

    def _one(self, query: str) -> tuple[Any, ...]:
        with self._explained():
            (found,) = self._connection.execute(query).fetchall()
        return tuple(found)

    def _plain(self, table: Any) -> dict[str, Any]:
        pairs = zip(self.dtypes.items(), table.columns, strict=True)
        return {name: _to_masked(column, dtype) for (name, dtype), column in pairs}

    def _new_file(self) -> Path:
        self._made += 1
        return self._folder / f"rows-{self._made:04d}.parquet"

    def _close_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except duckdb.OutOfMemoryException as error:
            raise RecipeError("sort_memory_mb", f"is too little for these targets ({_first_line(error)})") from None
        except duckdb.IOException as error:
            raise RecipeError(str(self._folder), f"cannot be written to ({_first_line(error)})") from None


def _wider(earlier: np.dtype[Any] | None, dtype: np.dtype[Any]) -> np.dtype[Any]:
    wide = dtype if earlier is None else np.result_type(earlier, dtype)
    return np.dtype(str) if wide.kind == "U" else wide


def _sql_type(dtype: np.dtype[Any]) -> str:
    return _SQL_TYPES.get(dtype.name, "VARCHAR")


def _to_arrow(values: Any) -> Any:
    data, mask = np.asarray(values.data), np.ma.getmaskarray(values)
    if data.dtype.kind == "f":
        plain = np.where(mask, np.nan, data)
        return pa.array(plain.astype(np.float32) if data.dtype == np.float16 else plain)
    if data.dtype.kind in "iub":
        return pa.array(data, mask=mask if mask.any() else None)
    return pa.array(np.where(mask, "", data) if mask.any() else data, pa.string())


def _to_masked(column: Any, dtype: np.dtype[Any]) -> Any:
    mask = np.asarray(column.is_null())
    if mask.any():
        column = column.fill_null(pa.scalar(0).cast(column.type))
    return np.ma.MaskedArray(column.to_numpy().astype(dtype), mask=mask)


def _parquet(path: Path) -> str:
    return f"read_parquet('{_quoted(path)}')"


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
