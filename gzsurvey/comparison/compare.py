"""A RUN beside another one, or beside a published table: what differs, and for which galaxies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.catalogue import Crossmatch
from gzsurvey.catalogue import crossmatch as start_crossmatch
from gzsurvey.comparison.page import render
from gzsurvey.comparison.paths import ComparisonPaths
from gzsurvey.comparison.tally import COLUMNS, FEWEST, Floats, Tally, as_columns, quantile_edges
from gzsurvey.errors import TableError
from gzsurvey.expressions import find_names
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.aside import written_aside
from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.opened import Catalogue, catalogue_files
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.provenance import sha256_of
from gzsurvey.outputs.text import open_ecsv
from gzsurvey.sky.columns import R50_NAMES
from gzsurvey.sky.tables import Chunk
from gzsurvey.sky.targets import positions
from gzsurvey.survey.record import check_same
from gzsurvey.votes.fractions import LEAST_ASKED

RADIUS = "1arcsec"
BINS = 8
_SAMPLE = 200_000
"""Rows that bins are chosen by."""
_COMPARED = ("_fraction", "_score")
"""How columns end that are compared."""
_ASKED = c.ASKED.name.removeprefix("{question}")
_NOT_ANSWERS = (c.MISSING_FRACTION.name, c.MASKED_FRACTION.name)


@dataclass(frozen=True)
class Comparison:
    """What `compare` found, in short."""

    out: str
    pairs: int
    answers: int
    rms: float
    """Root mean square of all differences."""

    def __str__(self) -> str:
        return (
            f"{self.pairs:,} galaxies in both catalogues, {self.answers} answers compared, root mean square difference "
            f"{self.rms:.3f}; see {self.out}"
        )


def compare(run: Path | str, other: str, out: Path, by: Sequence[str] = (), radius: str = RADIUS) -> Comparison:
    """Compare a catalogue with another one, answer by answer.

    Galaxies are paired by position. Answers are columns of one name in both (``-`` and ``_`` are the same, and
    case does not matter); they are compared where both have a value and this run expects at least half of the
    volunteers to be asked.

    Parameters
    ----------
    run : Path or str
        A published RUN.
    other : str
        Another RUN, or a table with positions: GZ DESI, GZ DECaLS, Euclid Q1, ...
    out : Path
        Directory of the page and the table.
    by : sequence of str
        Columns of `run` along which differences are shown; by default its magnitude and size.
    radius : str
        Farthest apart that two positions of one galaxy are.

    Returns
    -------
    Comparison
        In short; ``comparison.html`` and ``differences.ecsv`` have the rest.

    Raises
    ------
    gzsurvey.errors.TableError
        No answer stands in both, or fewer than ten galaxies do.
    gzsurvey.errors.OutputConflict
        `out` was made from others.
    """
    table = _table_of(other)
    match = start_crossmatch(run, table, radius)
    work = _Work(match, tuple(find_names(by, match.catalogue.by_name, "--by")) or _usual(match.catalogue))
    if not work.answers:
        raise TableError(other, f"has no column of {match.catalogue.where} that ends with _fraction or _score")
    paths = ComparisonPaths(out)
    _claim(paths, {"run": _identity(run), "other": _identity(other), "by": list(work.by), "radius": radius})
    work.sum_up()
    whole = work.tallies[0]
    if work.pairs < FEWEST:
        raise TableError(other, f"shares {work.pairs} galaxies with {run} within {radius}; {FEWEST} are needed")
    found = as_columns(work.tallies)
    with open_ecsv(paths.table, COLUMNS, len(found["answer"])) as file:
        file.append(found)
    with written_aside(paths.page) as aside:
        aside.write_text(render(str(run), other, radius, work.pairs, found, work.statuses), encoding="utf-8")
    rms = np.sqrt(whole.sums[..., 3].sum() / whole.sums[..., 0].sum())
    return Comparison(str(paths.page), work.pairs, len(work.answers), float(rms))


@dataclass
class _Work:
    """Pairs of galaxies as they pass by."""

    match: Crossmatch
    by: tuple[str, ...]
    pairs: int = 0
    statuses: Counter[tuple[int, int | None]] = field(default_factory=Counter)
    """Pairs by status here and there; None: the other table has no status."""

    @cached_property
    def answers(self) -> dict[str, str]:
        """Columns that are compared: name here, and there."""
        theirs = {_plain(name): name for name in self.match.files[0].columns}
        ours = [name for name in self.match.catalogue.by_name if name.endswith(_COMPARED) and name not in _NOT_ANSWERS]
        return {name: theirs[_plain(name)] for name in ours if _plain(name) in theirs}

    @cached_property
    def tallies(self) -> list[Tally]:
        """Over everything, and along each quantity."""
        catalogue, names = self.match.catalogue, tuple(self.answers)
        some = np.arange(0, len(catalogue), max(1, len(catalogue) // _SAMPLE))
        sample = _numbers(catalogue, some, self.by)
        binned = [Tally(name, names, quantile_edges(sample[name], BINS)) for name in self.by]
        return [Tally("all", names, np.zeros(0)), *binned]

    def sum_up(self) -> None:
        """Go through the other table once."""
        roles, status = self.match.roles, c.STATUS.name
        for file in self.match.files:
            needed = [roles.ra, roles.dec, *self.answers.values(), *([status] if status in file.columns else [])]
            first = 0
            for chunk in file.read(list(dict.fromkeys(needed))):
                n = len(chunk[roles.ra])
                ra, dec = positions(file, roles, chunk, np.arange(first, first + n), [])
                first += n
                for found in self.match.near(np.arange(n), ra, dec):
                    self._add(found.rows, {name: values[found.ids.astype(np.int64)] for name, values in chunk.items()})

    def _add(self, rows: NDArray[np.int64], theirs: Chunk) -> None:
        catalogue, names = self.match.catalogue, list(self.answers)
        ours = np.stack([_asked_alone(catalogue, rows, name) for name in names], axis=1)
        there = np.stack([_as_floats(theirs, self.answers[name]) for name in names], axis=1)
        quantities = _numbers(catalogue, rows, self.by) | {"all": np.zeros(len(rows))}
        for tally in self.tallies:
            tally.add(quantities[tally.quantity], ours, there)
        self.pairs += len(rows)
        here = catalogue.read(rows, [c.STATUS.name])[c.STATUS.name].tolist()
        known = c.STATUS.name in theirs
        self.statuses.update(zip(here, theirs[c.STATUS.name].tolist() if known else [None] * len(here), strict=True))


def _usual(catalogue: Catalogue) -> tuple[str, ...]:
    """Return the first magnitude and the first size among the columns."""
    magnitudes = (column.name for column in catalogue.columns if _is_magnitude(column))
    sizes = (name for name in catalogue.by_name if name.lower() in R50_NAMES)
    return tuple(name for name in (next(magnitudes, None), next(sizes, None)) if name)


def _is_magnitude(column: Column) -> bool:
    named = column.name.lower().split("_")[0] == "mag"
    return column.dtype in "ED" and (named or column.ucd.startswith("phot.mag"))


def _asked_alone(catalogue: Catalogue, rows: NDArray[np.int64], name: str) -> Floats:
    """Return the fractions of an answer, NaN where fewer than half of the volunteers would be asked."""
    values = _numbers(catalogue, rows, [name])[name]
    questions = (column for column in catalogue.by_name if column.endswith(_ASKED))
    asked = next((column for column in questions if name.startswith(f"{column.removesuffix(_ASKED)}_")), None)
    if asked is None:
        return values
    return np.where(_numbers(catalogue, rows, [asked])[asked] >= LEAST_ASKED, values, np.nan)


def _numbers(catalogue: Catalogue, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, Floats]:
    """Return columns as numbers, NaN where they are null."""
    order = np.argsort(rows, kind="stable")
    read = catalogue.read(rows[order], list(names))
    found = {}
    for name in names:
        if read[name].dtype.kind not in "fiu":
            raise TableError(catalogue.where, f"column {name!r} holds no numbers to bin by")
        values = np.where(catalogue.by_name[name].is_null(read[name]), np.nan, read[name]).astype(np.float64)
        found[name] = np.empty(len(rows))
        found[name][order] = values
    return found


def _as_floats(chunk: Chunk, name: str) -> Floats:
    return np.ma.filled(chunk[name].astype(np.float64), np.nan)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _table_of(other: str) -> str:
    """Return the table that a user means: a RUN's catalogue, in one file or in parts, or the table itself."""
    if not RunPaths(Path(other)).plan.is_file():
        return other
    files = catalogue_files(RunPaths(Path(other)).catalogue)
    return str(files[0]) if len(files) == 1 else str(files[0].parent / "part-*.fits")


def _identity(source: Path | str) -> Any:
    paths = RunPaths(Path(source))
    return str(source), sha256_of(paths.checksums) if paths.checksums.is_file() else None


def _claim(paths: ComparisonPaths, inputs: dict[str, Any]) -> None:
    """Take a directory for this comparison, or refuse one of another."""
    if paths.inputs.is_file():
        check_same(paths.out, json.loads(paths.inputs.read_text(encoding="utf-8")), inputs)
    paths.out.mkdir(parents=True, exist_ok=True)
    with written_aside(paths.inputs) as aside:
        aside.write_text(json.dumps(inputs, indent=1) + "\n", encoding="utf-8")
