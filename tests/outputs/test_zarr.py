"""The store of a run: shards whole or not at all, readable by others."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray

from gzsurvey.outputs import zarr as store
from gzsurvey.outputs.zarr import ArraySpec

SPECS = (
    ArraySpec("id", "int64", "id", attributes={"ucd": "meta.id;meta.main"}),
    ArraySpec("status", "int16", "row"),
    ArraySpec("reason", "str", "row"),
    ArraySpec("flag", "int32", "kept", attributes={"null": -(2**31)}),
    ArraySpec("embedding", "float16", "output", (("feature", 5),)),
    ArraySpec("concentration", "float32", "output", (("answer", 3),), {"answers": ["a", "b", "c"]}),
)
ROWS, BLOCK = 1300, 512


def block(start: int, stop: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(start)
    n = stop - start
    return {
        "id": np.arange(start, stop) - 7,
        "status": np.zeros(n, np.int16),
        "reason": np.array(["", "ünïcode, long " * 5] * n, dtype=object)[:n],
        "flag": rng.integers(0, 9, n).astype(np.int32),
        "embedding": rng.normal(size=(n, 5)).astype(np.float16),
        "concentration": rng.uniform(1, 100, (n, 3)).astype(np.float32),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store.create_arrays(tmp_path / "p.zarr", SPECS, ROWS, BLOCK, {"model": "m"})
    return tmp_path / "p.zarr"


def test_rows_come_back_and_unwritten_blocks_say_so(path: Path, tmp_path: Path) -> None:
    for number in (2, 0):
        start, stop = number * BLOCK, min((number + 1) * BLOCK, ROWS)
        store.write_block(path, tmp_path / "aside", number, block(start, stop))
    back = store.read_rows(path, 0, ROWS)
    for name, values in block(0, BLOCK).items():
        np.testing.assert_array_equal(back[name][:BLOCK], values.astype(str) if name == "reason" else values)
    np.testing.assert_array_equal(back["id"][2 * BLOCK :], np.arange(2 * BLOCK, ROWS) - 7)
    middle = slice(BLOCK, 2 * BLOCK)
    assert (back["status"][middle] == 40).all()
    assert (back["flag"][middle] == -(2**31)).all()
    assert np.isnan(back["embedding"][middle]).all()
    assert not list((tmp_path / "aside").iterdir())


def test_a_shard_is_one_file_whose_bytes_depend_on_the_rows_alone(path: Path, tmp_path: Path) -> None:
    first = store.write_block(path, tmp_path / "aside", 1, block(BLOCK, 2 * BLOCK))
    again = store.write_block(path, tmp_path / "other", 1, block(BLOCK, 2 * BLOCK))
    assert first == again
    for name, shard in first.items():
        file = store.shard_file(path, name, 1)
        assert file.stat().st_size == shard.bytes
        assert [p for p in (path / name / "c").rglob("*") if p.is_file()] == [file]


def test_the_file_of_an_array_of_three_dimensions_is_found(tmp_path: Path) -> None:
    ensemble = ArraySpec("concentration", "float32", "output", (("member", 2), ("answer", 3)))
    store.create_arrays(tmp_path / "p.zarr", (ensemble,), ROWS, BLOCK, {})
    values = {"concentration": np.ones((BLOCK, 2, 3), np.float32)}
    shard = store.write_block(tmp_path / "p.zarr", tmp_path / "aside", 1, values)["concentration"]
    assert store.shard_file(tmp_path / "p.zarr", "concentration", 1).stat().st_size == shard.bytes
    assert store.shard_size(tmp_path / "p.zarr", "concentration", 1) == shard.bytes


def test_rows_that_are_all_fill_values_still_make_a_file(path: Path, tmp_path: Path) -> None:
    empty = {}
    for spec in SPECS:
        shape = (BLOCK, *spec.inner_shape)
        empty[spec.name] = np.full(shape, spec.fill, object if spec.dtype == "str" else spec.dtype)
    assert set(store.write_block(path, tmp_path / "aside", 0, empty)) == {spec.name for spec in SPECS}


def test_a_wrong_shape_is_refused_and_leaves_nothing_aside(path: Path, tmp_path: Path) -> None:
    values = block(0, BLOCK) | {"concentration": np.zeros((BLOCK, 99), np.float32)}
    with pytest.raises(ValueError, match="its block needs"):
        store.write_block(path, tmp_path / "aside", 0, values)
    assert not list((tmp_path / "aside").iterdir())


def test_xarray_opens_it_with_and_without_consolidated_metadata(path: Path, tmp_path: Path) -> None:
    store.write_block(path, tmp_path / "aside", 0, block(0, BLOCK))
    plain = xarray.open_zarr(path, consolidated=False)
    store.consolidate(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        fast = xarray.open_zarr(path)
    assert dict(fast.sizes) == {"row": ROWS, "feature": 5, "answer": 3}
    assert fast.concentration.attrs["answers"] == ["a", "b", "c"]
    assert fast.attrs["model"] == "m"
    np.testing.assert_array_equal(fast.embedding[:BLOCK], plain.embedding[:BLOCK])


def test_attributes_by_array(path: Path) -> None:
    assert store.array_attributes(path)["id"] == {"role": "id", "ucd": "meta.id;meta.main"}
