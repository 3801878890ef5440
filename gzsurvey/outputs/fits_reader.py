"""Reading our FITS tables row by row: mapped into memory, so that only the pages of wanted rows are read."""

from __future__ import annotations

import io
import mmap
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import TableError
from gzsurvey.outputs.columns import Column, Dtype
from gzsurvey.outputs.parameters import Parameter

_FORM = re.compile(r"(\d*)([LIJKEDA])")


@dataclass(frozen=True)
class FitsTable:
    """The table of one FITS file; see `open_fits`."""

    path: Path
    columns: tuple[Column, ...]
    parameters: tuple[Parameter, ...]
    records: NDArray[Any]
    """Its rows as they lie on disk, structured, big-endian, shape (N,)."""
    mapping: mmap.mmap
    """The file in memory: `records` looks into it."""

    def release(self) -> None:
        """Let go of the pages that were read: they stay in the system's cache, not in this process."""
        self.mapping.madvise(mmap.MADV_DONTNEED)


def open_fits(path: Path) -> FitsTable:
    """Open a FITS table without reading its rows.

    Parameters
    ----------
    path : Path
        A file with one table in its first extension, columns of plain numbers and text.

    Raises
    ------
    gzsurvey.errors.TableError
        There is no such file, or no such table in it, or it is cut short.
    """
    try:
        about = path.stat()
        head = _head(path, about.st_mtime_ns, about.st_ino)
        mapping = _mapped(path)
        records = np.frombuffer(mapping, head.dtype, head.rows, head.start)
    except FileNotFoundError:
        raise TableError(str(path), "there is no such file") from None
    except (OSError, IndexError, KeyError, TypeError, ValueError) as error:
        raise TableError(str(path), f"cannot be read as a FITS catalogue: {' '.join(str(error).split())}") from None
    return FitsTable(path, head.columns, head.parameters, records, mapping)


@dataclass(frozen=True)
class _Head:
    """What stands above the rows of a file."""

    columns: tuple[Column, ...]
    parameters: tuple[Parameter, ...]
    dtype: np.dtype[Any]
    rows: int
    start: int
    """Of the rows, in bytes."""


@lru_cache(maxsize=16)
def _head(path: Path, _mtime: int, _inode: int) -> _Head:
    """Read the head of a file once, as long as it is the same file: it takes longer than finding a row."""
    from astropy.io import fits

    with fits.open(path) as hdus:
        columns = tuple(_column(hdus[1].header, n) for n in range(1, hdus[1].header["TFIELDS"] + 1))
        about, parameters = _about(hdus[0])
        rows, start = hdus[1].header["NAXIS2"], hdus[1].fileinfo()["datLoc"]
    dtype = np.dtype([(column.name, column.numpy) for column in columns])
    return _Head(tuple(_described(column, about) for column in columns), parameters, dtype, rows, start)


def decode(column: Column, cells: NDArray[Any]) -> NDArray[Any]:
    """Turn cells of a FITS column into plain values, shape (N,): bool, native numbers, or str."""
    if column.dtype == "L":
        return np.asarray(cells == b"T")
    if column.dtype == "A":
        return np.strings.rstrip(_decoded(cells))
    return cells.astype(plain_type(column))


def plain_type(column: Column) -> np.dtype[Any]:
    """Return the type of what `decode` gives."""
    if column.dtype == "L":
        return np.dtype(bool)
    return np.dtype(f"U{column.width}") if column.dtype == "A" else column.numpy.newbyteorder("=")


def _decoded(cells: NDArray[Any]) -> NDArray[np.str_]:
    """Return ASCII bytes as text, "\ufffd" standing for every other byte."""
    width = cells.dtype.itemsize
    codes = np.ascontiguousarray(cells).view(np.uint8).astype(np.uint32)
    codes[codes > 127] = 0xFFFD
    return codes.view(f"U{width}")


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _column(header: Any, number: int) -> Column:
    text = {key: str(header.get(f"{key}{number}", "")) for key in ("TTYPE", "TFORM", "TUNIT", "TUCD", "TCOMM", "TDISP")}
    form = _FORM.fullmatch(text["TFORM"].strip())
    if form is None or (form[2] != "A" and form[1] not in ("", "1")):
        raise ValueError(f"column {text['TTYPE']!r} is of the form {text['TFORM']!r}, not one number or text a row")
    width = int(form[1] or 1) if form[2] == "A" else 1
    null = header.get(f"TNULL{number}")
    letter = cast(Dtype, form[2])
    return Column(
        text["TTYPE"], letter, width, text["TUNIT"], text["TUCD"], text["TCOMM"], null, text["TDISP"]
    )  # fmt: skip


def _about(primary: Any) -> tuple[dict[str, str], tuple[Parameter, ...]]:
    """Return full descriptions by column, and the run's parameters, from the VOTable in the primary HDU."""
    from astropy.io.votable import parse_single_table

    if not primary.header.get("VOTMETA"):
        return {}, ()
    table = parse_single_table(io.BytesIO(primary.data.tobytes()))
    return {field.name: field.description or "" for field in table.fields}, tuple(map(_parameter, table.params))


def _parameter(param: Any) -> Parameter:
    value = param.value.item() if hasattr(param.value, "item") else param.value
    return Parameter(param.name, value, param.description or "")


def _described(column: Column, about: dict[str, str]) -> Column:
    return replace(column, description=about.get(column.name) or column.description)
