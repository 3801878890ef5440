"""One RUN from several: new area, or a new release of the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import CardMismatch, RunIncomplete, TableError
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.id_index import SORT_MB
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import Shard, create_arrays, group_attributes_of, read_rows, stored_specs, write_block
from gzsurvey.sky.blocks import Block
from gzsurvey.sky.spool import ID, ROW, Spool
from gzsurvey.survey import checks, ledger
from gzsurvey.survey.describe import finished_time
from gzsurvey.survey.finished import FinishedRun, open_finished
from gzsurvey.survey.publish import publish
from gzsurvey.survey.record import CutRecord, RunRecord, SourceRecord, check_same, read_record, write_record
from gzsurvey.survey.targets_file import Columns, open_targets, read_block_targets, target_columns

Numbers = NDArray[np.int64]
_IDS_AT_A_TIME = 65_536


@dataclass(frozen=True)
class _Keys:
    """What rows of one run are ordered by, shape (n,)."""

    healpix: Numbers
    ids: NDArray[Any]
    rows: Numbers

    def count_to(self, healpix: int, target: Any) -> int:
        """Count keys up to this one, which are the first ones."""
        return int(((self.healpix < healpix) | ((self.healpix == healpix) & (self.ids <= target))).sum())

    def part(self, start: int, stop: int | None) -> _Keys:
        """Return some of them."""
        return _Keys(self.healpix[start:stop], self.ids[start:stop], self.rows[start:stop])


def merge(runs: Sequence[Path], out: Path) -> Path:
    """Make one RUN of several, and publish it.

    Memory is that of a few blocks, and one byte for each row.

    Parameters
    ----------
    runs : sequence of Path
        Finished RUNs of the same model, with the same kept columns and layers. A target, by its id, that
        stands in two is taken from the last named.
    out : Path
        The new RUN.

    Returns
    -------
    Path
        Its catalogue.

    Raises
    ------
    gzsurvey.errors.CardMismatch
        The models differ.
    gzsurvey.errors.TableError
        The columns differ.
    gzsurvey.errors.RunIncomplete
        A run is not finished.
    gzsurvey.errors.OutputConflict
        `out` was made from other runs.
    """
    opened = [open_finished(run) for run in runs]
    _check_alike(opened)
    inputs = {
        f"run {i}": f"{run.run_dir.name} {ledger.digest(run.run_dir, run.entries)[1]}"
        for i, run in enumerate(opened, 1)
    }
    paths = RunPaths(out)
    if paths.plan.is_file():
        check_same(out, read_record(out).inputs, inputs)
        return publish(out)
    out.mkdir(parents=True, exist_ok=True)
    with ledger.locked(out):
        ledger.clean(out)
        replaced = _replaced(opened, paths.aside)
        rows = sum(int((~gone).sum()) for gone in replaced)
        record = _record(opened, inputs, rows)
        last = opened[-1]
        shutil.copyfile(last.paths.model, paths.model)
        if last.paths.environment.is_file():
            shutil.copyfile(last.paths.environment, paths.environment)
        specs = stored_specs(last.paths.zarr)
        create_arrays(paths.zarr, specs, rows, record.block_rows, group_attributes_of(last.paths.zarr))
        _write_blocks(opened, replaced, record, out)
        write_record(out, record)
    return publish(out)


def _check_alike(runs: Sequence[FinishedRun]) -> None:
    first = runs[0]
    for run in runs:
        left = run.record.n_blocks - len(run.entries)
        if left:
            raise RunIncomplete(run.run_dir, left, run.record.n_blocks, "a run is merged when it is finished")
        if run.record.model_sha256 != first.record.model_sha256:
            raise CardMismatch(str(run.run_dir), f"was made with another model than {first.run_dir}; classify it again")
        here, there = (
            {spec.name: (spec.dtype, spec.inner) for spec in stored_specs(one.paths.zarr)} for one in (run, first)
        )
        if here != there or target_columns(run.run_dir) != target_columns(first.run_dir):
            odd = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
            raise TableError(
                str(run.run_dir), f"has other columns than {first.run_dir}: {', '.join(odd) or 'r50, image'}"
            )
        if (run.record.has_positions, run.record.id_column.name) != (
            first.record.has_positions, first.record.id_column.name,
        ):  # fmt: skip
            raise TableError(str(run.run_dir), f"has other ids or positions than {first.run_dir}")


def _replaced(runs: Sequence[FinishedRun], place: Path) -> list[NDArray[np.bool_]]:
    """Return for each run which of its rows stand in a later one, by id."""
    starts = np.cumsum([0, *(run.record.rows for run in runs)])
    found = np.zeros(starts[-1], dtype=bool)
    with closing(Spool(place / "ids", SORT_MB)) as spool:
        for run, start in zip(runs, starts, strict=False):
            for block in run.record.blocks:
                ids = read_block_targets(run.run_dir, block.number, ["id"])["id"]
                rows = start + np.arange(block.start, block.stop)
                spool.append({ID: np.ma.asarray(ids), ROW: np.ma.asarray(rows)})
        spool.seal()
        last: tuple[Any, int] = (None, 0)
        for rows in spool.read([ID, ROW], _IDS_AT_A_TIME):
            ids, numbers = rows[ID].data, rows[ROW].data
            found[numbers[:-1][ids[:-1] == ids[1:]]] = True
            if last[0] == ids[0]:
                found[last[1]] = True
            last = ids[-1], numbers[-1]
    return np.split(found, starts[1:-1])


def _record(runs: Sequence[FinishedRun], inputs: dict[str, Any], rows: int) -> RunRecord:
    records = {run.run_dir.name: run.record for run in runs}
    total = sum(record.rows for record in records.values())
    cuts = [
        CutRecord(name=f"{name}, {cut.name}", before=cut.before, after=cut.after)
        for name, record in records.items()
        for cut in record.cuts
    ]
    notes = [f"{name}: {note}" for name, record in records.items() for note in record.notes]
    notes += [
        f"{name}: {what} {text}"
        for name, record in records.items()
        for what, text in (("footprint", record.footprint), ("exclude", record.exclude), ("select", record.select))
        if text
    ]
    return runs[-1].record.model_copy(
        update={
            "inputs": inputs,
            "targets": ", ".join(dict.fromkeys(record.targets for record in records.values())),
            "targets_sha256": {
                key: value for record in records.values() for key, value in record.targets_sha256.items()
            },
            "sources": tuple(_Sources(runs).records),
            "rows": rows,
            "block_rows": max(record.block_rows for record in records.values()),
            "footprint": None,
            "exclude": None,
            "select": None,
            "cuts": (*cuts, CutRecord(name="a later run has it", before=total, after=rows)),
            "notes": tuple(notes),
            "estimate": {},
            "created": max(record.created for record in records.values()),
        }
    )


@dataclass
class _Sources:
    """The sources of all runs, each under a name of its own."""

    runs: Sequence[FinishedRun]
    records: list[SourceRecord] = field(default_factory=list)
    names: list[dict[str, str]] = field(default_factory=list)
    """For each run: its names of sources, and the new ones."""
    indexes: dict[str, Path] = field(default_factory=dict)
    """Files to copy, by new name."""

    def __post_init__(self) -> None:
        for run in self.runs:
            self.names.append({source.name: self._add(run, source) for source in run.record.sources})

    def _add(self, run: FinishedRun, source: SourceRecord) -> str:
        plain = source.model_copy(update={"name": "", "index": None})
        for known in self.records:
            if known.model_copy(update={"name": "", "index": None}) == plain:
                return known.name
        taken = {known.name for known in self.records}
        name = next(n for n in (source.name, *(f"{source.name}-{i}" for i in range(2, 99))) if n not in taken)
        index = f"index-{len(self.records)}.json" if source.index else None
        if index and source.index:
            self.indexes[index] = run.run_dir / source.index
        self.records.append(source.model_copy(update={"name": name, "index": index}))
        return name


def _write_blocks(
    runs: Sequence[FinishedRun], replaced: Sequence[NDArray[np.bool_]], record: RunRecord, out: Path
) -> None:
    """Write arrays, targets, checks and ledger of the new run."""
    paths, sources = RunPaths(out), _Sources(runs)
    for name, index in sources.indexes.items():
        shutil.copyfile(index, out / name)
    readers = [_Reader(run, names) for run, names in zip(runs, sources.names, strict=True)]
    outputs = tuple(runs[-1].card.outputs)
    blocks = iter(record.blocks)
    with open_targets(out) as write_targets:
        for numbers, rows in _in_blocks(_in_order(runs, replaced), record.block_rows):
            block = next(blocks)
            values, targets, images = _gather(readers, numbers, rows)
            write_targets(targets)
            checks.write(out, block, values, images, outputs)
            shards = write_block(paths.zarr, paths.aside, block.number, values)
            ledger.write_entry(out, _entry(block, values, shards, runs))


def _entry(
    block: Block, values: Mapping[str, NDArray[Any]], shards: Mapping[str, Shard], runs: Sequence[FinishedRun]
) -> ledger.LedgerEntry:
    like = next(iter(runs[-1].entries.values()))
    return ledger.LedgerEntry(
        block=block.number,
        state="done",
        **ledger.contents(values),
        shards=dict(shards),
        seconds=0.0,
        provider=like.provider,
        versions=like.versions,
        host=like.host,
        finished=max(finished_time(run.record, run.entries) for run in runs),
    )


def _keys(run: FinishedRun, gone: NDArray[np.bool_]) -> Iterator[_Keys]:
    for block in run.record.blocks:
        targets = read_block_targets(run.run_dir, block.number, ["id", "healpix_29"])
        kept = np.flatnonzero(~gone[block.start : block.stop])
        if len(kept):
            yield _Keys(targets["healpix_29"][kept], targets["id"][kept], kept + block.start)


def _in_order(runs: Sequence[FinishedRun], replaced: Sequence[NDArray[np.bool_]]) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield runs and rows in catalogue order: by cell, ties by id; without positions run after run."""
    streams = [_keys(run, gone) for run, gone in zip(runs, replaced, strict=True)]
    if not runs[0].record.has_positions:
        for number, stream in enumerate(streams):
            yield from ((np.full(len(keys.rows), number), keys.rows) for keys in stream)
        return
    waiting = dict(enumerate(next(stream, None) for stream in streams))
    while alive := {number: keys for number, keys in waiting.items() if keys is not None}:
        # Whatever a run has yet to show comes after the last key that it has shown.
        safe = min((keys.healpix[-1], keys.ids[-1]) for keys in alive.values())
        taken = {}
        for number, keys in alive.items():
            count = keys.count_to(*safe)
            taken[number] = keys.part(0, count)
            waiting[number] = keys.part(count, None) if count < len(keys.rows) else next(streams[number], None)
        yield _sorted(taken)


