"""Neighbours of a table in a catalogue, compared with all distances."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from click.testing import CliRunner
from outputs.catalogues import BIG_ID
from outputs.runs import make_run

import gzsurvey
from gzsurvey.cli import cli
from gzsurvey.errors import RecipeError, TableError
from gzsurvey.survey.publish import publish

N = 400


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("crossmatch") / "run"
    make_run(run, n=N)
    publish(run)
    return run


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 positions, in galactic degrees and no order, half of them with neighbours."""
    rng = np.random.default_rng(3)
    sky = SkyCoord(rng.uniform(149.5, 151.5, 2000), rng.uniform(0.5, 2.5, 2000), unit="deg").galactic
    path = tmp_path_factory.mktemp("other") / "stars.csv"
    ids = [f"star {number}" for number in range(2000)]
    Table({"name": ids, "glon": sky.l.deg, "glat": sky.b.deg}).write(path, format="csv")
    return path


def distances(run: Path, other: Path) -> tuple[Table, Table, np.ndarray]:
    catalogue, table = gzsurvey.read_catalogue(run), Table.read(other)
    ours = SkyCoord(catalogue["ra"].filled(), catalogue["dec"].filled(), unit="deg")
    theirs = SkyCoord(table["glon"], table["glat"], unit="deg", frame="galactic").icrs
    return catalogue, table, theirs[:, np.newaxis].separation(ours[np.newaxis]).arcsec


@pytest.mark.parametrize("pieces", ["one", "many"])
def test_nearest_and_all(run: Path, other: Path, pieces: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if pieces == "many":
        monkeypatch.setattr(sys.modules["gzsurvey.catalogue.crossmatch"], "ROWS_AT_ONCE", 150)
        monkeypatch.setattr(sys.modules["gzsurvey.catalogue.crossmatch"], "CANDIDATES_AT_ONCE", 20)
    catalogue, table, apart = distances(run, other)
    within = apart <= 90
    expected = {(str(table["name"][i]), int(catalogue["objid"][j])) for i, j in np.argwhere(within)}
    found = gzsurvey.crossmatch(run, str(other), "1.5arcmin", find="all", columns=["objid"]).table()
    assert len(found) == len(expected) > 300
    assert set(zip(found["matched_id"], found["objid"], strict=True)) == expected
    nearest = gzsurvey.crossmatch(run, str(other), "1.5arcmin", columns=["objid"]).table()
    some = np.flatnonzero(within.any(axis=1))
    expected = {(str(table["name"][i]), int(catalogue["objid"][apart[i].argmin()])) for i in some}
    assert set(zip(nearest["matched_id"], nearest["objid"], strict=True)) == expected
    assert len(nearest) == len(expected)
    shown = dict(zip(nearest["matched_id"], nearest["separation"], strict=True))
    for i in some[:50]:
        assert shown[str(table["name"][i])] == pytest.approx(apart[i].min(), abs=1e-6)


@pytest.mark.parametrize("ending", ["fits", "parquet"])
def test_the_catalogue_finds_itself_at_distance_0(run: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"matched.{ending}"
    found = gzsurvey.crossmatch(run, str(run / "catalogue.fits"), "1e-6deg")
    assert found.write(out) == f"{N} rows in {out}"
    table = Table.read(out)
    assert (table["matched_id"] == table["objid"]).all()
    assert table["separation"].max() == 0
    assert BIG_ID in table["matched_id"]


def test_everything_within_half_the_sky(run: Path, tmp_path: Path) -> None:
    Table({"id": [1], "ra": [150.0], "dec": [0.0]}).write(tmp_path / "one.csv")
    assert len(gzsurvey.crossmatch(run, str(tmp_path / "one.csv"), "60deg", find="all").table()) == N
    far = gzsurvey.crossmatch(run, str(tmp_path / "one.csv"), "1arcsec")
    assert len(far.table()) == 0
    assert far.write(tmp_path / "none.fits").startswith("0 rows")
    assert str(far) == "no match"


def test_a_mistake_gets_one_line(run: Path, tmp_path: Path) -> None:
    Table({"id": [1], "x": [150.0]}).write(tmp_path / "flat.csv")
    Table({"id": [1, 2], "ra": [150.0, np.nan], "dec": [0.0, 1.0]}).write(tmp_path / "nan.csv")
    with pytest.raises(TableError, match="has no positions; name them with --ra-column"):
        gzsurvey.crossmatch(run, str(tmp_path / "flat.csv"), "1arcsec")
    with pytest.raises(TableError, match=r"has no position \(NaN\).*row 1"):
        gzsurvey.crossmatch(run, str(tmp_path / "nan.csv"), "1arcsec").table()
    with pytest.raises(RecipeError, match="'1kg': its unit is no angle"):
        gzsurvey.crossmatch(run, str(tmp_path / "nan.csv"), "1kg")
    with pytest.raises(RecipeError, match="did you mean bar_no_fraction"):
        gzsurvey.crossmatch(run, str(tmp_path / "nan.csv"), "1arcsec", columns=["bar_no_fractoin"])


def test_the_command(run: Path, other: Path, tmp_path: Path) -> None:
    command = ["crossmatch", str(run), str(other), "--radius", "90arcsec", "--columns", "objid,ra", "--find", "all"]
    shown = CliRunner().invoke(cli, command).output
    assert "matches; -o FILE writes them" in shown
    written = CliRunner().invoke(cli, [*command, "-o", str(tmp_path / "out.csv")]).output
    assert f"{len(Table.read(tmp_path / 'out.csv')):,} rows" in written
