"""A sample of rows of a RUN, predicted again from pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import EMBEDDING
from gzsurvey.errors import GZSurveyError, TableError
from gzsurvey.inference import OnnxModel, predict
from gzsurvey.inference.predict import to_model_input
from gzsurvey.outputs.ids import find_rows
from gzsurvey.outputs.zarr import read_rows
from gzsurvey.sky.blocks import Block
from gzsurvey.sky.columns import ColumnChoices, find_roles
from gzsurvey.sky.convert import identifiers
from gzsurvey.sky.tables import open_tables
from gzsurvey.status import Status
from gzsurvey.survey import checks
from gzsurvey.survey.finished import FinishedRun
from gzsurvey.survey.targets_file import read_block_targets
from gzsurvey.survey.worker import Runtime, recompute_rows

TOLERANCE = 0.01
"""Predictions may differ by this share of their size, and of the root mean square of their output: another
processor or version rounds otherwise."""
_NO_PIXELS = (Status.NO_IMAGE, Status.SOURCE_FAILED, Status.UNREADABLE)
Values = dict[str, NDArray[Any]]


@dataclass
class Recomputed:
    """How rows came out of their pixels again."""

    from_inputs: int = 0
    from_checks: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.from_inputs + self.from_checks:
            return "no row was recomputed, since checks/ is empty; --ids names targets to recompute"
        return (
            f"{self.from_inputs} rows recomputed from the images and {self.from_checks} from checks/ agree within "
            f"{TOLERANCE:.0%}"
        )


def recompute(run: FinishedRun, ids: str | None) -> Recomputed:
    """Predict a sample of rows again, from the images of the survey, or where they are gone from ``checks/``.

    Parameters
    ----------
    run : FinishedRun
        Its blocks that count.
    ids : str or None
        A table of the targets to recompute; None: the random ones that are kept in ``checks/``.

    Raises
    ------
    gzsurvey.errors.TableError
        A target is not in the run.
    """
    rows = _kept_rows(run) if ids is None else _rows_of(run, ids)
    model = OnnxModel(run.paths.model, "auto", 1, run.record.batch_size)
    found = Recomputed()
    left = _from_inputs(run, model, rows, found)
    _from_checks(run, model, left, found)
    if ids is not None and found.from_inputs + found.from_checks < len(rows):
        lost = len(rows) - found.from_inputs - found.from_checks
        found.problems.append(f"{lost} of the {len(rows)} targets of {ids} have no pixels any more")
    return found


def _kept_rows(run: FinishedRun) -> NDArray[np.int64]:
    """Return the random rows of ``checks/``, ascending."""
    kept = [part["row"] for part in checks.read(run.run_dir)]
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *kept]))


def _rows_of(run: FinishedRun, ids: str) -> NDArray[np.int64]:
    wanted: list[Any] = []
    for table in open_tables(ids):
        roles = find_roles(table.columns, ColumnChoices(), str(table.path))
        for chunk in table.read(roles.id):
            first = len(wanted)
            numbers = np.arange(first, first + len(chunk[roles.id[0]]))
            wanted += identifiers([chunk[name] for name in roles.id], str(table.path), numbers).tolist()
    if not wanted:
        raise TableError(ids, "is empty")
    return find_rows(run.run_dir, wanted)


def _from_inputs(run: FinishedRun, model: OnnxModel, rows: NDArray[np.int64], found: Recomputed) -> NDArray[np.int64]:
    """Compare rows with their images; return those that have none any more."""
    runtime = Runtime(run.run_dir, run.record, model)
    try:
        fetcher = runtime.fetcher
    except (GZSurveyError, OSError):
        return rows
    left = []
    for block, inside in _by_block(run, rows):
        targets = read_block_targets(run.run_dir, block.number)
        try:
            again = recompute_rows(runtime, block, targets, inside.tolist(), fetcher)
        except (GZSurveyError, OSError):
            left.append(inside + block.start)
            continue
        gone = np.isin(again["status"][inside], _NO_PIXELS)
        left.append(inside[gone] + block.start)
        inside = inside[~gone]
        found.from_inputs += len(inside)
        stored = read_rows(run.paths.zarr, block.start, block.stop, ["status", *model.card.outputs])
        found.problems += _differences(block, inside, stored, again, model)
    return np.concatenate([np.zeros(0, np.int64), *left])


def _from_checks(run: FinishedRun, model: OnnxModel, rows: NDArray[np.int64], found: Recomputed) -> None:
    for kept in checks.read(run.run_dir):
        chosen = np.isin(kept["row"], rows)
        if not chosen.any():
            continue
        numbers = kept["row"][chosen]
        block = run.record.block(int(numbers[0]) // run.record.block_rows)
        if block.number not in run.entries:
            continue
        stored = read_rows(run.paths.zarr, block.start, block.stop, ["status", *model.card.outputs])
        again = {name: np.full_like(stored[name], np.nan) for name in model.card.outputs}
        inside = numbers - block.start
        for batch in predict(model, zip(inside.tolist(), to_model_input(kept["image"][chosen]), strict=True)):
            for name, values in batch.outputs.items():
                again[name][batch.rows] = run.embedding.of(values) if name == EMBEDDING else values
        found.from_checks += len(numbers)
        found.problems += _differences(block, inside, stored, again | {"status": stored["status"]}, model)


def _by_block(run: FinishedRun, rows: NDArray[np.int64]) -> Iterator[tuple[Block, NDArray[np.int64]]]:
    for block in run.record.blocks:
        inside = rows[(rows >= block.start) & (rows < block.stop)] - block.start
        if len(inside) and block.number in run.entries:
            yield block, inside


def _differences(
    block: Block, rows: NDArray[np.int64], stored: Values, again: Values, model: OnnxModel
) -> Iterator[str]:
    """Say where predictions do not come out again; the first row of each output."""
    other = rows[stored["status"][rows] != again["status"][rows]]
    if len(other):
        yield (f"predictions.zarr: row {block.start + other[0]} has status {stored['status'][other[0]]}, its pixels "
               f"give {again['status'][other[0]]}")  # fmt: skip
    for name in model.card.outputs:
        here, there = (np.asarray(values[name][rows], dtype=np.float64) for values in (stored, again))
        size = float(np.sqrt(np.nanmean(here**2))) if np.isfinite(here).any() else 0.0
        same = np.isclose(here, there, TOLERANCE, TOLERANCE * size, equal_nan=True).reshape(len(rows), -1).all(axis=1)
        if not same.all():
            row = int(np.flatnonzero(~same)[0])
            yield f"predictions.zarr/{name}: row {block.start + rows[row]} is not what its pixels give"
