"""Tables as astronomers keep them, read chunk by chunk: FITS, CSV, ECSV, VOTable, Parquet, HATS."""

from __future__ import annotations

import glob
import gzip
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import TableError
from gzsurvey.sky.text import CsvFile, EcsvFile

ROWS_PER_CHUNK = 262_144
"""Most rows read at a time: 32 MB of sixteen columns of numbers. Of more columns, fewer rows are read."""
_COLUMNS_PER_CHUNK = 16
VOTABLE_ROWS = 10_000_000
"""Most rows of a VOTable, which is read whole."""
_BUFFER_BYTES = 1 << 20
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
    rows: int | None = None
    """How many there are; None: not known before they are read."""


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
    return [_open_hats(path) if path.is_dir() else _open(path) for path in table_paths(text)]


def table_paths(text: str) -> list[Path]:
    """Return the files, or the HATS directory, that a user means.

    Raises
    ------
    gzsurvey.errors.TableError
        There is no such file.
    """
    path = Path(text)
    if path.exists():
        return [path]
    found = [Path(p) for p in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207 - absolute patterns
    files = [p for p in found if p.is_file()]
    if not files:
        raise TableError(text, "there is no such file")
    return files


def _chunk_rows(names: Sequence[str]) -> int:
    return max(1, ROWS_PER_CHUNK * _COLUMNS_PER_CHUNK // max(len(names), _COLUMNS_PER_CHUNK))


def _open(path: Path) -> TableFile:
    suffix = path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    openers: dict[str, Callable[[Path], TableFile]] = {
        "fits": _open_fits, "fit": _open_fits, "csv": _open_csv, "ecsv": _open_ecsv, "vot": _open_votable,
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

    with fits.open(path, memmap=True, lazy_load_hdus=True) as hdus:
        number = next((i for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)), None)
        if number is None:
            raise TableError(str(path), "holds no table extension")
        header = hdus[number].header.copy()
        columns = {c.name: _fits_info(c, header, i) for i, c in enumerate(hdus[number].columns, start=1)}
    rows = int(header["NAXIS2"])

    def read(names: Sequence[str]) -> Iterator[Chunk]:
        with _plain_file(path) as plain:
            length = _chunk_rows(names)
            for start in range(0, rows, length):
                # Opened anew, so that no more of the file than one chunk is mapped into memory.
                with fits.open(plain, memmap=True) as hdus:
                    part = hdus[number].data[start : start + length]
                    chunk = {name: _masked(part[name], columns[name].null) for name in names}
                    del part
                yield chunk

    return TableFile(path, columns, read, _fits_frame(header), rows)


@contextmanager
def _plain_file(path: Path) -> Iterator[Path]:
    """Yield a file that can be mapped: a compressed one is unpacked into a temporary file."""
    if path.suffix.lower() != ".gz":
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=".fits") as plain:
        with gzip.open(path) as packed:
            shutil.copyfileobj(packed, plain)
        plain.flush()
        yield Path(plain.name)


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
    with path.open("rb") as file:
        if file.read(6) == b"# %ECS":
            return _open_ecsv(path)
    table = CsvFile(path)
    columns = {name: ColumnInfo(name) for name in table.names()}
    return TableFile(path, columns, lambda names: table.read(names, _chunk_rows(names)))


def _open_ecsv(path: Path) -> TableFile:
    table = EcsvFile.open(path)
    columns = {name: _ecsv_info(name, about) for name, about in table.columns.items()}
    return TableFile(path, columns, lambda names: table.read(names, _chunk_rows(names)))


def _ecsv_info(name: str, about: Mapping[str, Any]) -> ColumnInfo:
    ucd = dict(about.get("meta") or {}).get("ucd", "")
    return ColumnInfo(name, str(about.get("unit") or ""), str(ucd), str(about.get("description") or ""))


_NROWS = re.compile(rb"<(?:\w+:)?TABLE\b[^>]*\bnrows\s*=\s*[\"'](\d+)")
_ROW = re.compile(rb"<(?:\w+:)?TR[\s>]")
_TAG_BYTES = 1024
"""A start tag is shorter."""


def _open_votable(path: Path) -> TableFile:
    import warnings

    from astropy.io.votable import parse_single_table

    _check_votable_rows(path, _votable_rows(path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = parse_single_table(path).to_table(use_names_over_ids=True)
    _check_votable_rows(path, len(table))
    return _from_astropy(path, table)


def _check_votable_rows(path: Path, rows: int) -> None:
    if rows > VOTABLE_ROWS:
        raise TableError(
            str(path),
            f"has {rows:,} rows, and a VOTable of more than {VOTABLE_ROWS:,} is not read; convert it, e.g. "
            f"stilts tcopy in={path.name} out={path.name.split('.')[0]}.fits",
        )


def _votable_rows(path: Path) -> int:
    """Return how many rows a VOTable has, by its attribute or its tags; 0 where neither says it."""
    rows, rest = 0, b""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        while block := file.read(1 << 20):
            text = rest + block
            stated = _NROWS.search(text) if rows == 0 else None
            if stated:
                return int(stated[1])
            # A tag that begins at the end may be cut: it is looked at again with the next block.
            end = max(len(text) - _TAG_BYTES, 0)
            rows += sum(tag.start() < end for tag in _ROW.finditer(text))
            rest = text[end:]
    return rows + sum(1 for _ in _ROW.finditer(rest))


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
        length = _chunk_rows(names)
        for start in range(0, len(table), length):
            part = slice(start, start + length)
            yield {name: _masked(np.ma.asarray(getattr(table[name], "value", table[name]))[part]) for name in names}

    return TableFile(path, columns, read, rows=len(table))


def _open_parquet(path: Path) -> TableFile:
    return _from_parquet(path, [path])


def _open_hats(path: Path) -> TableFile:
    inside = next((p for p in (path / "dataset", path / "catalogue" / "dataset", path / "catalog" / "dataset")
                   if p.is_dir()), path)  # fmt: skip
    files = sorted(inside.rglob("*.parquet"))
    if not files:
        raise TableError(str(path), "is a directory without Parquet files; give a HATS directory or a quoted glob")
    return _from_parquet(path, files)


def _from_parquet(path: Path, files: Sequence[Path]) -> TableFile:
    import pyarrow.parquet as pq

    schema = pq.read_schema(files[0])
    columns = {field.name: _arrow_info(field) for field in schema}
    votable = (schema.metadata or {}).get(b"IVOA.VOTable-Parquet.content")
    if votable:
        columns |= {name: info for name, info in _votable_infos(votable).items() if name in columns}

    def read(names: Sequence[str]) -> Iterator[Chunk]:
        for part in files:
            # Through a small buffer: by default whole row groups are read ahead.
            with pq.ParquetFile(part, pre_buffer=False, buffer_size=_BUFFER_BYTES) as file:
                lacking = [name for name in names if name not in file.schema_arrow.names]
                if lacking:
                    raise TableError(str(part), f"has no column {lacking[0]!r}, which {files[0].name} has")
                for batch in file.iter_batches(_chunk_rows(names), columns=list(names)):
                    yield {name: _from_arrow_array(batch.column(name)) for name in names}

    return TableFile(path, columns, read, rows=sum(pq.read_metadata(part).num_rows for part in files))


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
    dtype, null = null_of(values.dtype, bool(np.ma.getmaskarray(values).any()))
    return (replace(info, null=null) if values.dtype.kind in "iub" else info), plain(values, dtype, null)


def null_of(dtype: np.dtype[Any], any_missing: bool) -> tuple[np.dtype[Any], int | None]:
    """Return the type of a column without a mask, and the number that stands for a missing one of its values."""
    if not any_missing or dtype.kind not in "iub":
        return dtype, None
    if dtype.kind in "ub":
        dtype = np.dtype(np.int16 if dtype.kind == "b" or dtype.itemsize == 1 else np.int64)
    return dtype, int(np.iinfo(dtype).min)


def plain(values: np.ma.MaskedArray[Any, Any], dtype: np.dtype[Any], null: int | None) -> NDArray[Any]:
    """Return values without a mask, of a type and with a null that `null_of` gave."""
    data, mask = np.asarray(values.data).astype(dtype), np.ma.getmaskarray(values)
    missing: Any = {"f": np.nan, "i": null}.get(dtype.kind, "")
    return np.where(mask, missing, data).astype(dtype) if mask.any() else data
