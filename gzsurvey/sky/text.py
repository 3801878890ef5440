"""CSV and ECSV files, read chunk by chunk: what type a column has is decided by the whole file, never by a part."""

from __future__ import annotations

import gzip
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gzsurvey.errors import TableError

EMPTY = ("", "nan", "NaN", "NAN", "null", "NULL", "None", "N/A", "--")
"""What stands for a missing value in a CSV file."""
_WHOLE = r"^(0|-?[1-9][0-9]{0,18})$"
_ZERO_LED = r"^0[0-9]+$"
_TYPES = {
    "bool": pa.bool_(), "float32": pa.float32(), "float64": pa.float64(),
    "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
}  # fmt: skip
"""Numbers of ECSV; every other datatype is text."""
_ECSV_VERSION = re.compile(r"^# %ECSV \d+\.\d+")

Kind = Literal["whole", "number", "text"]


@dataclass(frozen=True, slots=True)
class Written:
    """What the values of a column look like, as far as it was read."""

    given: bool = False
    """Whether there is any value at all."""
    whole: bool = True
    """Whether all are whole numbers of at most 19 digits."""
    fits: bool = True
    """Whether all of these have 64 bits."""
    zero_led: bool = False
    """Whether one looks like ``0012``."""
    number: bool = True
    """Whether all are numbers."""

    @classmethod
    def of(cls, text: Any) -> Written:
        """Look at the values of one chunk: a `pyarrow` array of text, null where there is none."""
        values = text.drop_null()
        if not len(values):
            return cls()
        whole = _all(pc.match_substring_regex(values, _WHOLE))
        zero_led = not whole and _any(pc.match_substring_regex(values, _ZERO_LED))
        fits = not whole or _cast(values, pa.int64()) is not None
        return cls(True, whole, fits, zero_led, whole or _floats(values) is not None)

    def __or__(self, other: Written) -> Written:
        return Written(
            self.given or other.given,
            self.whole and other.whole,
            self.fits and other.fits,
            self.zero_led or other.zero_led,
            self.number and other.number,
        )

    @property
    def kind(self) -> Kind:
        """Whole numbers, else numbers, else text (``0012`` stays text)."""
        if self.given and self.whole:
            return "whole" if self.fits else "text"
        return "text" if self.zero_led or not self.number else "number"


@dataclass(frozen=True)
class CsvFile:
    """A CSV file with a line of names."""

    path: Path

    def names(self) -> list[str]:
        """Return the names of its columns."""
        import pandas as pd

        header = pd.read_csv(self.path, nrows=0, comment="#", skipinitialspace=True)
        return [str(name) for name in header.columns]

    def read(self, names: Sequence[str], rows: int) -> Iterator[dict[str, Any]]:
        """Yield masked arrays of at most `rows` rows by name, after a first pass that decides their types."""
        seen = dict.fromkeys(names, Written())
        for chunk in self._texts(names, rows):
            seen = {name: seen[name] | Written.of(chunk[name]) for name in names}
        kinds = {name: seen[name].kind for name in names}
        for chunk in self._texts(names, rows):
            yield {name: _as_kind(chunk[name], kinds[name]) for name in names}

    def _texts(self, names: Sequence[str], rows: int) -> Iterator[dict[str, Any]]:
        options = {"comment": "#", "skipinitialspace": True}
        yield from _texts(self.path, names, rows, EMPTY, options)


@dataclass(frozen=True)
class EcsvFile:
    """An ECSV file: its header says what its columns are."""

    path: Path
    lines: int
    """Of its header, those before the line of names."""
    delimiter: str
    columns: Mapping[str, Mapping[str, Any]]
    """By name what the header says: ``datatype``, ``unit``, ``description``, ``meta``; without columns of arrays."""

    @classmethod
    def open(cls, path: Path) -> EcsvFile:
        """Read the header.

        Raises
        ------
        ValueError
            There is none.
        """
        from astropy.table.meta import YamlParseError, get_header_from_yaml

        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            comments = list(itertools.takewhile(lambda line: line.startswith("#"), file))
        if not comments or not _ECSV_VERSION.match(comments[0]):
            raise ValueError("it does not begin with '# %ECSV' and a version")
        try:
            header = get_header_from_yaml([line[2:].rstrip("\n") for line in comments[1:]])
        except YamlParseError:
            raise ValueError("its header is no YAML") from None
        columns = {str(about["name"]): about for about in header["datatype"] if not about.get("subtype")}
        return cls(path, len(comments), header.get("delimiter", " "), columns)

    def read(self, names: Sequence[str], rows: int) -> Iterator[dict[str, Any]]:
        """Yield masked arrays of at most `rows` rows, by name, of the types that the header says."""
        for chunk in _texts(self.path, names, rows, ("",), {"sep": self.delimiter, "skiprows": self.lines}):
            yield {name: self._typed(name, chunk[name]) for name in names}

    def _typed(self, name: str, text: Any) -> Any:
        datatype = str(self.columns[name]["datatype"])
        wanted = {"float16": "float32", "float128": "float64"}.get(datatype, datatype)
        if wanted not in _TYPES:
            return _masked(text)
        values = _floats(text, wanted) if wanted.startswith("float") else _cast(text, _TYPES[wanted])
        if values is None:
            raise TableError(
                str(self.path), f"column {name!r} holds something that is no {datatype}, as its header says"
            )
        return _masked(values)


def _texts(
    path: Path, names: Sequence[str], rows: int, empty: Sequence[str], options: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield columns as `pyarrow` arrays of text without blanks around it, null where it says that there is nothing."""
    import pandas as pd

    nothing = pa.array(empty, pa.string())
    try:
        with pd.read_csv(
            path, usecols=list(names), dtype=str, keep_default_na=False, chunksize=rows, **options
        ) as chunks:
            for frame in chunks:
                texts = {name: pc.utf8_trim_whitespace(pa.array(frame[name], pa.string())) for name in names}
                yield {
                    name: pc.if_else(pc.is_in(text, nothing), pa.scalar(None, pa.string()), text)
                    for name, text in texts.items()
                }
    except pd.errors.ParserError as error:
        raise TableError(str(path), f"cannot be read: {' '.join(str(error).split())[:200]}") from None


def _as_kind(text: Any, kind: Kind) -> Any:
    if kind == "text":
        return _masked(text)
    return _masked(_cast(text, pa.int64()) if kind == "whole" else _floats(text))


def _masked(values: Any) -> Any:
    """Return a `pyarrow` array as a masked one."""
    mask = np.asarray(values.is_null())
    instead = "" if pa.types.is_string(values.type) else float("nan") if pa.types.is_floating(values.type) else 0
    filled = values.fill_null(pa.scalar(instead).cast(values.type)) if mask.any() else values
    data = filled.to_numpy(zero_copy_only=False)
    return np.ma.MaskedArray(data.astype(str) if pa.types.is_string(values.type) else np.array(data), mask=mask)


def _cast(text: Any, to: Any) -> Any:
    try:
        return text.cast(to)
    except pa.ArrowInvalid:
        return None


def _floats(text: Any, to: str = "float64") -> Any:
    """Return numbers, None where one is none; Python reads a few that Arrow does not, such as ``+1``."""
    values = _cast(text, _TYPES[to])
    if values is not None:
        return values
    mask = np.asarray(text.is_null())
    try:
        plain = text.fill_null("nan").to_numpy(zero_copy_only=False).astype(to)
    except ValueError:
        return None
    return pa.array(plain, mask=mask)


def _all(flags: Any) -> bool:
    return bool(pc.all(flags).as_py())


def _any(flags: Any) -> bool:
    return bool(pc.any(flags).as_py())