def _sorted(taken: Mapping[int, _Keys]) -> tuple[Numbers, Numbers]:
    numbers = np.concatenate([np.full(len(keys.rows), number) for number, keys in taken.items()])
    rows, healpix, ids = (
        np.concatenate([getattr(keys, name) for keys in taken.values()]) for name in ("rows", "healpix", "ids")
    )
    order = np.lexsort((ids, healpix))
    return numbers[order], rows[order]


def _in_blocks(pieces: Iterator[tuple[Numbers, Numbers]], block_rows: int) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield the same in blocks of equal length, the last as short as need be."""
    held = np.zeros((2, 0), dtype=np.int64)
    for piece in pieces:
        held = np.concatenate([held, np.stack(piece)], axis=1)
        while held.shape[1] >= block_rows:
            yield held[0, :block_rows], held[1, :block_rows]
            held = held[:, block_rows:]
    if held.shape[1]:
        yield held[0], held[1]


class _Reader:
    """Reads rows of one run, a block at a time."""

    def __init__(self, run: FinishedRun, names: Mapping[str, str]) -> None:
        self._run, self._names = run, names
        self._number, self._block = -1, ({}, {})  # type: tuple[int, tuple[Columns, Columns]]
        self._images = {
            int(row): image
            for kept in checks.read(run.run_dir)
            for row, image in zip(kept["row"], kept["image"], strict=True)
        }

    def take(self, rows: Numbers) -> tuple[list[Columns], list[Columns], list[NDArray[Any] | None]]:
        """Return arrays and targets of some rows, ascending, by block; and the images that are kept of them."""
        values, targets = [], []
        for number in np.unique(rows // self._run.record.block_rows).tolist():
            block = self._run.record.block(number)
            inside = rows[(rows >= block.start) & (rows < block.stop)] - block.start
            if number != self._number:
                read = read_rows(self._run.paths.zarr, block.start, block.stop)
                self._number, self._block = number, (read, read_block_targets(self._run.run_dir, number))
            part = {name: column[inside] for name, column in self._block[0].items()}
            sets = part[c.IMAGE_SET.name].tolist()
            part[c.IMAGE_SET.name] = np.array([self._names.get(name, name) for name in sets], dtype=str)
            values.append(part)
            targets.append({name: column[inside] for name, column in self._block[1].items()})
        return values, targets, [self._images.get(row) for row in rows.tolist()]


def _gather(
    readers: Sequence[_Reader], numbers: Numbers, rows: Numbers
) -> tuple[Columns, Columns, dict[int, NDArray[Any]]]:
    """Return arrays and targets of one block, and the images that are kept by row in it."""
    values: list[Columns] = []
    targets: list[Columns] = []
    images: list[NDArray[Any] | None] = []
    places = []
    for number in np.unique(numbers).tolist():
        place = np.flatnonzero(numbers == number)
        more_values, more_targets, more_images = readers[number].take(rows[place])
        values, targets, images = values + more_values, targets + more_targets, images + more_images
        places.append(place)
    order = np.argsort(np.concatenate(places), kind="stable")
    kept = {row: image for row, place in enumerate(order.tolist()) if (image := images[place]) is not None}
    return _joined(values, order), _joined(targets, order), kept


def _joined(parts: Sequence[Columns], order: Numbers) -> Columns:
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
