"""Rows out of a catalogue: by position, by id, by what their columns say."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.catalogue.read import as_table
from gzsurvey.errors import TableError
from gzsurvey.expressions import Expression, find_names
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.formats import opener
from gzsurvey.outputs.ids import look_up_rows
from gzsurvey.outputs.opened import Catalogue, Rows, open_catalogue, row_numbers
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.sky.footprint import Footprint, parse_cone, parse_footprint

if TYPE_CHECKING:
    from astropy.table import Table

ROWS_AT_ONCE = 65_536
"""Rows of a catalogue that are looked at together: bounds memory."""
ROWS_SHOWN = 25
"""Rows that a terminal gets."""


def query(
    run: Path | str,
    *,
    cone: str | None = None,
    footprint: str | None = None,
    where: str | None = None,
    ids: Sequence[int | str] = (),
    columns: Sequence[str] = (),
    limit: int | None = None,
) -> Answer:
    """Choose rows of a catalogue; what is chosen by several of these fulfils all of them.

    Parameters
    ----------
    run : Path or str
        A published RUN.
    cone : str, optional
        ``RA DEC RADIUS``: degrees, ICRS; the radius as ``30arcsec`` or ``0.5deg``.
    footprint : str, optional
        A MOC file, ``circle(RA,DEC,RADIUS)``, ``box(...)`` or ``polygon(...)``.
    where : str, optional
        An expression, e.g. ``has_spiral_arms_yes_fraction > 0.8 and status == 0``.
    ids : sequence of int or str
        Targets; by default all.
    columns : sequence of str
        By default those of ``catalogue.fits``. Where one of them, or of `where`, stands only in
        ``catalogue_full.fits``, that one is read.
    limit : int, optional
        The first so many rows, in the order of the catalogue.

    Returns
    -------
    Answer
        Reads rows when asked: ``.table()`` gives an astropy Table, ``.write("spirals.fits")`` a file.

    Raises
    ------
    gzsurvey.errors.RecipeError
        A column is unknown (the nearest names are given), or a region or expression cannot be read.
    gzsurvey.errors.TableError
        The run is not published, has no positions to search, or no target has an id.

    Examples
    --------
    >>> spirals = query("run", where="has_spiral_arms_yes_fraction > 0.8")  # doctest: +SKIP
    >>> spirals.write("spirals.fits")  # doctest: +SKIP
    >>> near = query("run", cone="150.1 2.2 30arcsec").table()  # doctest: +SKIP
    """
    condition = Expression(where) if where else None
    regions = [parse(text) for parse, text in ((parse_cone, cone), (parse_footprint, footprint)) if text]
    catalogue = catalogue_with(Path(run), [*columns, *(condition.names if condition else ())])
    names = find_names(columns, catalogue.by_name, "--columns") or list(catalogue.by_name)
    rows = look_up_rows(Path(run), catalogue, ids) if ids else None
    return Answer(catalogue, tuple(dict.fromkeys(names)), tuple(regions), condition, rows, limit)


@dataclass(frozen=True)
class Answer:
    """Rows that a query chose, not read yet."""

    catalogue: Catalogue
    names: tuple[str, ...]
    """Columns."""
    regions: tuple[Footprint, ...] = ()
    condition: Expression | None = None
    rows: NDArray[np.int64] | None = None
    """The only ones that are looked at, ascending; None: all."""
    limit: int | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the columns mean."""
        return tuple(self.catalogue.by_name[name] for name in self.names)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._chosen())

    def chunks(self) -> Iterator[Rows]:
        """Yield the chosen rows, some at a time, as arrays of shape (n,) by column name."""
        for rows in self._chosen():
            if len(rows):
                yield self.catalogue.read(rows, self.names)

    def table(self) -> Table:
        """Return the chosen rows as an astropy Table, with units, descriptions and UCDs."""
        nothing = self.catalogue.read(np.zeros(0, dtype=np.int64), self.names)
        chunks = [nothing, *self.chunks()]
        rows = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in self.names}
        return as_table(self.columns, rows, self.catalogue.parameters)

    def write(self, path: Path | str) -> str:
        """Write the chosen rows in bounded memory.

        Parameters
        ----------
        path : Path or str
            Ends with .fits, .csv, .ecsv, .vot or .parquet.

        Returns
        -------
        str
            How many rows went where.

        Raises
        ------
        gzsurvey.errors.TableError
            The ending is none of these.
        """
        place = Path(path)
        open_rows, total = opener(place), len(self)
        with open_rows(place, self.columns, total, self.catalogue.parameters, "selection") as file:
            for rows in self.chunks():
                file.append(rows)
        return f"{total:,} rows in {place}"

    def __str__(self) -> str:
        """Return the first rows as a terminal shows them."""
        first = Answer(self.catalogue, self.names, self.regions, self.condition, self.rows, self._shown + 1).table()
        if not len(first):
            return "no row is like that"
        lines = first[: self._shown].pformat(max_lines=-1, max_width=shutil.get_terminal_size().columns)
        more = len(first) > self._shown
        return "\n".join([*lines, f"the first {self._shown} rows; -o FILE writes all of them"] if more else lines)

    @property
    def _shown(self) -> int:
        return ROWS_SHOWN if self.limit is None else self.limit

    def _chosen(self) -> Iterator[NDArray[np.int64]]:
        """Yield the numbers of the chosen rows."""
        left = len(self.catalogue) if self.limit is None else self.limit
        for rows in self._candidates():
            if not left:
                return
            chosen = rows[self._fulfils(rows)][:left]
            left -= len(chosen)
            yield chosen

    def _candidates(self) -> Iterator[NDArray[np.int64]]:
        """Yield rows among which all chosen ones are."""
        if self.rows is not None:
            yield from (self.rows[i : i + ROWS_AT_ONCE] for i in range(0, len(self.rows), ROWS_AT_ONCE))
        elif self.regions:
            yield from row_numbers(*row_ranges(self.catalogue, self.regions), ROWS_AT_ONCE)
        else:
            yield from row_numbers(np.zeros(1, dtype=np.int64), np.array([len(self.catalogue)]), ROWS_AT_ONCE)

    def _fulfils(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        fulfils = np.ones(len(rows), dtype=bool)
        if self.regions:
            position = self.catalogue.read(rows, [c.RA.name, c.DEC.name])
            for region in self.regions:
                fulfils &= region.contains(position[c.RA.name], position[c.DEC.name])
        if self.condition:
            needed = find_names(self.condition.names, self.catalogue.by_name, "--where")
            values = self.catalogue.read(rows, needed)
            plain = {name: _comparable(self.catalogue.by_name[name], values[name]) for name in needed}
            fulfils &= self.condition.select(plain, len(rows))
        return fulfils


def row_ranges(catalogue: Catalogue, regions: Sequence[Footprint]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ranges of rows that may lie in all of some regions.

    Rows are in HEALPix order: each range of cells is one range of rows, found by bisection.

    Returns
    -------
    starts, stops : int64, shape (n,)

    Raises
    ------
    gzsurvey.errors.TableError
        The catalogue has no positions.
    """
    catalogue.require_positions()
    moc = regions[0].moc()
    for region in regions[1:]:
        moc = moc.intersection(region.moc())
    bounds = catalogue.count_below(c.HEALPIX.name, moc.to_depth29_ranges.astype(np.int64).ravel())
    return bounds[::2], bounds[1::2]


def catalogue_with(run: Path, wanted: Sequence[str]) -> Catalogue:
    """Open the smaller catalogue that has the columns, else the full one."""
    paths = RunPaths(run)
    if not run.is_dir():
        raise TableError(str(run), "is no RUN; make one with 'gzsurvey classify'")
    small = open_catalogue(paths.catalogue)
    known = {name.lower() for name in small.by_name}
    return small if {name.lower() for name in wanted} <= known else open_catalogue(paths.catalogue_full)


def _comparable(column: Column, values: NDArray[Any]) -> NDArray[Any]:
    """Let an integer that is null compare as NaN, which is like nothing."""
    null = column.is_null(values)
    if column.dtype in "IJK" and null.any():
        return np.where(null, np.nan, values)
    return values
