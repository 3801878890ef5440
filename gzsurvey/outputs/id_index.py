"""The id index of a HATS collection: ids in order, and the partition that each stands in.

Sorting is done in two passes, so that memory does not grow with the catalogue: rows go into buckets of neighbouring
ids, then each bucket is sorted by itself.
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

from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.opened import Rows
from gzsurvey.outputs.parquet import Dataset

ROWS_PER_BUCKET = 1_000_000
_SAMPLES_PER_BUCKET = 200
"""Ids that the limits of a bucket are chosen by: buckets differ by some 7 %."""
_ROWS_PER_GROUP = 65_536
"""So that a look-up reads little: each group of rows knows its least and greatest id."""

Entries = Callable[[], Iterator[Rows]]


def write_id_index(folder: Path, id_column: Column, entries: Entries, n_rows: int) -> None:
    """Write the files of an index.

    Parameters
    ----------
    folder : Path
        ``id_index/dataset``.
    id_column : Column
        Its ids are in the first column of every entry.
    entries : callable
        Gives, at each call, all rows: some at a time, by column name, ids first.
    n_rows : int
        How many there are.
    """
    limits = _limits(id_column.name, entries, n_rows)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        buckets = [Path(place, f"{number}.parquet") for number in range(len(limits) + 1)]
        schema = _fill(buckets, limits, id_column.name, entries)
        dataset = Dataset(folder, schema)
        for number, bucket in enumerate(buckets):
            rows = pq.read_table(bucket).sort_by(id_column.name)
            if len(rows):
                dataset.write(Path("index", f"part-{number:05d}.parquet"), rows, _ROWS_PER_GROUP)
        dataset.finish()


def _limits(name: str, entries: Entries, n_rows: int) -> NDArray[Any]:
    """Choose the ids at which buckets end, from a sample."""
    buckets = -(-n_rows // ROWS_PER_BUCKET)
    step = max(1, ROWS_PER_BUCKET // _SAMPLES_PER_BUCKET)
    sample = np.sort(np.concatenate([rows[name][::step] for rows in entries()]))
    return np.unique(sample[len(sample) * np.arange(1, buckets) // buckets])


def _fill(buckets: list[Path], limits: NDArray[Any], name: str, entries: Entries) -> Any:
    """Write every row into the bucket of its id; return the schema."""
    schema = pa.table({key: values[:0] for key, values in next(entries()).items()}).schema
    with ExitStack() as files:
        writers = [files.enter_context(pq.ParquetWriter(path, schema)) for path in buckets]
        for rows in entries():
            table = pa.table(rows, schema=schema)
            bucket = np.searchsorted(limits, rows[name], side="right")
            for number in np.unique(bucket):
                writers[number].write_table(table.filter(pa.array(bucket == number)))
    return schema
