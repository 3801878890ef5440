"""Rows out of a published run, compared with a plain reading of the whole table."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.units import Quantity
from click.testing import CliRunner
from outputs.catalogues import BIG_ID, client
from outputs.runs import make_run

import gzsurvey
from gzsurvey.cli import cli
from gzsurvey.errors import GZSurveyError, RecipeError, TableError
from gzsurvey.outputs.fits import open_table
from gzsurvey.outputs.fits_reader import open_fits
from gzsurvey.outputs.paths import RunPaths, parts_list
from gzsurvey.survey.publish import publish

N = 600


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("query") / "run"
    make_run(run, n=N)
    publish(run)
    return run


@pytest.fixture(scope="module")
def everything(run: Path) -> Table:
    return gzsurvey.read_catalogue(run)


def split(run: Path, copy: Path, sizes: tuple[int, ...]) -> Path:
    """Copy a run whose catalogue lies in parts."""
    copy.mkdir()
    RunPaths(copy).targets.symlink_to(RunPaths(run).targets)
    table, listed = open_fits(RunPaths(run).catalogue), parts_list(RunPaths(copy).catalogue)
    listed.parent.mkdir()
    start, names = 0, []
    for number, size in enumerate(sizes):
        names.append(f"part-{number:04d}.fits")
        with open_table(listed.parent / names[-1], table.columns, size, table.parameters) as file:
            rows = table.records[start : start + size]
            file.append({c.name: rows[c.name] if c.dtype != "A" else rows[c.name].astype(str) for c in table.columns})
        start += size
    assert start == N
    listed.write_text("\n".join(names))
    return copy


def test_a_cone_finds_what_lies_in_it(run: Path, everything: Table, tmp_path: Path) -> None:
    centre = SkyCoord(150.5, 1.5, unit="deg")
    apart = SkyCoord(everything["ra"].filled(), everything["dec"].filled(), unit="deg").separation(centre)
    parts = split(run, tmp_path / "parts", (0, 1, 400, 199))
    for radius in ("2arcmin", "0.21deg", "1000 arcsec"):
        inside = everything["objid"][apart <= Quantity(radius)]
        for where in (run, parts):
            found = gzsurvey.query(where, cone=f"150.5 1.5 {radius}", columns=["objid"])
            assert list(found.table()["objid"]) == list(inside)
            assert len(found) == len(inside) > 0
    assert not len(gzsurvey.query(run, cone="12 -70 1deg"))


def test_chosen_by_all_at_once(run: Path, everything: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["gzsurvey.catalogue.query"], "ROWS_AT_ONCE", 7)
    where = "status == 0 and (bar_no_fraction > 0.4 or flag == 7)"
    found = gzsurvey.query(run, footprint="box(150.5,1.5,0.5,0.5)", where=where, columns=["objid", "BAR_NO_fraction"])
    near = (np.abs(everything["ra"] - 150.5) < 0.2495) & (np.abs(everything["dec"] - 1.5) < 0.2495)
    is_seven = (everything["flag"] == 7).filled(False)
    like = (everything["status"] == 0) & ((everything["bar_no_fraction"] > 0.4).filled(False) | is_seven)
    assert set(everything["objid"][near & like]) <= set(found.table()["objid"])
    assert found.table().colnames == ["objid", "bar_no_fraction"]
    limited = gzsurvey.query(run, footprint="box(150.5,1.5,0.5,0.5)", where=where, limit=9).table()
    assert list(limited["objid"]) == list(found.table()["objid"][:9])


def test_nothing_and_null_fulfil_no_comparison(run: Path, everything: Table) -> None:
    for where in ("bar_no_fraction >= 0 or bar_no_fraction < 0", "bar_no_fraction != 2"):
        assert len(gzsurvey.query(run, where=where)) == (everything["status"] == 0).sum()
    assert len(gzsurvey.query(run, where="flag < 0")) == 0
    assert len(gzsurvey.query(run, where="field == 's?d'")) == (everything["field"] == "s?d").sum()


def test_ids(run: Path, tmp_path: Path) -> None:
    found = gzsurvey.query(run, ids=[5, str(BIG_ID), 5]).table()
    assert sorted(found["objid"]) == [5, BIG_ID]
    with pytest.raises(TableError, match="no target with the id 999999, nor 1 others"):
        gzsurvey.query(run, ids=[999999, 5, -77777])
    with pytest.raises(TableError, match="whole numbers; got '5_7'"):
        gzsurvey.query(run, ids=["5_7"])
    names = np.array([f"{i}_{2 * i}" for i in range(20)])
    make_run(tmp_path / "text", n=20, id=names)
    publish(tmp_path / "text")
    assert list(gzsurvey.query(tmp_path / "text", ids=["7_14"]).table()["objid"]) == ["7_14"]
    shutil.rmtree(tmp_path / "text" / "hats")
    assert list(gzsurvey.query(tmp_path / "text", ids=["7_14", "3_6"]).table()["image_set"]) == ["mosaic:x", "mosaic:x"]
    with pytest.raises(TableError, match="no target with the id '9'"):
        gzsurvey.query(tmp_path / "text", ids=["7_14", "9"])


def test_a_column_of_the_full_catalogue_is_found_there(run: Path) -> None:
    found = gzsurvey.query(run, where="bar_no_upper - bar_no_lower > 0.05 and status == 0", columns=["bar_no_upper"])
    assert len(found) > 0
    assert found.columns[0].ucd == "stat.probability;stat.max"


@pytest.mark.parametrize("ending", ["fits", "csv", "ecsv", "vot", "parquet"])
def test_every_format_gives_the_same_rows_back(run: Path, tmp_path: Path, ending: str) -> None:
    asked = gzsurvey.query(run, where="healpix_29 > 0", limit=50)
    assert asked.write(tmp_path / f"out.{ending}") == f"50 rows in {tmp_path / f'out.{ending}'}"
    expected = asked.table()
    if ending == "parquet":
        frame = pd.read_parquet(tmp_path / "out.parquet")
    elif ending == "csv":
        frame = pd.read_csv(tmp_path / "out.csv", keep_default_na=False, na_values=[""], dtype={"flag": "Int64"})
    else:
        frame = Table.read(tmp_path / f"out.{ending}", **({"format": "votable"} if ending == "vot" else {})).to_pandas()
    for name in expected.colnames:
        column, read = expected[name], frame[name]
        mask = np.asarray(getattr(column, "mask", np.zeros(len(column), bool)))
        nothing = read.isna().to_numpy() | (read.astype(str) == "").to_numpy()
        np.testing.assert_array_equal(nothing, mask, err_msg=name)
        np.testing.assert_array_equal(read.to_numpy()[~mask].astype(column.dtype), column[~mask], err_msg=name)


def test_units_and_meanings_go_with_the_rows(run: Path, tmp_path: Path) -> None:
    asked = gzsurvey.query(run, columns=["ra", "mag_r", "flag"], limit=3)
    asked.write(tmp_path / "a.ecsv")
    asked.write(tmp_path / "a.parquet")
    table = Table.read(tmp_path / "a.ecsv")
    assert (table["mag_r"].unit, table["mag_r"].meta["ucd"]) == ("mag", "phot.mag;em.opt.R")
    assert table.meta["MODEL"] == "test-model"
    assert table["ra"].description == "Right ascension, ICRS"
    vo = Table.read(tmp_path / "a.parquet", format="parquet.votable")
    assert (vo["mag_r"].unit, vo["mag_r"].description) == ("mag", "r magnitude")


@pytest.mark.slow
def test_stilts_reads_each_format(run: Path, tmp_path: Path) -> None:
    asked = gzsurvey.query(run, limit=40)
    for ending in ("fits", "vot"):
        asked.write(tmp_path / f"out.{ending}")
        command = [client("stilts"), "tpipe", f"in={tmp_path / f'out.{ending}'}", "cmd=meta Name Units UCD", "ofmt=csv"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "\nmag_r,mag,phot.mag;em.opt.R" in shown
    lint = subprocess.run([client("stilts"), "votlint", tmp_path / "out.vot"], capture_output=True, text=True)
    assert lint.stdout + lint.stderr == ""
    check = subprocess.run([client("fitsverify"), tmp_path / "out.fits"], capture_output=True, text=True)
    assert "found 0 warning(s) and 0 error(s)" in check.stdout, check.stdout


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"where": "bar_strong_fractoin > 0.5"}, r"no column 'bar_strong_fractoin'; did you mean bar_strong_fraction"),
        ({"columns": ["decc"]}, "did you mean dec"),
        ({"cone": "150 2 3mag"}, "radius '3mag': its unit is no angle"),
        ({"cone": "150 2 3 parsnips"}, "radius '3 parsnips'"),
        ({"cone": "150 2"}, "give RA DEC RADIUS"),
        ({"cone": "150 92 1deg"}, "not on the sky"),
        ({"cone": "150 2 -1deg"}, "above 0"),
        ({"where": "ra"}, "is no condition"),
        ({"where": "__import__('os')"}, "functions are"),
    ],
)
def test_a_mistake_gets_one_line(run: Path, question: dict[str, object], said: str) -> None:
    with pytest.raises(GZSurveyError, match=said) as caught:
        len(gzsurvey.query(run, **question))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, RecipeError)


def test_what_cannot_be_searched_is_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(TableError, match="is no RUN"):
        gzsurvey.query(tmp_path / "none")
    with pytest.raises(TableError, match=r"ends with none of \.fits"):
        gzsurvey.query(run).write(tmp_path / "out.txt")
    nowhere = {"ra": np.full(20, np.nan), "dec": np.full(20, np.nan), "healpix_29": np.full(20, -1)}
    make_run(tmp_path / "run", n=20, **nowhere)
    publish(tmp_path / "run")
    with pytest.raises(TableError, match="has no positions"):
        gzsurvey.query(tmp_path / "run", cone="150 2 1deg").table()


def test_the_command(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "near.csv"
    command = ["query", str(run), "--cone", "150.5 1.5 0.2deg", "--columns", "objid,ra"]
    shown = CliRunner().invoke(cli, command).stdout
    assert "the first 25 rows; -o FILE writes all of them" in shown
    written = CliRunner().invoke(cli, [*command, "-o", str(out)]).stdout
    assert f"{len(pd.read_csv(out)):,} rows in {out}" in written
    wrong = CliRunner().invoke(cli, [*command, "--where", "raa > 1"])
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (1, 1)
