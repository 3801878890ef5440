"""A catalogue on disk, in one FITS file or in parts, read by row number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import TableError
from gzsurvey.outputs.columns import HEALPIX, Column
from gzsurvey.outputs.fits_reader import FitsTable, decode, open_fits, plain_type
from gzsurvey.outputs.parameters import Parameter
from gzsurvey.outputs.paths import parts_list

Rows = dict[str, NDArray[Any]]
_AT_A_TIME = 2048
"""Rows that are read together: they stay in the processor's cache while their columns are taken apart."""


@dataclass(frozen=True)
class Catalogue:
    """One FITS catalogue; rows are numbered through all its parts. See `open_catalogue`."""

    parts: tuple[FitsTable, ...]

    @property
    def where(self) -> str:
        """Its first file, for errors."""
        return str(self.parts[0].path)

    @property
    def columns(self) -> tuple[Column, ...]:
        """In order; all parts have the same."""
        return self.parts[0].columns

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What the header says of the run."""
        return self.parts[0].parameters

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """Columns by name."""
        return {column.name: column for column in self.columns}

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First row of each part, and after them the number of rows; shape (parts + 1,)."""
        return np.cumsum([0, *(len(part.records) for part in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, rows: NDArray[np.int64], names: Sequence[str]) -> Rows:
        """Read some cells.

        Parameters
        ----------
        rows : int64, shape (n,)
            Row numbers, ascending.
        names : sequence of str
            Columns.

        Returns
        -------
        dict of str to array, shape (n,)
            bool, native numbers or str.
        """
        columns = [self.by_name[name] for name in names]
        read = {column.name: np.empty(len(rows), plain_type(column)) for column in columns}
        cuts = np.searchsorted(rows, self.starts).tolist()
        for part, start, first, last in zip(self.parts, self.starts, cuts, cuts[1:], strict=False):
            for i in range(first, last, _AT_A_TIME):
                place = slice(i, min(i + _AT_A_TIME, last))
                records = part.records[_selection(rows[place] - start)]
                for column in columns:
                    read[column.name][place] = decode(column, records[column.name])
                part.release()
        return read

    def require_positions(self) -> None:
        """Refuse a catalogue that cannot be searched by position.

        Raises
        ------
        gzsurvey.errors.TableError
            Its rows have no positions.
        """
        name = HEALPIX.name
        if len(self) and self.read(np.zeros(1, dtype=np.int64), [name])[name][0] < 0:
            raise TableError(self.where, "has no positions to search; choose rows by id or by what their columns say")

    def count_below(self, name: str, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count rows whose `name`, an ascending column, is below each value; int64, shape of `values`."""
        counts = np.zeros(len(values), dtype=np.int64)
        for part in self.parts:
            counts += _lower_bounds(part, name, values)
        return counts


def open_catalogue(product: Path) -> Catalogue:
    """Open a catalogue: one file, or the parts that stand in its place.

    Raises
    ------
    gzsurvey.errors.TableError
        There is neither, or one cannot be read.
    """
    return Catalogue(tuple(open_fits(path) for path in catalogue_files(product)))


def catalogue_files(product: Path) -> tuple[Path, ...]:
    """Return the file of a catalogue, or its parts, in row order.

    Raises
    ------
    gzsurvey.errors.TableError
        There is neither.
    """
    listed = parts_list(product)
    if product.is_file():
        return (product,)
    if not listed.is_file():
        raise TableError(str(product), "there is no such catalogue; make it with 'gzsurvey publish'")
    return tuple(listed.parent / name for name in listed.read_text(encoding="utf-8").split())


def row_numbers(starts: NDArray[np.int64], stops: NDArray[np.int64], at_once: int) -> Iterator[NDArray[np.int64]]:
    """Yield the numbers in some ranges, ascending, at most `at_once` at a time."""
    ends = np.cumsum(stops - starts)
    for first in range(0, int(ends[-1]) if len(ends) else 0, at_once):
        places = np.arange(first, min(first + at_once, ends[-1]))
        within = np.searchsorted(ends, places, side="right")
        yield stops[within] - (ends[within] - places)


def _selection(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Return ascending row numbers as what takes them the fastest."""
    return slice(int(rows[0]), int(rows[-1]) + 1) if (np.diff(rows) == 1).all() else rows


def _lower_bounds(part: FitsTable, name: str, values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count cells below each value by bisection, touching only the pages that it looks at, and holding none."""
    column = part.records[name]
    low = np.zeros(len(values), dtype=np.int64)
    high = np.full(len(values), len(column), dtype=np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        open_ones = low < high
        below = open_ones.copy()
        below[open_ones] = column[middle[open_ones]] < values[open_ones]
        low, high = np.where(below, middle + 1, low), np.where(open_ones & ~below, middle, high)
        part.release()
    return low
