"""The id index of a HATS collection: ids in order, and the partition that each stands in."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa

from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.opened import Rows
from gzsurvey.outputs.parquet import Dataset
from gzsurvey.sky.spool import Spool

SORT_MB = 64
"""Memory in which ids are sorted; what does not fit goes to disk."""
_ROWS_PER_GROUP = 16_384
"""At least. So that a look-up reads little: each group of rows knows its least and greatest id."""
_GROUPS = 16_384
"""At most, as all their footers are held together: longer groups from 2.7e8 rows on."""
_GROUPS_PER_FILE = 16


def write_id_index(folder: Path, id_column: Column, entries: Iterable[Rows]) -> None:
    """Write the files of an index, in bounded memory.

    Parameters
    ----------
    folder : Path
        ``id_index/dataset``.
    id_column : Column
        Its ids are in the column of this name.
    entries : iterable of dict of str to array, shape (n,)
        All rows, some at a time.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside, closing(Spool(Path(aside, "ids"), SORT_MB)) as spool:
        for rows in entries:
            spool.append({name: np.ma.asarray(values) for name, values in rows.items()})
        spool.seal()
        group = _ROWS_PER_GROUP * max(1, math.ceil(spool.count() / (_ROWS_PER_GROUP * _GROUPS)))
        dataset = None
        for number, rows in enumerate(spool.read([id_column.name], group * _GROUPS_PER_FILE)):
            table = pa.table({name: values.data for name, values in rows.items()})
            dataset = dataset or Dataset(folder, table.schema)
            dataset.write(Path("index", f"part-{number:05d}.parquet"), table, group)
    if dataset:
        dataset.finish()
