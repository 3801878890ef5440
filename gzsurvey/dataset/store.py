"""The training store: images and votes side by side, mapped rather than read.

::

    STORE/
    ├── store.json         StoreInfo
    ├── store.zarr/        images (N, H, W, 3) uint8, or float32 flux; votes (N, A) int32; uncompressed chunks
    ├── galaxies.parquet   one row per galaxy: GALAXY_COLUMNS
    └── rejected.csv       source, id, reason

Letters: N galaxies, A answers, H and W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray
from pydantic import ValidationError

from gzsurvey.card import Credit
from gzsurvey.errors import RecipeError
from gzsurvey.recipes.base import Section
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.votes.tree import DecisionTree

ROWS_PER_CHUNK = 1024
"""Galaxies per chunk file, at most."""
CHUNK_BYTES = 48 * 1024 * 1024
"""Bytes of images per chunk file, at most: a build holds one, and 1.9 million 224-px images
make 6,000 files."""
MAPPED_CHUNKS = 4096
"""Chunk files held mapped at a time, of images and of votes."""
ROWS_AT_A_TIME = 65_536
"""Of the table of galaxies, which is never held whole."""

GALAXY_COLUMNS = (
    "id",  # str, unique within its source
    "source",  # str, the recipe's name for it
    "campaign",  # str, empty: unlabelled
    "ra", "dec",  # float64 deg ICRS, NaN: unknown
    "split",  # str: train, validation, test
    "assumed_votes",  # bool: counts made from fractions by an assumed number of volunteers
    "image_sha256",  # str: of the decoded, prepared pixels
    "r50", "mag",  # float32: half-light radius (arcsec) and magnitude, NaN: unknown
)  # fmt: skip
SPLITS = ("train", "validation", "test")


class StoreInfo(Section):
    """What ``store.json`` says."""

    format_version: int = 1
    simulated: bool = False
    preparation: Preparation
    questions: tuple[dict[str, Any], ...]
    """As `DecisionTree.to_json` writes them."""
    galaxies: int
    credits: tuple[Credit, ...]
    recipe_sha256: str
    content_sha256: str
    """Of ids, votes, splits and image hashes, in row order: equal stores, equal value."""
    rejected: int = 0
    """Galaxies without a usable image; ``rejected.csv`` lists them."""
    held_out: dict[str, int] = {}
    """Galaxies left out because the recipe holds them out, by source."""
    without_positions: tuple[str, ...] = ()
    """Sources some of whose galaxies have no position: there, equal pixels alone tell that
    two images show one galaxy."""


class Store:
    """A training store on disk, opened for reading.

    Parameters
    ----------
    path : Path
        The STORE directory.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The directory holds no finished store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.info = StoreInfo.model_validate_json((path / "store.json").read_text())
        except FileNotFoundError:
            raise RecipeError(str(path), "is no finished store; make one with 'gzsurvey dataset build'") from None
        except ValidationError as error:
            raise RecipeError(str(path / "store.json"), f"is damaged: {error.errors()[0]['msg']}") from None
        group = zarr.open_group(path / "store.zarr", mode="r")
        self.votes: zarr.Array[Any] = group["votes"]  # type: ignore[assignment]
        """int32, shape (N, A). Zeros where a question was not asked."""
        self.image_shape = tuple(int(n) for n in group["images"].shape[1:])  # type: ignore[union-attr]
        self.rows_per_chunk = int(group["images"].chunks[0])  # type: ignore[union-attr]
        self._mapped_images = lru_cache(MAPPED_CHUNKS)(self._map_images)
        self._mapped_votes = lru_cache(MAPPED_CHUNKS)(self._map_votes)

    def __len__(self) -> int:
        return self.info.galaxies

    @cached_property
    def tree(self) -> DecisionTree:
        """The question tree of the vote matrix."""
        return DecisionTree.from_json(list(self.info.questions))

    @cached_property
    def galaxies(self) -> pd.DataFrame:
        """One row per galaxy, columns `GALAXY_COLUMNS`; for stores that are not huge."""
        return pd.read_parquet(self._table)

    def numbers(self, column: str, rows: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """One column of the table of galaxies, at `rows` or all, float64, NaN where unknown."""
        rows = np.arange(len(self)) if rows is None else rows
        out = np.full(len(rows), np.nan)
        for places, part in self._pieces(column, rows):
            out[places] = part.to_numpy(zero_copy_only=False)
        return out

    def rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of one split, ascending, int64."""
        return self._rows_where("split", pa.array([split]))

    def find(self, ids: NDArray[np.str_]) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
        """Look up galaxies by id.

        Parameters
        ----------
        ids : str, shape (n,)
            What is looked for.

        Returns
        -------
        rows : int64, shape (m,)
            Every row whose id is among `ids`, ascending; sources may share an id.
        found : str, shape (m,)
            Its id.
        """
        rows = self._rows_where("id", pa.array(ids.tolist(), pa.string()))
        return rows, self.texts("id", rows)

    def texts(self, column: str, rows: NDArray[np.int64]) -> NDArray[np.str_]:
        """One column of text of the table of galaxies at `rows`, in any order."""
        found = np.empty(len(rows), dtype=object)
        for places, part in self._pieces(column, rows):
            found[places] = part.to_pylist()
        return found.astype(np.str_)

    def _pieces(self, column: str, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], pa.Array]]:
        """Yield which of `rows` lie in a piece of the table, and their values of one column."""
        order, start = np.argsort(rows, kind="stable"), 0
        for part in self._read(column):
            low, high = np.searchsorted(rows, [start, start + len(part)], sorter=order)
            places = order[low:high]
            yield places, part.take(pa.array(rows[places] - start))
            start += len(part)

    def _rows_where(self, column: str, values: pa.Array) -> NDArray[np.int64]:
        found, start = [np.empty(0, np.int64)], 0
        for part in self._read(column):
            among = pc.is_in(part.cast(pa.string()), value_set=values)
            found.append(start + np.flatnonzero(among.to_numpy(zero_copy_only=False)))
            start += len(part)
        return np.concatenate(found)

    def _read(self, column: str) -> Iterator[pa.Array]:
        """Yield one column piece by piece."""
        with pq.ParquetFile(self._table) as file:
            for batch in file.iter_batches(ROWS_AT_A_TIME, columns=[column], use_threads=False):
                yield batch.column(0)

    @property
    def _table(self) -> Path:
        return self.path / "galaxies.parquet"

    def images(self, rows: Iterable[int] | NDArray[np.integer]) -> NDArray[Any]:
        """Copy images out of the mapped chunks.

        Parameters
        ----------
        rows : int, shape (n,)
            Row numbers, in any order.

        Returns
        -------
        uint8, shape (n, H, W, 3)
            float32 where the store's preparation keeps flux.
        """
        rows = np.fromiter(rows, dtype=np.int64) if not isinstance(rows, np.ndarray) else rows
        out = np.empty((len(rows), *self.image_shape), dtype=self.info.preparation.input_type)
        for chunk, places, offsets in _by_chunk(rows, self.rows_per_chunk):
            out[places] = self._mapped_images(chunk)[offsets]
        return out

    def vote_counts(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """Copy votes out of the mapped chunks.

        Parameters
        ----------
        rows : int, shape (n,)
            Row numbers, in any order.

        Returns
        -------
        int32, shape (n, A)
            Zeros where a question was not asked.
        """
        out = np.empty((len(rows), self.votes.shape[1]), dtype=np.int32)
        for chunk, places, offsets in _by_chunk(rows, self.votes.chunks[0]):
            out[places] = self._mapped_votes(chunk)[offsets]
        return out

    def _map_votes(self, chunk: int) -> NDArray[np.int32]:
        shape = (self.votes.chunks[0], self.votes.shape[1])
        path = self.path / "store.zarr" / "votes" / "c" / str(chunk) / "0"
        return _map(path, np.dtype(np.int32), shape)

    def _map_images(self, chunk: int) -> NDArray[Any]:
        path = self.path / "store.zarr" / "images" / "c" / str(chunk) / "0" / "0" / "0"
        return _map(path, np.dtype(self.info.preparation.input_type), (self.rows_per_chunk, *self.image_shape))


def _by_chunk(
    rows: NDArray[np.integer], per_chunk: int
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.integer]]]:
    """Yield, chunk by chunk, its number, which of `rows` lie in it, and where in it they lie."""
    if not len(rows):
        return
    chunks, offsets = np.divmod(rows, per_chunk)
    order = np.argsort(chunks, kind="stable")
    starts = np.flatnonzero(np.diff(chunks[order]))
    for places in np.split(order, starts + 1):
        yield int(chunks[places[0]]), places, offsets[places]


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Map a chunk file; Zarr writes none for a chunk of zeros, which here takes no memory either."""
    if path.exists():
        return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=shape))
    return np.broadcast_to(np.zeros((), dtype), shape)


def rows_per_chunk(image_size: int, value_bytes: int = 1) -> int:
    """Galaxies per chunk file for images of `image_size` pixels a side and `value_bytes` for each colour of a pixel."""
    return max(1, min(ROWS_PER_CHUNK, CHUNK_BYTES // (3 * value_bytes * image_size**2)))


def write_info(path: Path, info: StoreInfo) -> None:
    """Write ``store.json``, which makes the store a finished one."""
    aside = path / "store.json.partial"
    aside.write_text(json.dumps(json.loads(info.model_dump_json()), indent=1))
    aside.replace(path / "store.json")
