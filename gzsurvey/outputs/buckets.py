"""Rows of any number, sorted by one column in bounded memory.

Two passes: rows go into buckets of neighbouring values, then each bucket is sorted by itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gzsurvey.outputs.opened import Rows

ROWS_PER_BUCKET = 1_000_000
_SAMPLES_PER_BUCKET = 200
"""Values that the limits of a bucket are chosen by: buckets differ by some 7 %."""

Entries = Callable[[], Iterator[Rows]]
"""Gives, at each call, all rows: some at a time, arrays of shape (n,) by column name."""


def sorted_buckets(entries: Entries, by: str, n_rows: int, place: Path) -> Iterator[Any]:
    """Yield rows as `pyarrow.Table`, sorted by a column; equal values are in one table, in the order they came.

    Parameters
    ----------
    entries : callable
        The rows.
    by : str
        The column.
    n_rows : int
        How many rows there are.
    place : Path
        Folder for temporary files.
    """
    limits = _limits(by, entries, n_rows)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        buckets = [Path(folder, f"{number}.parquet") for number in range(len(limits) + 1)]
        _fill(buckets, limits, by, entries)
        for bucket in buckets:
            rows = pq.read_table(bucket)
            if len(rows):
                order = np.argsort(_plain(rows[by]), kind="stable")
                yield rows.take(pa.array(order))


def _limits(by: str, entries: Entries, n_rows: int) -> NDArray[Any]:
    """Choose the values at which buckets end, from a sample."""
    buckets = -(-n_rows // ROWS_PER_BUCKET)
    step = max(1, ROWS_PER_BUCKET // _SAMPLES_PER_BUCKET)
    sample = np.sort(np.concatenate([rows[by][::step] for rows in entries()]))
    return np.unique(sample[len(sample) * np.arange(1, buckets) // buckets])


def _fill(buckets: list[Path], limits: NDArray[Any], by: str, entries: Entries) -> None:
    """Write every row into the bucket of its value."""
    schema = pa.table({key: values[:0] for key, values in next(entries()).items()}).schema
    with ExitStack() as files:
        writers = [files.enter_context(pq.ParquetWriter(path, schema)) for path in buckets]
        for rows in entries():
            table = pa.table(rows, schema=schema)
            bucket = np.searchsorted(limits, rows[by], side="right")
            for number in np.unique(bucket):
                writers[number].write_table(table.filter(pa.array(bucket == number)))


def _plain(column: Any) -> NDArray[Any]:
    values = column.to_numpy()
    return values.astype(str) if values.dtype.kind == "O" else np.asarray(values)
