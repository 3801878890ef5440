"""Tables as astronomers keep them, read chunk by chunk: FITS, CSV, ECSV, VOTable, Parquet, HATS."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import TableError

ROWS_PER_CHUNK = 1_000_000
Chunk = dict[str, "np.ma.MaskedArray[Any, Any]"]
"""Columns of one run of rows; masked where a value is null."""


@dataclass(frozen=True, slots=True)
class ColumnInfo:
    """What a table says about a column."""

    name: str
    unit: str = ""
    ucd: str = ""
    description: str = ""
    null: int | None = None
    """Stands for a missing value of an integer column."""


@dataclass(frozen=True)
class TableFile:
    """One table, opened: its columns are known, its rows not yet read."""

    path: Path
    columns: dict[str, ColumnInfo]
    read: Callable[[Sequence[str]], Iterator[Chunk]]
    """Yields the named columns, chunk by chunk, in row order."""
    frame: str = "icrs"
    """Frame of its equatorial positions, as astropy names it."""


def open_tables(text: str) -> list[TableFile]:
    """Open every file that a user means, as parts of one table.

    Parameters
    ----------
    text : str
        A file, a HATS directory, or a glob.

    Raises
    ------
    gzsurvey.errors.TableError
        There is no such file, or one cannot be read.
    """
    path = Path(text)
    if path.is_dir():
        return [_open_hats(path)]
    paths = [path] if path.is_file() else [Path(p) for p in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207 - absolute patterns
    paths = [p for p in paths if p.is_file()]
    if not paths:
        raise TableError(text, "there is no such file")
    return [_open(p) for p in paths]


def _open(path: Path) -> TableFile:
    suffix = path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    openers: dict[str, Callable[[Path], TableFile]] = {
        "fits": _open_fits, "fit": _open_fits, "csv": _open_csv, "ecsv": _open_astropy, "vot": _open_votable,
        "xml": _open_votable, "votable": _open_votable, "parquet": _open_parquet, "pq": _open_parquet,
    }  # fmt: skip
    if suffix not in openers:
        raise TableError(str(path), f"is none of FITS, CSV, ECSV, VOTable, Parquet (by its ending .{suffix})")
    try:
        return openers[suffix](path)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise TableError(str(path), f"cannot be read: {' '.join(str(error).split())[:200]}") from None


def _open_fits(path: Path) -> TableFile:
    from astropy.io import fits

    with fits.open(path, memmap=True) as hdus:
        number = next((i for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)), None)
        if number is None:
            raise TableError(str(path), "holds no table extension")
        header = hdus[number].header.copy()
        columns = {c.name: _fits_info(c, header, i) for i, c in enumerate(hdus[number].columns, start=1)}

    def read(names: Sequence[str]) -> Iterator[Chunk]:
        with fits.open(path, memmap=True) as hdus:
            data = hdus[number].data
            for start in range(0, len(data), ROWS_PER_CHUNK):
                part = data[start : start + ROWS_PER_CHUNK]
                yield {name: _masked(part[name], columns[name].null) for name in names}

    return TableFile(path, columns, read, _fits_frame(header))


def _fits_info(column: Any, header: Any, number: int) -> ColumnInfo:
    null = column.null if isinstance(column.null, int) else None
    text = {key: str(header.get(f"{key}{number}", "")).strip() for key in ("TUNIT", "TUCD", "TCOMM")}
    return ColumnInfo(column.name, text["TUNIT"], text["TUCD"], text["TCOMM"], null)


def _fits_frame(header: Any) -> str:
    system = str(header.get("RADESYS", header.get("RADECSYS", "ICRS"))).strip().lower()
    equinox = float(header.get("EQUINOX", 2000.0))
    return system if system in {"icrs", "fk5", "fk4"} and not (system == "fk5" and equinox == 2000.0) else "icrs"


def _masked(values: Any, null: int | None = None) -> np.ma.MaskedArray[Any, Any]:
    """Return native, plain values with nulls masked."""
    array = np.ma.asarray(values)
    data = np.asarray(array.data)
    if data.dtype.kind == "S":
        data = np.char.decode(data, "utf-8", "replace")
    if data.dtype.kind == "O":
        return _from_objects(data, np.ma.getmaskarray(array))
    if data.dtype.kind == "U":
        data = np.char.strip(data)
    data = data.astype(data.dtype.newbyteorder("="))
    mask = np.ma.getmaskarray(array)
    if null is not None and data.dtype.kind in "iu":
        mask = mask | (data == null)
    return np.ma.MaskedArray(data, mask=mask)


def _from_objects(data: NDArray[Any], mask: NDArray[np.bool_]) -> np.ma.MaskedArray[Any, Any]:
    empty = np.array([value is None or value is np.ma.masked for value in data], dtype=bool) | mask
    text = np.array(["" if hide else str(value).strip() for value, hide in zip(data, empty, strict=True)], dtype=str)
    return np.ma.MaskedArray(text, mask=empty)


def _open_csv(path: Path) -> TableFile:
    import pandas as pd

    with path.open("rb") as file:
        if file.read(6) == b"# %ECS":
            return _open_astropy(path)
    header = pd.read_csv(path, nrows=0, comment="#", skipinitialspace=True)
    columns = {str(name): ColumnInfo(str(name)) for name in header.columns}

    def read(names: Sequence[str]) -> Iterator[Chunk]:
        table = pd.read_csv(
            path, usecols=list(names), dtype=str, keep_default_na=False, comment="#", skipinitialspace=True
        )
        yield {name: typed(table[name].to_numpy(dtype=str)) for name in names}

    return TableFile(path, columns, read)


_WHOLE = re.compile(r"^(0|-?[1-9][0-9]{0,18})$")
_EMPTY = ("", "nan", "NaN", "NAN", "null", "NULL", "None", "N/A", "--")


def typed(text: NDArray[np.str_]) -> np.ma.MaskedArray[Any, Any]:
    """Return text as int64, else float64, else as it is (``0012`` stays text).

    Parameters
    ----------
    text : str, shape (N,)
        A column as written in a text file.

    Returns
    -------
    masked array, shape (N,)
        Masked where the text is empty or says null.
    """
    text = np.char.strip(text)
    empty = np.isin(text, _EMPTY)
    given = text[~empty]
    if len(given) and all(_WHOLE.match(value) for value in given):
        try:
            return np.ma.MaskedArray(np.where(empty, "0", text).astype(np.int64), mask=empty)
        except OverflowError:
            return np.ma.MaskedArray(text, mask=empty)
    if any(len(value) > 1 and value[0] == "0" and value.isdigit() for value in given):
        return np.ma.MaskedArray(text, mask=empty)
    try:
        return np.ma.MaskedArray(np.where(empty, "nan", text).astype(np.float64), mask=empty)
    except ValueError:
        return np.ma.MaskedArray(text, mask=empty)


def _open_astropy(path: Path) -> TableFile:
    from astropy.table import Table

    return _from_astropy(path, Table.read(path, format="ascii.ecsv"))


def _open_votable(path: Path) -> TableFile:
    import warnings

    from astropy.io.votable import parse_single_table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = parse_single_table(path).to_table(use_names_over_ids=True)
    return _from_astropy(path, table)


def _from_astropy(path: Path, table: Any) -> TableFile:
    columns = {
        name: ColumnInfo(
            name,
            str(table[name].unit or ""),
            str(table[name].info.meta.get("ucd", "") if table[name].info.meta else ""),
            str(table[name].description or ""),
        )
        for name in table.colnames
    }

    def read(names: Sequence[str]) -> Iterator[Chunk]:
        for start in range(0, len(table), ROWS_PER_CHUNK):
            part = slice(start, start + ROWS_PER_CHUNK)
            yield {name: _masked(np.ma.asarray(getattr(table[name], "value", table[name]))[part]) for name in names}

    return TableFile(path, columns, read)


def _open_parquet(path: Path) -> TableFile:
    import pyarrow.dataset as ds

    return _from_arrow(path, ds.dataset(path, format="parquet"))


def _open_hats(path: Path) -> TableFile:
    import pyarrow.dataset as ds

    inside = next((p for p in (path / "dataset", path / "catalogue" / "dataset", path / "catalog" / "dataset")
                   if p.is_dir()), path)  # fmt: skip
    files = sorted(inside.rglob("*.parquet"))
    if not files:
        raise TableError(str(path), "is a directory without Parquet files; give a HATS directory or a quoted glob")
    return _from_arrow(path, ds.dataset(files, format="parquet"))


def _from_arrow(path: Path, dataset: Any) -> TableFile:
    columns = {field.name: _arrow_info(field) for field in dataset.schema}
    votable = (dataset.schema.metadata or {}).get(b"IVOA.VOTable-Parquet.content")
    if votable:
        columns |= {name: info for name, info in _votable_infos(votable).items() if name in columns}

    def read(names: Sequence[str]) -> Iterator[Chunk]:
        for batch in dataset.to_batches(columns=list(names), batch_size=ROWS_PER_CHUNK):
            yield {name: _from_arrow_array(batch.column(name)) for name in names}

    return TableFile(path, columns, read)


def _arrow_info(field: Any) -> ColumnInfo:
    meta = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    return ColumnInfo(field.name, meta.get("unit", ""), meta.get("ucd", ""), meta.get("description", ""))


def _votable_infos(content: bytes) -> dict[str, ColumnInfo]:
    import io
    import warnings

    from astropy.io.votable import parse

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fields = [field for table in parse(io.BytesIO(content)).iter_tables() for field in table.fields]
    return {f.name: ColumnInfo(f.name, str(f.unit or ""), f.ucd or "", f.description or "") for f in fields}


def _from_arrow_array(array: Any) -> np.ma.MaskedArray[Any, Any]:
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    mask = np.asarray(array.is_null())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        text = array.fill_null("").to_numpy(zero_copy_only=False)
        return np.ma.MaskedArray(np.char.strip(np.array(text, dtype=str)), mask=mask)
    if array.null_count and not pa.types.is_nested(array.type):
        array = array.fill_null(pa.scalar(0).cast(array.type))
    return np.ma.MaskedArray(np.array(array.to_numpy(zero_copy_only=False)), mask=mask)


def with_null(info: ColumnInfo, values: np.ma.MaskedArray[Any, Any]) -> tuple[ColumnInfo, NDArray[Any]]:
    """Turn masked values into plain ones.

    Returns
    -------
    info : ColumnInfo
        With `null` set where an integer column has missing values.
    values : array
        NaN, an empty string, or `null` where a value is missing; booleans with missing
        values become int16.
    """
    data, mask = np.asarray(values.data), np.ma.getmaskarray(values)
    kind = data.dtype.kind
    if kind == "f":
        return info, np.where(mask, np.nan, data).astype(data.dtype)
    if kind not in "iub":
        return info, np.where(mask, "", data)
    if not mask.any():
        return replace(info, null=None), data
    if kind in "ub":
        data = data.astype(np.int16 if kind == "b" or data.itemsize == 1 else np.int64)
    null = int(np.iinfo(data.dtype).min)
    return replace(info, null=null), np.where(mask, null, data).astype(data.dtype)
