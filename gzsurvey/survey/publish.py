"""From finished blocks to the catalogues: everything here comes from ``predictions.zarr``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import ClassesHead, LabelsHead
from gzsurvey.errors import RecipeError, RunIncomplete
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.columns import Layout, choose_campaigns
from gzsurvey.outputs.coverage import Coverage
from gzsurvey.outputs.hats import write_hats
from gzsurvey.outputs.missing import open_missing
from gzsurvey.outputs.opened import open_catalogue
from gzsurvey.outputs.parts import PART_BYTES, open_product
from gzsurvey.outputs.paths import is_there, parts_list
from gzsurvey.outputs.prevalence import Shares, estimated_shares, parse_prevalence
from gzsurvey.outputs.rows import Rows, catalogue_rows, friendly_rows, mean_over_members
from gzsurvey.outputs.zarr import consolidate, read_rows
from gzsurvey.sky.footprint import parse_footprint
from gzsurvey.status import Status
from gzsurvey.survey import ledger
from gzsurvey.survey.checksums import checksums_of, product_files, write_checksums
from gzsurvey.survey.describe import finished_time, header_parameters, provenance
from gzsurvey.survey.finished import FinishedRun, measured, open_finished
from gzsurvey.survey.record import RunRecord
from gzsurvey.survey.streams import in_order
from gzsurvey.survey.targets_file import Columns

_ESTIMATED_FROM = 200_000
"""Predictions that a prevalence is estimated from: their sampling noise is then below 0.2 %."""
_ROWS_AT_A_TIME = 4096
"""Rows that are made together: memory is theirs, however large a block is."""
_MOST_THREADS = 4
"""That make rows, side by side: each more costs some 20 MB."""
_READ_AHEAD = 2
"""Blocks that are held: one that is read while rows of the other are made."""


def publish(
    run_dir: Path,
    campaigns: Sequence[str] | None = None,
    prevalence: Sequence[str] = (),
    flavours: Sequence[Literal["friendly"]] = (),
    part_bytes: int | None = PART_BYTES,
) -> Path:
    """Make the catalogues and what goes with them from the finished blocks of a run.

    Safe to repeat: every file is written aside and renamed.

    Parameters
    ----------
    run_dir : Path
        A RUN.
    campaigns : sequence of str, optional
        Whose volunteers the catalogue imitates; by default those of the plan, else the card's.
    prevalence : sequence of str
        ``TASK.CLASS=SHARE``: shares to expect in the survey; ``TASK=estimated``: from the
        predictions themselves. They make `TASK_CLASS_probability`, blank where nothing is said.
    flavours : sequence of str
        ``friendly``: also ``catalogue_friendly.fits``, fractions blank where fewer than half of the volunteers
        would be asked, as GZ DESI is published. One that is there already is made anew in any case.
    part_bytes : int or None
        FITS catalogues beyond this size are written in parts; None: never.

    Returns
    -------
    Path
        ``catalogue.fits``, or the folder ``catalogue/`` with its parts. Beside it: ``catalogue_full.fits``,
        ``missing.ecsv``, ``provenance.json``, ``sha256.txt``; with positions ``hats/`` and ``moc/``.

    Raises
    ------
    gzsurvey.errors.RecipeError
        `prevalence` names what the model does not predict, or no shares.
    gzsurvey.errors.RunIncomplete
        Blocks are not finished. Everything is published all the same; their targets have status 40.
    """
    run = open_finished(run_dir)
    chosen = choose_campaigns(run.card, campaigns or run.record.campaigns)
    layout = Layout(run.card, chosen, run.stored, "full", _prevalence(run, prevalence))
    friendly = "friendly" in flavours or is_there(run.paths.catalogue_friendly)
    layouts = [layout, replace(layout, flavour="catalogue")]
    layouts += [replace(layout, flavour="friendly")] if friendly else []
    _write_tables(run, layouts, part_bytes).write(run.paths.moc, footprint(run.record))
    if run.record.has_positions:
        usual = [column.name for column in layouts[1].columns]
        full = open_catalogue(run.paths.catalogue_full)
        write_hats(run.paths.hats, full, usual, finished_time(run.record, run.entries))
    consolidate(run.paths.zarr)
    sums = checksums_of(product_files(run.paths))
    provenance(run, layout, sums).write(run.paths.provenance)
    write_checksums(run.paths, sums)
    _refuse_unfinished(run)
    return run.paths.catalogue if run.paths.catalogue.is_file() else parts_list(run.paths.catalogue).parent


def _prevalence(run: FinishedRun, options: Sequence[str]) -> dict[str, Shares]:
    """Return the shares of the classes of each task that something is said of."""
    heads = {head.task: head for head in run.card.heads if isinstance(head, ClassesHead | LabelsHead)}
    stated = parse_prevalence(options, run.card)
    return {
        task: estimated_shares(_scores(run, heads[task]), heads[task]) if isinstance(shares, str) else shares
        for task, shares in stated.items()
    }


def _scores(run: FinishedRun, head: ClassesHead | LabelsHead) -> NDArray[np.float64]:
    """Probabilities (N, K) of predicted rows of finished blocks, evenly chosen, about 200,000 at most."""
    finished = [block for block in run.record.blocks if block.number in run.entries]
    step = max(1, sum(block.rows for block in finished) // _ESTIMATED_FROM)
    parts = [np.zeros((0, len(head.classes)))]
    for block in finished[::step]:
        rows = read_rows(run.paths.zarr, block.start, block.stop, [c.STATUS.name, head.output])
        parts.append(mean_over_members(rows[head.output][rows[c.STATUS.name] == Status.PREDICTED]))
    found = np.concatenate(parts)
    if not len(found):
        raise RecipeError("--prevalence", f"{head.task}=estimated: no target has a prediction to estimate from")
    return found


def _write_tables(run: FinishedRun, layouts: Sequence[Layout], part_bytes: int | None) -> Coverage:
    """Write the catalogues, the full one first, and the misses in one pass; return where on the sky they are."""
    full = layouts[0]
    parameters = header_parameters(run.record, full, run.entries, run.counts)
    coverage = Coverage()
    with ExitStack() as files:
        tables = {
            layout.flavour: files.enter_context(
                open_product(run.product(layout.flavour), layout.columns, run.record.rows, parameters, part_bytes)
            )
            for layout in layouts
        }
        missing = files.enter_context(open_missing(run.paths.missing, full.stored.target_id))
        for stored, rows in _rows(run, full):
            for flavour, table in tables.items():
                table.append(friendly_rows(rows, full) if flavour == "friendly" else rows)
            missing.append(stored)
            coverage.append(stored)
    return coverage


def _rows(run: FinishedRun, full: Layout) -> Iterator[tuple[Rows, Rows]]:
    """Yield arrays of the run, some rows at a time, and the same rows in the full catalogue."""

    def make(part: tuple[Rows, Columns]) -> tuple[Rows, Rows]:
        stored, targets = part
        return stored, catalogue_rows(stored, full, measured(targets))

    blocks = in_order(run.rows, run.record.blocks, _READ_AHEAD)
    parts = (part for stored, targets in blocks for part in _parts(stored, targets))
    return in_order(make, parts, 1 + min(os.cpu_count() or 1, _MOST_THREADS))


def _parts(stored: Rows, targets: Columns) -> Iterator[tuple[Rows, Columns]]:
    for start in range(0, len(targets["id"]), _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        yield _cut(stored, rows), _cut(targets, rows)


def _cut(arrays: Mapping[str, NDArray[Any]], rows: slice) -> dict[str, NDArray[Any]]:
    return {name: values[rows] for name, values in arrays.items()}


def footprint(record: RunRecord) -> Any | None:
    """Return the region that was asked for as a `mocpy.MOC`; None: wherever there are targets."""
    return parse_footprint(record.footprint).moc() if record.footprint else None


def _refuse_unfinished(run: FinishedRun) -> None:
    left = run.record.n_blocks - len(run.entries)
    if left:
        failed = [e for e in ledger.read_entries(run.run_dir).values() if e.state == "failed"]
        cause = failed[0].cause if failed else "not run yet"
        raise RunIncomplete(run.run_dir, left, run.record.n_blocks, cause)
