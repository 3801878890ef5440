"""The training store: images and votes side by side, mapped rather than read.

::

    STORE/
    ├── store.json         StoreInfo
    ├── store.zarr/        images (N, H, W, 3) uint8; votes (N, A) int32; uncompressed chunks
    ├── galaxies.parquet   one row per galaxy: GALAXY_COLUMNS
    └── rejected.csv       source, id, reason

Letters: N galaxies, A answers, H and W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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

    def __len__(self) -> int:
        return self.info.galaxies

    @cached_property
    def tree(self) -> DecisionTree:
        """The question tree of the vote matrix."""
        return DecisionTree.from_json(list(self.info.questions))

    @cached_property
    def galaxies(self) -> pd.DataFrame:
        """One row per galaxy, columns `GALAXY_COLUMNS`."""
        return pd.read_parquet(self.path / "galaxies.parquet")

    def rows(self, split: str) -> NDArray[np.int64]:
        """Row numbers of one split, ascending, int64."""
        return np.flatnonzero((self.galaxies["split"] == split).to_numpy()).astype(np.int64)

    def images(self, rows: Iterable[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """Copy images out of the mapped chunks.

        Parameters
        ----------
        rows : int, shape (n,)
            Row numbers, in any order.

        Returns
        -------
        uint8, shape (n, H, W, 3)
        """
        rows = np.fromiter(rows, dtype=np.int64) if not isinstance(rows, np.ndarray) else rows
        out = np.empty((len(rows), *self.image_shape), dtype=np.uint8)
        for i, row in enumerate(rows):
            chunk, offset = divmod(int(row), self.rows_per_chunk)
            out[i] = self._chunk(chunk)[offset]
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
        for i, row in enumerate(rows):
            chunk, offset = divmod(int(row), self.votes.chunks[0])
            out[i] = self._votes_chunk(chunk)[offset]
        return out

    def _votes_chunk(self, number: int) -> NDArray[np.int32]:
        if number not in self._mapped_votes:
            shape = (self.votes.chunks[0], self.votes.shape[1])
            path = self.path / "store.zarr" / "votes" / "c" / str(number) / "0"
            # A chunk without votes is not written by Zarr.
            self._mapped_votes[number] = (
                np.memmap(path, dtype=np.int32, mode="r", shape=shape) if path.exists() else np.zeros(shape, np.int32)
            )
        return self._mapped_votes[number]

    def _chunk(self, number: int) -> NDArray[np.uint8]:
        if number not in self._mapped:
            shape = (self.rows_per_chunk, *self.image_shape)
            path = self.path / "store.zarr" / "images" / "c" / str(number) / "0" / "0" / "0"
            # A chunk of black images is not written by Zarr.
            self._mapped[number] = (
                np.memmap(path, dtype=np.uint8, mode="r", shape=shape) if path.exists() else np.zeros(shape, np.uint8)
            )
        return self._mapped[number]

    @cached_property
    def _mapped_votes(self) -> dict[int, NDArray[np.int32]]:
        return {}

    @cached_property
    def _mapped(self) -> dict[int, NDArray[np.uint8]]:
        return {}


def rows_per_chunk(image_size: int) -> int:
    """Galaxies per chunk file for images of `image_size` pixels a side."""
    return max(1, min(ROWS_PER_CHUNK, CHUNK_BYTES // (3 * image_size**2)))


def write_info(path: Path, info: StoreInfo) -> None:
    """Write ``store.json``, which makes the store a finished one."""
    aside = path / "store.json.partial"
    aside.write_text(json.dumps(json.loads(info.model_dump_json()), indent=1))
    aside.replace(path / "store.json")
