"""Catalogues of galaxies as published: read whole, without pixels, ids untouched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gzsurvey.errors import TableError
from gzsurvey.sky.tables import Chunk, TableFile, open_tables

ID_COLUMNS = ("id", "id_str", "object_id", "iauname", "dr8_id")
RA_COLUMNS = ("ra", "RA", "right_ascension", "RAJ2000")
DEC_COLUMNS = ("dec", "DEC", "Dec", "declination", "DEJ2000")
PIXEL_COLUMN = "image"
"""Of parquet collections; left out where it holds bytes."""


def read_table(path: Path | str, wanted: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a catalogue.

    Parameters
    ----------
    path : Path or str
        FITS, CSV, ECSV, VOTable or Parquet, a directory of Parquet files, or a pattern
        that matches several files with the same columns.
    wanted : sequence of str, optional
        Read these columns only.

    Returns
    -------
    DataFrame
        Rows in file order, numbered from 0. Whole numbers stay int64, text is str.

    Raises
    ------
    gzsurvey.errors.TableError
        No such file, an unknown kind, a damaged or empty one, or files that differ.
    """
    files = open_tables(str(path))
    names = wanted or [name for name in files[0].columns if not _is_pixels(files[0], name)]
    for file in files:
        missing = [name for name in names if name not in file.columns]
        if missing:
            raise TableError(str(file.path), f"has no column {missing[0]!r}")
    frame = pd.concat([_frame(chunk) for file in files for chunk in file.read(names)], ignore_index=True)
    if frame.empty:
        raise TableError(str(path), "has no rows")
    return frame


def _is_pixels(file: TableFile, name: str) -> bool:
    if name != PIXEL_COLUMN or file.path.suffix not in (".parquet", ".pq", ""):
        return False
    first = file.path if file.path.is_file() else next(file.path.rglob("*.parquet"))
    return str(pq.read_schema(first).field(name).type).startswith(("struct", "binary", "large_binary"))


def _frame(chunk: Chunk) -> pd.DataFrame:
    return pd.DataFrame({name: _series(values) for name, values in chunk.items() if values.ndim == 1})


def _series(values: np.ma.MaskedArray[Any, Any]) -> pd.Series:
    data, mask = np.asarray(values.data), np.ma.getmaskarray(values)
    if data.dtype.kind in "iu" and mask.any():
        return pd.Series(pd.arrays.IntegerArray(data.astype(np.int64), mask))
    if data.dtype.kind == "f":
        return pd.Series(np.where(mask, np.nan, data))
    if data.dtype.kind in "iub":
        return pd.Series(data)
    return pd.Series([None if empty else value for value, empty in zip(data.tolist(), mask, strict=True)], dtype="str")


def pick(frame: pd.DataFrame, asked: str | None, usual: Iterable[str], where: str) -> str | None:
    """Return the column asked for, or else the first usual one that exists, or None.

    Raises
    ------
    gzsurvey.errors.TableError
        The column asked for does not exist; lists those that do.
    """
    if asked is None:
        return next((name for name in usual if name in frame.columns), None)
    if asked not in frame.columns:
        shown = ", ".join(map(str, frame.columns[:12])) + (", ..." if len(frame.columns) > 12 else "")
        raise TableError(where, f"has no column {asked!r}; it has {shown}")
    return asked


def texts(values: pd.Series, where: str) -> NDArray[np.str_]:
    """Return ids or file names as text: whole numbers without a decimal point, empty where missing.

    Raises
    ------
    gzsurvey.errors.TableError
        Numbers too large for a float column to hold exactly.
    """
    if pd.api.types.is_float_dtype(values):
        inexact = ((values.abs() >= 2**53) | (values % 1 != 0)).to_numpy(dtype=np.bool_) & values.notna().to_numpy()
        if inexact.any():
            problem = f"column {values.name!r} holds ids as floats, which destroys them; store them as int64 or text"
            raise TableError(where, problem, np.flatnonzero(inexact).tolist())
        values = values.astype("Int64")
    found: NDArray[np.str_] = values.astype("str").where(values.notna(), "").str.strip().to_numpy(dtype=np.str_)
    return found


def numbers(frame: pd.DataFrame, name: str | None, where: str) -> NDArray[np.float64]:
    """Return one column as float64, NaN where empty; all NaN where `name` is None.

    Raises
    ------
    gzsurvey.errors.TableError
        The column holds text.
    """
    if name is None:
        return np.full(len(frame), np.nan)
    try:
        return pd.to_numeric(frame[name]).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError):
        raise TableError(where, f"column {name!r} holds text where numbers are expected") from None


def positions(
    frame: pd.DataFrame, ra_column: str | None, dec_column: str | None, where: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return right ascension and declination, degrees ICRS, NaN where not known.

    Raises
    ------
    gzsurvey.errors.TableError
        Positions outside the sky; names the rows.
    """
    ra = numbers(frame, pick(frame, ra_column, RA_COLUMNS, where), where)
    dec = numbers(frame, pick(frame, dec_column, DEC_COLUMNS, where), where)
    wrong = (np.abs(dec) > 90) | (ra < -180) | (ra > 360)
    if wrong.any():
        raise TableError(where, "positions lie outside the sky (dec -90 to 90, ra 0 to 360 degrees)",
                         np.flatnonzero(wrong).tolist())  # fmt: skip
    unknown = ~(np.isfinite(ra) & np.isfinite(dec))
    return np.where(unknown, np.nan, ra % 360.0), np.where(unknown, np.nan, dec)
