"""A store is read piece by piece, whatever its size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gzsurvey.dataset import store as storing
from gzsurvey.dataset.store import Store, StoreInfo, write_info
from gzsurvey.recipes.preparation import Preparation

N = 50
TABLE = pd.DataFrame(
    {
        "id": [f"g{i % 40}" for i in range(N)],
        "split": ["train", "test", "validation", "train", "train"] * 10,
        "ra": np.where(np.arange(N) % 7 == 0, np.nan, np.arange(N) * 1.5),
        "mag": np.arange(N, dtype=np.float32),
    }
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Its table is read seven rows at a time."""
    import zarr

    monkeypatch.setattr(storing, "ROWS_AT_A_TIME", 7)
    group = zarr.open_group(tmp_path / "store.zarr", mode="w", zarr_format=3)
    group.create_array("images", shape=(N, 16, 16, 3), chunks=(16, 16, 16, 3), dtype="uint8", compressors=None)
    group.create_array("votes", shape=(N, 2), chunks=(16, 2), dtype="int32", compressors=None)
    TABLE.to_parquet(tmp_path / "galaxies.parquet", row_group_size=20)
    empty = {"credits": (), "recipe_sha256": "", "content_sha256": "", "questions": ()}
    write_info(tmp_path, StoreInfo(preparation=Preparation(image_size=16), galaxies=N, **empty))
    return Store(tmp_path)


def test_columns_are_the_tables(store: Store) -> None:
    rows = np.random.default_rng(0).permutation(N)[:30]
    for column in ("ra", "mag"):
        np.testing.assert_array_equal(store.numbers(column), TABLE[column])
        np.testing.assert_array_equal(store.numbers(column, rows), TABLE[column].to_numpy()[rows])
    assert store.texts("id", rows).tolist() == TABLE["id"].to_numpy()[rows].tolist()
    assert len(store.texts("id", rows[:0])) == 0
    for split in ("train", "validation", "test", "other"):
        assert np.array_equal(store.rows(split), np.flatnonzero(TABLE["split"] == split))


def test_ids_are_found_wherever_they_stand(store: Store) -> None:
    rows, found = store.find(np.array(["g3", "nowhere", "g39", "g12"]))
    assert rows.tolist() == [3, 12, 39, 43]
    assert found.tolist() == ["g3", "g12", "g39", "g3"]
    assert store.find(np.array(["nowhere"]))[0].tolist() == []


def test_chunks_that_zarr_left_out_are_zeros(store: Store) -> None:
    rows = np.array([49, 0, 17])
    assert store.images(rows).shape == (3, 16, 16, 3)
    assert not store.images(rows).any()
    assert not store.vote_counts(rows).any()
    assert store.images(rows[:0]).shape == (0, 16, 16, 3)
