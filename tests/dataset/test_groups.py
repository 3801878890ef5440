"""Splits: one galaxy, one part, whatever it is called and however often it stands there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from collections_of_pictures import catalogue, recipe, zipped
from hypothesis import given, settings
from hypothesis import strategies as st

from gzsurvey import dataset
from gzsurvey.dataset.groups import assign_splits, group_heads, near
from gzsurvey.errors import TableError
from gzsurvey.progress import Progress
from gzsurvey.recipes.dataset import Splits

ARCSEC = 1 / 3600


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "quiet", True)


def galaxies(n: int, seed: int = 0, source: str = "a") -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "id": [f"{i}" for i in range(n)],
            "source": source,
            "ra": rng.uniform(0, 360, n),
            "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, n))),
            "image_sha256": [f"{source}{seed}{i}" for i in range(n)],
            "published": "",
        }
    )


def test_shares_are_kept() -> None:
    parts = assign_splits(galaxies(20_000), Splits(train=0.7, validation=0.2, test=0.1), 0)
    for name, share in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
        assert abs((parts == name).mean() - share) < 0.012


def test_another_source_at_the_end_moves_no_galaxy() -> None:
    first = galaxies(2000)
    more = pd.concat([first, galaxies(3000, 1, "b")], ignore_index=True)
    np.testing.assert_array_equal(assign_splits(first, Splits(), 5), assign_splits(more, Splits(), 5)[:2000])
    assert (assign_splits(first, Splits(), 5) != assign_splits(first, Splits(), 6)).any()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), dec=st.floats(-90, 90), step=st.floats(0.1, 12))
def test_rows_within_five_arcsec_share_a_part(seed: int, dec: float, step: float) -> None:
    one, other = galaxies(50, seed), galaxies(50, seed, "b")
    one["dec"] = np.clip(dec, -89.9, 89.9)
    one["ra"] = np.where(np.arange(50) == 0, 359.99999, np.linspace(0, 359, 50))
    other["ra"], other["dec"] = one["ra"], one["dec"] + step * ARCSEC * np.sign(-dec or 1)
    rows = pd.concat([one, other], ignore_index=True)
    heads = group_heads(rows["ra"].to_numpy(), rows["dec"].to_numpy(), [str(i) for i in range(100)])
    together = heads[50:] == heads[:50]
    assert together.all() if step < 4.99 else (not together.any() if step > 5.01 else True)
    parts = assign_splits(rows, Splits(train=0.4, validation=0.3, test=0.3), seed)
    assert (parts[50:] == parts[:50])[together].all()


def test_chains_and_equal_pixels_are_one_group() -> None:
    ra = np.array([10, 10 + 4 * ARCSEC, 10 + 8 * ARCSEC, 50, np.nan, np.nan])
    heads = group_heads(ra, np.where(np.isnan(ra), np.nan, 0.0), ["p", "q", "r", "s", "s", "t"])
    assert heads.tolist() == [0, 0, 0, 3, 3, 5]


def test_positions_match_across_the_first_meridian_and_at_the_pole() -> None:
    ra, dec = np.array([0.0005, 10.0, 200.0]), np.array([0.0, 90.0, 0.0])
    others = (np.array([359.9997, 250.0]), np.array([0.0, 89.9999]))
    assert near(ra, dec, others, 5).tolist() == [True, True, False]


def test_published_parts_hold_for_their_whole_group() -> None:
    rows = pd.concat([galaxies(300), galaxies(300, 0, "b")], ignore_index=True)
    rows["published"] = ["test"] * 150 + ["train"] * 150 + [""] * 300
    parts = assign_splits(rows, Splits(train=1, validation=0, test=0), 0)
    assert (parts[:150] == "test").all()
    np.testing.assert_array_equal(parts[:300], parts[300:])
    again = assign_splits(rows, Splits(validation_from_train=0.3), 0)
    assert (again[:150] == "test").all()
    assert 0.15 < (again[150:300] == "validation").mean() < 0.45
    assert not (again[150:300] == "test").any()


def test_test_wins_where_published_parts_disagree() -> None:
    rows = pd.concat([galaxies(5), galaxies(5, 0, "b")], ignore_index=True)
    rows["published"] = ["train"] * 5 + ["test"] * 5
    assert set(assign_splits(rows, Splits(), 0)) == {"test"}


def two_surveys(folder: Path) -> list[dict[str, object]]:
    ra = np.linspace(10, 11, 12)
    zipped(folder / "a.zip", [f"a{i}" for i in range(12)])
    zipped(folder / "b.zip", [f"b{i}" for i in range(12)], first_seed=50)
    zipped(folder / "c.zip", [f"c{i}" for i in range(12)])  # the pictures of a, without positions
    catalogue(folder / "a.csv", [f"a{i}" for i in range(12)], ra=ra, dec=0.0)
    catalogue(folder / "b.csv", [f"b{i}" for i in range(12)], ra=ra, dec=2 * ARCSEC)
    return [
        {"name": "a", "campaign": "gz2", "images": "a.zip", "catalogue": "a.csv"},
        {"name": "b", "images": "b.zip", "catalogue": "b.csv"},
        {"name": "c", "images": "c.zip"},
    ]


def test_held_out_ids_leave_every_source_by_id_position_and_pixels(tmp_path: Path) -> None:
    made = recipe(tmp_path, two_surveys(tmp_path), hold_out=[{"ids": ["a3", "a7"]}])
    store = dataset.build(made, tmp_path / "store")
    assert not set(store.galaxies["id"]) & {"a3", "a7", "b3", "b7", "c3", "c7"}
    assert len(store) == 30
    assert store.info.held_out == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize("kind", ["csv", "fits", "parquet"])
def test_held_out_positions_leave_every_source(kind: str, tmp_path: Path) -> None:
    from astropy.table import Table

    sources = two_surveys(tmp_path)
    table = Table({"RA": [10.0, 11.0], "DEC": [1 * ARCSEC, 0.0]})
    table.write(tmp_path / f"held.{kind}")
    store = dataset.build(recipe(tmp_path, sources, hold_out=[f"held.{kind}"]), tmp_path / "store")
    assert not set(store.galaxies["id"]) & {"a0", "b0", "c0", "a11", "b11", "c11"}
    assert len(store) == 30


def test_a_galaxy_in_several_sources_falls_in_one_part(tmp_path: Path) -> None:
    store = dataset.build(recipe(tmp_path, two_surveys(tmp_path)), tmp_path / "store")
    parts = store.galaxies["split"].to_numpy()
    np.testing.assert_array_equal(parts[:12], parts[12:24])
    np.testing.assert_array_equal(parts[:12], parts[24:])


def test_a_later_source_leaves_out_what_an_earlier_one_has(tmp_path: Path) -> None:
    sources = two_surveys(tmp_path)
    sources[1]["not_in"] = ["a"]
    catalogue(tmp_path / "b.csv", [f"b{i}" for i in range(12)], ra=np.linspace(10, 11, 12),
              dec=np.where(np.arange(12) < 5, 0.0, 1.0))  # fmt: skip
    store = dataset.build(recipe(tmp_path, sources[:2]), tmp_path / "store")
    assert (store.galaxies["source"] == "b").sum() == 7


def test_published_splits_are_asked_for(tmp_path: Path) -> None:
    sources = two_surveys(tmp_path)[:1]
    with pytest.raises(TableError, match="published split"):
        dataset.build(recipe(tmp_path, sources, splits="published"), tmp_path / "store")
    split = ["train"] * 6 + ["Test", "val"] * 3
    catalogue(tmp_path / "a.csv", [f"a{i}" for i in range(12)], ra=np.arange(12.0), dec=0.0, split=split)
    sources[0]["split_column"] = "split"
    store = dataset.build(recipe(tmp_path, sources, splits="published"), tmp_path / "store")
    assert store.galaxies["split"].tolist() == ["train"] * 6 + ["test", "validation"] * 3
