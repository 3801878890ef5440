"""A catalogue as text of fixed width, and what stands at which byte of it, as the CDS asks for.

The standard: https://vizier.unistra.fr/doc/catstd.htx.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.opened import Catalogue
from gzsurvey.progress import Progress

WIDTH = 80
"""Characters of a line of a ReadMe."""
RULE = "-" * WIDTH
_ROWS = 8192
"""Rows that are written together: bounds memory."""
_LABEL, _UNIT = 48, 10
"""Longest label and unit: with bytes and format they fit on a line."""
_LABEL_COLUMN = 20
"""Characters that explanations leave to labels where they can."""
_FIXED = "\u00a0"
"""A space at which no line is broken."""
_DISPLAY = re.compile(r"F\d+\.(\d+)")


@dataclass(frozen=True, slots=True)
class Field:
    """One column of the text."""

    column: Column
    label: str
    start: int
    """Its first byte, counted from 1."""
    width: int
    decimals: int | None
    """Of a number written without exponent; None: with one, or no such number."""
    nullable: bool
    """Whether a cell is blank."""

    @property
    def end(self) -> int:
        """Its last byte."""
        return self.start + self.width - 1

    @property
    def format(self) -> str:
        """As Fortran says it: ``A12``, ``I6``, ``F6.4``, ``E15.8``."""
        if self.column.dtype == "A":
            return f"A{self.width}"
        if self.column.dtype not in "ED":
            return f"I{self.width}"
        return f"E{self.width}.{_digits(self.column)}" if self.decimals is None else f"F{self.width}.{self.decimals}"

    def cells(self, values: NDArray[Any]) -> list[str]:
        """Return values, shape (N,), as texts of this width; blank where there is none."""
        text, blank = self._text(), " " * self.width
        nothing = self.column.is_null(values).tolist()
        return [blank if null else text(value) for value, null in zip(values.tolist(), nothing, strict=True)]

    def _text(self) -> Callable[[Any], str]:
        if self.column.dtype == "A":
            return f"%-{self.width}s".__mod__
        if self.column.dtype not in "ED":
            return f"%{self.width}d".__mod__
        kind = f".{_digits(self.column)}E" if self.decimals is None else f".{self.decimals}f"
        return f"%{self.width}{kind}".__mod__


def fields_of(catalogue: Catalogue) -> tuple[Field, ...]:
    """Return how the columns of a catalogue are laid out in text, after a look at all of its rows.

    Numbers with a FITS display format keep its decimals; others are written with as many digits as they have.
    """
    extents = [_Extent(column) for column in catalogue.columns]
    for rows in _pieces(catalogue):
        for extent in extents:
            extent.add(rows[extent.column.name])
    start, fields = 1, []
    for number, extent in enumerate(extents, 1):
        column = extent.column
        decimals = _decimals(column)
        field = Field(column, _label(column.name, number), start, extent.width(decimals), decimals, extent.nullable)
        fields.append(field)
        start = field.end + 2
    return tuple(fields)


def write_table(path: Path, catalogue: Catalogue, fields: Sequence[Field]) -> None:
    """Write all rows of a catalogue, one a line, in bounded memory."""
    shown = Progress(path.name, len(catalogue), "rows")
    with path.open("w", encoding="ascii", errors="replace", newline="\n") as file:
        for rows in _pieces(catalogue):
            cells = [field.cells(rows[field.column.name]) for field in fields]
            file.writelines(f"{' '.join(row)}\n" for row in zip(*cells, strict=True))
            shown.advance(len(cells[0]))
    shown.finish()


def byte_by_byte(file: str, fields: Sequence[Field]) -> list[str]:
    """Return the lines that say what stands at which byte of `file`."""
    digits = len(str(fields[-1].end))
    bytes_width = 2 * digits + 1
    title = f"{'Bytes':>{bytes_width}} {'Format':<7}{'Units':<7}{'Label':<{_LABEL_COLUMN}} Explanations"
    lines = [f"Byte-by-byte Description of file: {file}", RULE, title, RULE]
    for field in fields:
        place = f"{field.start:>{digits}}-{field.end:>{digits}}" if field.width > 1 else f"{field.end:>{bytes_width}}"
        unit, explanation = _unit_and_explanation(field)
        head = f"{place} {field.format:<6} {unit:<6} {field.label:<{_LABEL_COLUMN}}"
        lines += described(f"{head} ?" if field.nullable else head, explanation)
    return [*lines, RULE]


def plain_text(text: str) -> str:
    """Return text in ASCII: letters without their accents, ``?`` for what has no such letter."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letters).encode("ascii", "replace").decode()


