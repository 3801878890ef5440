"""The id index of a HATS collection: ids in order, and the partition that each stands in."""

from __future__ import annotations

from pathlib import Path

from gzsurvey.outputs.buckets import Entries, sorted_buckets
from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.parquet import Dataset

_ROWS_PER_GROUP = 16_384
"""So that a look-up reads little: each group of rows knows its least and greatest id."""


def write_id_index(folder: Path, id_column: Column, entries: Entries, n_rows: int) -> None:
    """Write the files of an index.

    Parameters
    ----------
    folder : Path
        ``id_index/dataset``.
    id_column : Column
        Its ids are in the column of this name.
    entries : callable
        Gives, at each call, all rows.
    n_rows : int
        How many there are.
    """
    dataset = None
    for number, rows in enumerate(sorted_buckets(entries, id_column.name, n_rows, folder.parent)):
        dataset = dataset or Dataset(folder, rows.schema)
        dataset.write(Path("index", f"part-{number:05d}.parquet"), rows, _ROWS_PER_GROUP)
    if dataset:
        dataset.finish()
