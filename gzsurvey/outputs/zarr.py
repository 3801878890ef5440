"""``predictions.zarr``: one array per quantity, row i of each is row i of the catalogue.

Every array is made at its exact length before a run starts. A block of rows is one shard, that
is one file, in each of them: written aside, flushed, renamed, by one worker. Attributes of an
array: ``units``, ``ucd``, ``long_name``, ``role`` (``id``, ``row``, ``layer``, ``kept``,
``size``, ``output``), and ``null``, ``answers`` or ``classes`` where these apply.

Letters: N rows, D features of the embedding, A answers.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import stat
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import EMBEDDING
from gzsurvey.outputs.columns import Column

ROWS_PER_CHUNK = 1024
"""Rows that are compressed together inside a shard: reading one row reads no more."""
VALUES_PER_CHUNK = 16_384
"""The same of an array with one value a row: small chunks cost more time than they save."""
_CHUNKS_AT_A_TIME = 64
"""That Zarr hands to its codecs together: handing them over one by one takes an eighth of a reader's time."""
_READERS, _WRITERS = 2, 1
"""Threads that decompress and compress chunks: each holds on to memory of its own, more with every block."""
FLUSHES = 8
"""Files that are flushed to disk at a time."""
Role = Literal["id", "row", "layer", "kept", "size", "output"]

_DTYPES = {"L": "bool", "I": "int16", "J": "int32", "K": "int64", "E": "float32", "D": "float64", "A": "str"}


@dataclass(frozen=True)
class ArraySpec:
    """One array to be made."""

    name: str
    dtype: str
    """A numpy name, or ``str``."""
    role: Role
    inner: tuple[tuple[str, int], ...] = ()
    """Name and length of each dimension after ``row``."""
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def fill(self) -> Any:
        """Stands for rows whose block is not finished."""
        if self.name == "status":
            return 40
        if "null" in self.attributes:
            return self.attributes["null"]
        return {"f": np.nan, "s": "", "b": False}.get(self.dtype[0], -1 if self.dtype.startswith("int") else 0)

    @property
    def bytes_per_row(self) -> int:
        """Before compression; a guess for text."""
        return 24 if self.dtype == "str" else np.dtype(self.dtype).itemsize * math.prod(self.inner_shape)

    @property
    def inner_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(length for _, length in self.inner)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of one array, as the ledger records it."""

    bytes: int
    sha256: str


def spec_of(column: Column, role: Role, dtype: str = "") -> ArraySpec:
    """Return the array that stores a catalogue column."""
    attributes = {"units": column.unit, "ucd": column.ucd, "long_name": column.description, "null": column.null}
    known = {key: value for key, value in attributes.items() if value not in ("", None)}
    return ArraySpec(column.name, dtype or _DTYPES[column.dtype], role, attributes=known)


def create_arrays(
    path: Path, specs: Sequence[ArraySpec], rows: int, block_rows: int, attributes: Mapping[str, Any]
) -> None:
    """Make empty arrays of exact length.

    Parameters
    ----------
    path : Path
        ``predictions.zarr``; what is there is replaced.
    specs : sequence of ArraySpec
        Arrays.
    rows : int
        N.
    block_rows : int
        Rows of a block, which is one shard: a multiple of 256.
    attributes : mapping
        Of the group: model, campaigns, what rows are.
    """
    import zarr

    shutil.rmtree(path, ignore_errors=True)
    group = zarr.create_group(path, zarr_format=3, attributes=dict(attributes))
    for spec in specs:
        inner = spec.inner_shape
        chunk = math.gcd(block_rows, ROWS_PER_CHUNK if inner else VALUES_PER_CHUNK)
        group.create_array(
            spec.name,
            shape=(rows, *inner),
            shards=(block_rows, *inner),
            chunks=(chunk, *inner),
            dtype=str if spec.dtype == "str" else spec.dtype,
            fill_value=spec.fill,
            # Embeddings are noise to a compressor, and uncompressed they can be mapped.
            compressors=None if spec.name == EMBEDDING else zarr.codecs.ZstdCodec(level=1),  # type: ignore[attr-defined]
            dimension_names=("row", *(name for name, _ in spec.inner)),
            attributes={"role": spec.role, **spec.attributes},
        )


def write_block(
    path: Path, aside: Path, block: int, values: Mapping[str, NDArray[Any]], before: Callable[[], None] = lambda: None
) -> dict[str, Shard]:
    """Write the shards of one block: all are on disk before the first takes its place.

    Parameters
    ----------
    path : Path
        ``predictions.zarr``.
    aside : Path
        Folder on the same disk for unfinished files.
    block : int
        Its number: row `block` times the rows of a shard is its first.
    values : mapping of str to array, shape (n, ...)
        By array name; all arrays of the group, n rows each.
    before : callable
        Called when all are on disk, before the first replaces an earlier one.

    Returns
    -------
    dict of str to Shard
        Size and checksum of each file, for the ledger.

    Raises
    ------
    ValueError
        An array has not the shape of its block.

    Notes
    -----
    Bytes depend on `values` alone: the same block gives the same files.
    """
    aside.mkdir(parents=True, exist_ok=True)
    contents = {name: _shard_content(path / name, block, rows) for name, rows in values.items()}
    asides = {name: aside / f"{name}-{uuid.uuid4().hex}" for name in contents}
    places = [path / name / "c" / key for name, (key, _) in contents.items()]
    # Waits for the disk, side by side: one flush of a busy disk takes as long as many.
    with ThreadPoolExecutor(FLUSHES) as pool:
        try:
            shards = list(pool.map(_flush, (content for _, content in contents.values()), asides.values()))
            before()
            list(pool.map(settle, asides.values(), places))
        finally:
            for file in asides.values():
                file.unlink(missing_ok=True)
    return dict(zip(contents, shards, strict=True))


def _shard_content(path: Path, block: int, rows: NDArray[Any]) -> tuple[str, bytes]:
    """Return the key and the bytes of one shard of an array."""
    import zarr
    from zarr.core.buffer import default_buffer_prototype

    metadata = default_buffer_prototype().buffer.from_bytes((path / "zarr.json").read_bytes())
    kept: dict[str, Any] = {"zarr.json": metadata}
    with zarr.config.set(
        {
            "array.write_empty_chunks": True,
            "threading.max_workers": _WRITERS,
            "codec_pipeline.batch_size": _CHUNKS_AT_A_TIME,
        }
    ):
        array: Any = zarr.open_array(zarr.storage.MemoryStore(kept), mode="r+")
        start = block * array.shards[0]
        _check_shape(path.name, rows, array, start)
        array[start : start + len(rows)] = rows.astype(object) if rows.dtype.kind == "U" else rows
    key = "/".join([str(block), *["0"] * (array.ndim - 1)])
    return key, kept[f"c/{key}"].to_bytes()


def read_rows(path: Path, start: int, stop: int, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read a run of rows.

    Parameters
    ----------
    path : Path
        ``predictions.zarr``.
    start, stop : int
        Rows; `stop` is exclusive.
    names : sequence of str, optional
        Arrays; all of them by default.

    Returns
    -------
    dict of str to array, shape (stop - start, ...)
        Text as numpy str.
    """
    import zarr

    with zarr.config.set({"threading.max_workers": _READERS, "codec_pipeline.batch_size": _CHUNKS_AT_A_TIME}):
        group = zarr.open_group(path, mode="r", use_consolidated=False)
        wanted = sorted(group.array_keys()) if names is None else names
        return {name: _plain(np.asarray(_array(group, name)[start:stop])) for name in wanted}