def paragraph(text: str, indent: str = "    ") -> list[str]:
    """Return text as lines of a ReadMe."""
    return _lines(plain_text(text), indent, indent)


def described(head: str, text: str, indent: int = 10) -> list[str]:
    """Return lines of a ReadMe: a head that is not wrapped, and after it a text."""
    return _lines(f"{head.replace(' ', _FIXED)} {plain_text(text)}", "", " " * indent)


def _lines(text: str, first: str, further: str) -> list[str]:
    """Wrap text; no further line begins with a digit, which readers would take for a column."""
    joined = re.sub(r" (?=\d)", _FIXED, text)
    lines = textwrap.wrap(joined, WIDTH, initial_indent=first, subsequent_indent=further, break_on_hyphens=False)
    return [line.replace(_FIXED, " ").rstrip() for line in lines]


class _Extent:
    """How wide the values of a column are, as they pass by."""

    def __init__(self, column: Column) -> None:
        self.column, self.nullable = column, False
        self._low, self._high = 0.0, 0.0

    def add(self, values: NDArray[Any]) -> None:
        nothing = self.column.is_null(values)
        self.nullable |= bool(nothing.any())
        if self.column.dtype != "A":
            some = values[~nothing & np.isfinite(values)]
            self._low = min(self._low, some.min(initial=0).item())
            self._high = max(self._high, some.max(initial=0).item())

    def width(self, decimals: int | None) -> int:
        if self.column.dtype == "A":
            return self.column.width
        if self.column.dtype not in "ED":
            return max(len(str(int(self._low))), len(str(int(self._high))))
        if decimals is None:
            return _digits(self.column) + (7 if self.column.dtype == "E" else 8)
        return max(4, *(len(f"{value:.{decimals}f}") for value in (self._low, self._high)))


def _pieces(catalogue: Catalogue) -> Iterator[dict[str, NDArray[Any]]]:
    for start in range(0, len(catalogue), _ROWS):
        yield catalogue.read(np.arange(start, min(start + _ROWS, len(catalogue))), list(catalogue.by_name))


def _decimals(column: Column) -> int | None:
    match = _DISPLAY.fullmatch(column.display.strip()) if column.dtype in "ED" else None
    return int(match[1]) if match else None


def _digits(column: Column) -> int:
    """Decimals that give the same number again, one digit standing before the point."""
    return 8 if column.dtype == "E" else 16


def _label(name: str, number: int) -> str:
    """Return a name as a label: one word of ASCII, of which line and explanation leave room for 48 characters."""
    if re.fullmatch(r"[!-~]+", name) and len(name) <= _LABEL:
        return name
    word = re.sub(r"[^!-~]", "_", name)
    return f"{word[: _LABEL - 4]}_{number:03d}"


def _unit_and_explanation(field: Field) -> tuple[str, str]:
    column = field.column
    unit = _cds_unit(column.unit)
    notes = [f"column {column.name} of catalogue.fits"] if field.label != column.name else []
    notes += [f"in {column.unit}"] if column.unit and unit == "---" else []
    notes += ["1 true, 0 false"] if column.dtype == "L" else []
    explanation = (column.description or column.name).lstrip("?[] ")
    return unit, f"{explanation} ({'; '.join(notes)})" if notes else explanation


def _cds_unit(unit: str) -> str:
    """Return a unit as the CDS writes it, ``---`` for none and for one that it does not know."""
    from astropy import units as u

    try:
        written = str(u.Unit(unit, format="vounit", parse_strict="raise").to_string("cds")) if unit else ""
    except (ValueError, TypeError):
        return "---"
    return written if re.fullmatch(rf"\S{{1,{_UNIT}}}", written) else "---"
