"""What a finished run holds, as the report's figures and galleries ask for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import Card, NumberHead
from gzsurvey.errors import TableError
from gzsurvey.inference import OnnxModel
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.columns import Column, Layout, Stored
from gzsurvey.outputs.opened import Catalogue, Rows, open_catalogue
from gzsurvey.outputs.paths import RunPaths, is_there
from gzsurvey.status import Status
from gzsurvey.survey import ledger
from gzsurvey.survey.record import RunRecord, read_record
from gzsurvey.votes.fractions import LEAST_ASKED
from gzsurvey.votes.tree import Question

SAMPLE = 100_000
"""Rows that figures are drawn from at most: they, and not the catalogue, set the memory of a report."""
ROWS_AT_ONCE = 65_536
REMARKABLE = ("yes", "strong", "merger", "major-disturbance")
"""Answers to later questions that say that a galaxy has a feature."""


@dataclass(frozen=True)
class Measure:
    """One fraction or score that galaxies can be ranked by."""

    title: str
    column: str
    asked: str = ""
    """Column with the share of volunteers who are asked; empty: everybody."""

    @property
    def columns(self) -> list[str]:
        """What must be read for it."""
        return [name for name in (self.column, self.asked) if name]


@dataclass(frozen=True)
class SurveyView:
    """A published RUN, opened for reading."""

    run: Path

    @cached_property
    def record(self) -> RunRecord:
        """The plan."""
        return read_record(self.run)

    @cached_property
    def entries(self) -> dict[int, ledger.BlockResult]:
        """Every block on record, finished or failed."""
        return ledger.read_entries(self.run)

    @cached_property
    def card(self) -> Card:
        """Of the model."""
        return OnnxModel(RunPaths(self.run).model, "cpu").card

    @cached_property
    def layout(self) -> Layout:
        """Questions of the campaigns that were published."""
        text = str(self.parameters.get("CAMPAIGN", ""))
        campaigns = tuple(name for name in text.split(", ") if name)
        return Layout(self.card, campaigns, Stored())

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """What the header of the catalogue says of the run, by keyword."""
        return {parameter.keyword: parameter.value for parameter in self._catalogue.parameters}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Columns of the catalogue."""
        return tuple(self._catalogue.by_name)

    @property
    def id_name(self) -> str:
        """Name of the column with the ids."""
        return self.names[0]

    @property
    def kept(self) -> tuple[str, ...]:
        """Columns carried along from the targets."""
        return tuple(info.name for info in self.record.kept)

    @property
    def layers(self) -> tuple[str, ...]:
        """Columns sampled from layers of the survey, such as the PSF's width."""
        return tuple(name for name, column in self._catalogue.by_name.items() if column.ucd == c.LAYER.ucd)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the catalogue that figures are drawn from: all of them, or `SAMPLE` evenly chosen ones."""
        total = len(self._catalogue)
        return np.arange(total) if total <= SAMPLE else np.linspace(0, total - 1, SAMPLE).astype(np.int64)

    def column(self, name: str) -> NDArray[Any]:
        """Return a column of the catalogue at `rows`.

        Raises
        ------
        gzsurvey.errors.TableError
            There is none of this name; near names are offered.
        """
        return self.cells(self.rows, [name])[name]

    def cells(self, rows: NDArray[np.int64], names: Sequence[str]) -> Rows:
        """Return some columns at some rows of the catalogue, ascending: arrays, shape of `rows`, by name.

        Raises
        ------
        gzsurvey.errors.TableError
            There is no column of a name; near names are offered.
        """
        for name in names:
            if name not in self.names:
                near = ", ".join(get_close_matches(name, self.names, n=3)) or "see 'stilts tpipe cmd=meta'"
                raise TableError(str(RunPaths(self.run).catalogue), f"has no column {name!r}; near: {near}")
        return self._catalogue.read(rows, names)

    def chunks(self, names: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], Rows]]:
        """Yield all rows of the catalogue, some at a time: their numbers, and `cells`."""
        for start in range(0, len(self._catalogue), ROWS_AT_ONCE):
            rows = np.arange(start, min(start + ROWS_AT_ONCE, len(self._catalogue)))
            yield rows, self.cells(rows, names)

    @cached_property
    def predicted(self) -> NDArray[np.bool_]:
        """Which of `rows` have a prediction."""
        return np.asarray(self.column(c.STATUS.name) == Status.PREDICTED)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column at `rows` as numbers, NaN where it is null or text."""
        return self._as_numbers(name, self.column(name))

    def _as_numbers(self, name: str, values: NDArray[Any]) -> NDArray[np.float64]:
        if values.dtype.kind not in "fiu":
            return np.full(len(values), np.nan)
        null = self._catalogue.by_name[name].is_null(values)
        return np.where(null, np.nan, values).astype(np.float64)

    def unit(self, name: str) -> str:
        """Return a column's unit, as text."""
        return self._catalogue.by_name[name].unit

    def reliable(self, measure: Measure, cells: Rows | None = None) -> NDArray[np.float64]:
        """Return a measure's values, NaN where too few volunteers are asked, at `rows` or of `cells`."""
        held = self.cells(self.rows, measure.columns) if cells is None else cells
        values = self._as_numbers(measure.column, held[measure.column])
        if measure.asked:
            values[~(held[measure.asked] >= LEAST_ASKED)] = np.nan
        return values

    def measure(self, question: Question, answer: str) -> Measure:
        """Return how galaxies are ranked by one answer."""
        layout = self.layout
        asked = layout.column_name(c.ASKED, question) if question.asked_after_any else ""
        label = question.name if len(layout.campaigns) > 1 else question.label
        return Measure(f"{label}: {answer}", layout.column_name(c.FRACTION, question, answer), asked)

    def measure_of(self, column: str) -> Measure:
        """Return how galaxies are ranked by a column; a question's share of volunteers is respected."""
        for question in self.layout.tree.questions:
            for answer in question.answers:
                found = self.measure(question, answer)
                if found.column == column:
                    return found
        return Measure(column, column)

    def highlights(self) -> list[Measure]:
        """Return what is worth a gallery: first questions, remarkable features, tasks, the unusual."""
        found = []
        for question in self.layout.tree.questions:
            answers: Sequence[str] = question.answers
            if question.asked_after_any:
                answers = [answer for answer in answers if answer in REMARKABLE]
            found += [self.measure(question, answer) for answer in answers]
        for task in self.layout.tasks:
            if isinstance(task, NumberHead):
                found.append(Measure(task.task, c.task_columns(task)[0].name))
                continue
            scores = [column for column in c.task_columns(task) if column.name.endswith("_score")]
            found += [_score(task.task, column, label) for column, label in zip(scores, task.classes, strict=True)]
        if np.isfinite(self.column(c.OOD_DISTANCE.name)).any():
            found.append(Measure("most unlike the training galaxies", c.OOD_DISTANCE.name))
        return found

    @cached_property
    def _catalogue(self) -> Catalogue:
        path = RunPaths(self.run).catalogue
        if not is_there(path):
            raise TableError(str(self.run), "holds no catalogue.fits; make it with 'gzsurvey publish'")
        return open_catalogue(path)


def _score(task: str, column: Column, label: str) -> Measure:
    return Measure(f"{task}: {label}", column.name)