def array_attributes(path: Path) -> dict[str, dict[str, Any]]:
    """Return the attributes of every array, by name, in the group's order of names."""
    import zarr

    group = zarr.open_group(path, mode="r", use_consolidated=False)
    return {name: dict(_array(group, name).attrs) for name in sorted(group.array_keys())}


def stored_specs(path: Path) -> tuple[ArraySpec, ...]:
    """Return what arrays a store has, in the group's order of names, to make another one like it."""
    import zarr

    group = zarr.open_group(path, mode="r", use_consolidated=False)
    return tuple(_spec(name, _array(group, name)) for name in sorted(group.array_keys()))


def group_attributes_of(path: Path) -> dict[str, Any]:
    """Return the attributes of the group."""
    import zarr

    return dict(zarr.open_group(path, mode="r", use_consolidated=False).attrs)


def _spec(name: str, array: Any) -> ArraySpec:
    about = dict(array.attrs)
    dtype = "str" if array.dtype.kind in "TO" else array.dtype.name
    inner = tuple(zip(array.metadata.dimension_names[1:], array.shape[1:], strict=True))
    return ArraySpec(name, dtype, about.pop("role"), inner, about)


def consolidate(path: Path) -> None:
    """Copy all metadata into one file, so that opening takes one read."""
    import zarr

    with warnings.catch_warnings():
        # Zarr says that other readers may not know it; they ignore it, and it is optional.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(path)


def shard_file(path: Path, name: str, block: int) -> Path:
    """Return the file that holds a block's rows of one array."""
    place = path / name / "c" / str(block)
    while place.is_dir():  # one folder for each dimension after the first
        place = place / "0"
    return place


def shard_size(path: Path, name: str, block: int) -> int:
    """Return the bytes of `shard_file`; a big run asks a million times.

    Raises
    ------
    OSError
        There is no such file.
    """
    place = f"{path}/{name}/c/{block}"
    while stat.S_ISDIR((found := os.stat(place)).st_mode):  # noqa: PTH116
        place += "/0"
    return found.st_size


def settle(aside: Path, place: Path) -> None:
    """Flush a finished file to disk, then give it its name."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    place.parent.mkdir(parents=True, exist_ok=True)
    aside.replace(place)
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _flush(content: bytes, aside: Path) -> Shard:
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Shard(len(content), hashlib.sha256(content).hexdigest())


def _check_shape(name: str, rows: NDArray[Any], array: Any, start: int) -> None:
    """Refuse what Zarr would cut or repeat without a word."""
    expected = (min(array.shards[0], array.shape[0] - start), *array.shape[1:])
    if rows.shape != expected:
        raise ValueError(f"{name!r} has shape {rows.shape}, its block needs {expected}")


def _array(group: Any, name: str) -> Any:
    return group[name]


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    return np.array(values.tolist(), dtype=str) if values.dtype.kind in "TO" else values
