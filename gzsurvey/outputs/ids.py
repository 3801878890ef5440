"""Where the targets of a run stand: rows by id, without reading a whole catalogue."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import TableError
from gzsurvey.outputs.columns import HEALPIX, TARGET_ID
from gzsurvey.outputs.hats import DATASET, HATS_HEALPIX, INDEX
from gzsurvey.outputs.opened import Catalogue, row_numbers
from gzsurvey.outputs.paths import RunPaths

_WHOLE = re.compile(r"-?[0-9]{1,19}")


def look_up_rows(run: Path, catalogue: Catalogue, ids: Sequence[int | str]) -> NDArray[np.int64]:
    """Return the rows of some targets in a catalogue of a run, ascending, each once; int64, shape (n,).

    The id index of ``hats/`` says in which cell an id lies, and rows are in the order of cells: little
    is read. A run without one is searched by `find_rows`.

    Raises
    ------
    gzsurvey.errors.TableError
        No target has one of the ids.
    """
    import pyarrow.compute as pc

    index = RunPaths(run).hats / INDEX / DATASET / "_metadata"
    if not index.is_file():
        return find_rows(run, ids)
    name, healpix = catalogue.columns[0].name, HEALPIX.name
    dataset = _opened(index, index.stat().st_mtime_ns)
    wanted = _typed(ids, dataset.schema.field(name).type, run)
    entries = dataset.to_table(filter=pc.field(name).isin(wanted))
    _refuse_lost(run, wanted, set(entries[name].to_pylist()))
    cells = np.unique(entries[HATS_HEALPIX].to_numpy())
    starts, stops = (catalogue.count_below(healpix, edge) for edge in (cells, cells + 1))
    rows = np.concatenate([np.zeros(0, np.int64), *row_numbers(starts, stops, len(catalogue))])
    return rows[np.isin(catalogue.read(rows, [name])[name], wanted)]


@lru_cache(maxsize=4)
def _opened(index: Path, _mtime: int) -> Any:
    """Open an index once, as long as it is the same."""
    import pyarrow.dataset as ds

    return ds.parquet_dataset(index)


def find_rows(run: Path, ids: Sequence[int | str]) -> NDArray[np.int64]:
    """Return the rows of some targets.

    One pass over the ids of ``targets.parquet``, block by block; blocks whose least and greatest
    id say that they hold none are skipped.

    Parameters
    ----------
    run : Path
        A RUN.
    ids : sequence of int or str
        Each once or more often.

    Returns
    -------
    int64, shape (n,)
        In catalogue order, each row once.

    Raises
    ------
    gzsurvey.errors.TableError
        No target has one of the ids.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path, name = RunPaths(run).targets, TARGET_ID.name
    found: list[NDArray[np.int64]] = []
    seen: set[Any] = set()
    with pq.ParquetFile(path) as file:
        kind = file.schema_arrow.field(name).type
        wanted = _typed(ids, kind, run)
        column, start, sought = file.schema_arrow.get_field_index(name), 0, pa.array(wanted, kind)
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            if _may_hold(group.column(column).statistics, wanted):
                values = file.read_row_group(number, columns=[name]).column(0)
                hits = np.flatnonzero(pc.is_in(values, sought).to_numpy())
                seen.update(values.take(pa.array(hits)).to_pylist())
                found.append(hits + start)
            start += group.num_rows
    _refuse_lost(run, wanted, seen)
    return np.concatenate(found)


def _refuse_lost(run: Path, wanted: Sequence[Any], seen: Collection[Any]) -> None:
    lost = [value for value in wanted if value not in seen]
    if lost:
        raise TableError(str(run), f"has no target with the id {lost[0]!r}{_others(len(lost))}")


def _typed(ids: Sequence[int | str], kind: Any, run: Path) -> list[Any]:
    import pyarrow as pa

    if not pa.types.is_integer(kind):
        return [str(value) for value in ids]
    odd = [value for value in map(str, ids) if not _WHOLE.fullmatch(value.strip())]
    if odd:
        raise TableError(str(run), f"its ids are whole numbers; got {odd[0][:60]!r}")
    return [int(value) for value in ids]


def _may_hold(statistics: Any, wanted: Sequence[Any]) -> bool:
    if statistics is None or not statistics.has_min_max:
        return True
    return any(statistics.min <= value <= statistics.max for value in wanted)


def _others(count: int) -> str:
    return "" if count == 1 else f", nor {count - 1} others"
