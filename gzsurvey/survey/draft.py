"""The targets of a plan: read, cut, sorted and written to a folder that is laid out like a RUN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import Card
from gzsurvey.errors import TableError
from gzsurvey.images.frame import field_of_view
from gzsurvey.outputs.columns import TARGET_ID, Column, Layout, Stored, choose_campaigns
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import ArraySpec
from gzsurvey.progress import Progress
from gzsurvey.sky.blocks import block_length
from gzsurvey.sky.footprint import parse_footprint
from gzsurvey.sky.pairs import ClosePairs
from gzsurvey.sky.spool import Spool
from gzsurvey.sky.targets import (
    CLOSE_ARCSEC,
    Cut,
    TargetColumns,
    TargetOptions,
    Targets,
    TargetTable,
    close_pairs_note,
    read_targets,
)
from gzsurvey.survey.job import Job
from gzsurvey.survey.layout import array_specs, layer_columns
from gzsurvey.survey.record import read_record
from gzsurvey.survey.targets_file import Columns, open_targets

_READY = "images"
_NEED_NO_POSITIONS = {_READY, "synthetic"}


@dataclass(frozen=True)
class DraftedTargets:
    """Targets in catalogue order, on disk, before there is a RUN."""

    folder: Path
    """Holds ``targets.parquet``, where a RUN has it."""
    rows: int
    block_rows: int
    has_positions: bool
    columns: TargetColumns
    arrays: tuple[ArraySpec, ...]
    cuts: tuple[Cut, ...]
    notes: tuple[str, ...]


def open_target_table(job: Job, card: Card, indexes: Sequence[Path | None]) -> TargetTable:
    """Open the table of targets, and refuse what can be refused before its rows are read.

    Raises
    ------
    gzsurvey.errors.GZSurveyError
        The table has no such columns, no positions or sizes where these are needed, or too many columns are kept.
    """
    table = TargetTable.open(job.targets, _options(job, indexes))
    if not table.has_positions and any(spec.kind not in _NEED_NO_POSITIONS for spec in job.sources):
        raise TableError(job.targets, "has no positions; name them with --ra-column and --dec-column")
    rule = card.preparation.scale_rule
    if not _ready_images(job) and rule.kind != "fixed" and not table.roles.r50:
        raise TableError(
            job.targets,
            "has no size, and this model sizes its cutouts by the half-light radius; name a column with --size-column "
            "(and --size-unit)",
        )
    kept = tuple(Column(info.name, "E") for info in table.kept)
    stored = Stored(replace(TARGET_ID, name=table.id_column.name), kept, layer_columns(job.sources))
    Layout(card, choose_campaigns(card, job.campaigns or None), stored)
    return table


def expected_arrays(job: Job, card: Card, table: TargetTable) -> tuple[ArraySpec, ...]:
    """Return the arrays of a run as far as they are known before rows are read: every number has 8 bytes."""
    kept = tuple(replace(info, null=None) for info in table.kept)
    numbers = (np.dtype(np.float64),) * len(kept)
    columns = TargetColumns(table.id_column, np.dtype(np.int64), kept, numbers, bool(table.roles.r50))
    return array_specs(card, columns, layer_columns(job.sources), job.recipe.embedding)


def draft_targets(
    job: Job, card: Card, table: TargetTable, folder: Path, workers: int, room: Callable[[int], None]
) -> DraftedTargets:
    """Read, cut and sort the targets, and write them block by block.

    Parameters
    ----------
    job : Job
        What is asked for.
    card : Card
        The model's.
    table : TargetTable
        From `open_target_table`.
    folder : Path
        Takes ``targets.parquet``, and for the time of the work what is not held in memory.
    workers : int
        Processes that will share the blocks.
    room : callable
        Given how many targets there are so far; raises where their run has no room.

    Raises
    ------
    gzsurvey.errors.TableError
        Rows are wrong, or none is left.
    """
    spool = Spool(folder / "spool", job.recipe.sort_memory_mb)
    try:
        targets = read_targets(table, spool, room)
        columns = targets.columns
        arrays = array_specs(card, columns, layer_columns(job.sources), job.recipe.embedding)
        length = block_length(targets.rows, workers, job.recipe.block_rows)
        notes = _write(job, card, targets, folder, length)
    finally:
        spool.close()
    return DraftedTargets(
        folder, targets.rows, length, table.has_positions, columns, arrays, targets.cuts, (*targets.notes, *notes)
    )


def _write(job: Job, card: Card, targets: Targets, folder: Path, length: int) -> tuple[str, ...]:
    """Write ``targets.parquet``; return what a user should know of all targets together."""
    pairs, unknown = ClosePairs(folder, CLOSE_ARCSEC), 0
    progress = Progress("sort targets", targets.rows, "targets")
    with open_targets(folder) as write:
        for columns in targets.in_order(length):
            width, without_size = _cutout_width(job, card, columns)
            unknown += without_size
            write(_stored(columns, width))
            if targets.table.has_positions:
                pairs.add(columns["ra"], columns["dec"])
            progress.advance(len(width))
    progress.finish()
    sizes = (f"{unknown:,} targets have no size: they get the smallest cutout",) if unknown else ()
    return (*close_pairs_note(pairs.finish()), *sizes)


def _stored(columns: Columns, width: NDArray[np.float64]) -> Columns:
    """Return the columns of ``targets.parquet``, in order."""
    first = {name: columns[name] for name in ("id", "ra", "dec", "healpix_29")} | {"cutout_width": width}
    return first | {name: values for name, values in columns.items() if name not in first and name != "r90"}


def _cutout_width(job: Job, card: Card, columns: Columns) -> tuple[NDArray[np.float64], int]:
    """Return the width of each target's cutout, arcsec, and how many targets have no size."""
    n = len(columns["id"])
    if _ready_images(job):
        return np.full(n, np.nan), 0
    preparation = card.preparation
    r50 = columns.get("r50", np.zeros(n))
    unknown = ~np.isfinite(r50)
    width = field_of_view(preparation.scale_rule, np.where(unknown, 0.0, r50), columns.get("r90"))
    return width * preparation.crop, int(unknown.sum())


def _ready_images(job: Job) -> bool:
    return all(spec.kind == _READY for spec in job.sources)


def _options(job: Job, indexes: Sequence[Path | None]) -> TargetOptions:
    index, excluded, scale = indexes[0], _excluded_run(job), None
    if index is not None:
        from gzsurvey.cutouts.index_file import pixel_scale_arcsec

        scale = partial(pixel_scale_arcsec, index)
    return TargetOptions(
        columns=job.columns,
        keep=job.keep,
        select=job.select,
        footprint=None if job.footprint is None else parse_footprint(job.footprint),
        exclude=None if job.exclude is None or excluded else parse_footprint(job.exclude),
        exclude_ids=excluded,
        duplicates=job.duplicates,
        limit=job.limit,
        pixel_scale_arcsec=scale,
    )


def _excluded_run(job: Job) -> Path | None:
    """Return the targets of the RUN that is left out, if it is one."""
    if job.exclude is None or not RunPaths(Path(job.exclude)).plan.is_file():
        return None
    read_record(Path(job.exclude))
    return RunPaths(Path(job.exclude)).targets
