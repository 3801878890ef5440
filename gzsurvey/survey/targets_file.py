"""``targets.parquet``: the targets of a run in catalogue order, one row group per block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import settle
from gzsurvey.sky.targets import KEPT as KEPT

Columns = dict[str, NDArray[Any]]


@contextmanager
def open_targets(run: Path) -> Iterator[Callable[[Columns], None]]:
    """Write the targets of a run block by block: yields what writes one block, as `read_block_targets` gives it."""
    paths = RunPaths(run)
    paths.aside.mkdir(parents=True, exist_ok=True)
    aside = paths.aside / "targets.parquet"
    with ExitStack() as files:
        writers: list[pq.ParquetWriter] = []

        def write(columns: Columns) -> None:
            table = pa.table(columns)
            if not writers:
                writers.append(files.enter_context(pq.ParquetWriter(aside, table.schema, compression="zstd")))
            writers[0].write_table(table, row_group_size=len(table))

        yield write
    settle(aside, paths.targets)


def read_block_targets(run: Path, block: int, names: Sequence[str] | None = None) -> Columns:
    """Read the targets of one block.

    Parameters
    ----------
    run : Path
        The RUN.
    block : int
        Its number.
    names : sequence of str, optional
        Columns; all of them by default.

    Returns
    -------
    dict of str to array, shape (n,)
        ``id`` (int64 or str), ``ra``, ``dec`` (deg), ``healpix_29``, ``cutout_width``, ``r50`` (arcsec)
        and ``image`` where there are such, ``keep:NAME`` for kept columns.
    """
    with pq.ParquetFile(RunPaths(run).targets) as file:
        table = file.read_row_group(block, columns=None if names is None else list(names))
    return {name: _plain(table.column(name)) for name in table.column_names}


def read_some_targets(run: Path, rows: NDArray[np.int64], block_rows: int) -> Columns:
    """Read the targets of some rows, ascending, of a run whose blocks have `block_rows` rows."""
    numbers = rows // block_rows
    blocks = np.unique(numbers) if len(rows) else np.zeros(1, np.int64)
    parts = [
        {name: values[rows[numbers == number] - number * block_rows] for name, values in targets.items()}
        for number, targets in ((int(n), read_block_targets(run, int(n))) for n in blocks)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def target_columns(run: Path) -> list[str]:
    """Return the names of the columns that `read_block_targets` gives."""
    return [str(name) for name in pq.read_schema(RunPaths(run).targets).names]


def _plain(column: Any) -> NDArray[Any]:
    values = column.to_numpy(zero_copy_only=False)
    return np.array(values, dtype=str) if values.dtype.kind == "O" else np.asarray(values)
