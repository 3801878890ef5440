"""A run beside another, and beside a table that names its columns as GZ DESI does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from outputs.runs import make_run

import gzsurvey
from gzsurvey.errors import OutputConflict, RecipeError, TableError
from gzsurvey.survey.publish import publish

N = 500


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("compare") / "run"
    make_run(run, n=N)
    publish(run)
    return run


def test_a_published_table(run: Path, tmp_path: Path) -> None:
    table = gzsurvey.read_catalogue(run)
    shift = np.where(table["mag_r"] > 17, 0.1, 0.02)
    desi = Table({"dr8_id": [f"1_{i}" for i in range(N)], "ra": table["ra"], "dec": table["dec"] + 1e-5})
    desi["smooth-or-featured_smooth_fraction"] = table["smooth_or_featured_smooth_fraction"].filled(np.nan) - shift
    desi["disk-edge-on_no_fraction"] = table["disk_edge_on_no_fraction"].filled(np.nan)
    desi[:400].write(tmp_path / "gz_desi.parquet")
    found = gzsurvey.compare(run, str(tmp_path / "gz_desi.parquet"), tmp_path / "out")
    assert (found.pairs, found.answers) == (400, 2)
    rows = Table.read(tmp_path / "out/differences.ecsv")
    good = (table["status"] == 0)[:400]
    whole = rows[(rows["quantity"] == "all") & (rows["answer"] == "smooth_or_featured_smooth_fraction")]
    assert whole["galaxies"][0] == good.sum()
    assert whole["mean_difference"][0] == pytest.approx(shift[:400][good].mean(), abs=1e-6)
    assert whole["rms_difference"][0] == pytest.approx(np.sqrt((shift[:400][good] ** 2).mean()), abs=1e-6)
    values = np.asarray(table["smooth_or_featured_smooth_fraction"])[:400][good]
    correlation = np.corrcoef(values, values - shift[:400][good])[0, 1]
    assert whole["correlation"][0] == pytest.approx(correlation, abs=1e-6)
    asked = rows[(rows["quantity"] == "all") & (rows["answer"] == "disk_edge_on_no_fraction")]
    some = (table["disk_edge_on_proportion_asked"][:400] >= 0.5).filled(False)
    assert asked["galaxies"][0] == some.sum() < good.sum()
    assert asked["mean_difference"][0] == pytest.approx(0, abs=1e-7)
    bins = rows[(rows["quantity"] == "mag_r") & (rows["answer"] == "smooth_or_featured_smooth_fraction")]
    bright, faint = bins[bins["upper"] < 17], bins[bins["lower"] > 17]
    assert len(bright) >= 2
    assert len(faint) >= 2
    assert np.allclose(bright["mean_difference"], 0.02)
    assert np.allclose(faint["mean_difference"], 0.1)
    page = (tmp_path / "out/comparison.html").read_text()
    assert "Against mag_r" in page
    assert "400 galaxies within 1arcsec" in page
    assert page.count('<img src="data:image/png') == 1


@pytest.mark.slow
def test_two_runs_and_their_statuses(run: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "later", n=N)
    publish(tmp_path / "later", part_bytes=100_000)
    found = gzsurvey.compare(run, str(tmp_path / "later"), tmp_path / "out", by=["psfsize_r"])
    assert (found.pairs, round(found.rms, 6)) == (N, 0)
    page = (tmp_path / "out/comparison.html").read_text()
    assert "20 the source has no image" in page
    with pytest.raises(OutputConflict, match=r'by was \["psfsize_r"\], now \["mag_r"\]'):
        gzsurvey.compare(run, str(tmp_path / "later"), tmp_path / "out")


def test_what_cannot_be_compared_is_said(run: Path, tmp_path: Path) -> None:
    far = Table({"id": [1, 2], "ra": [10.0, 11], "dec": [0.0, 1], "bar_no_fraction": [0.5, 0.6]})
    far.write(tmp_path / "far.csv")
    far.rename_column("bar_no_fraction", "bar")
    far.write(tmp_path / "other.csv")
    with pytest.raises(TableError, match="shares 0 galaxies"):
        gzsurvey.compare(run, str(tmp_path / "far.csv"), tmp_path / "out")
    with pytest.raises(TableError, match=r"has no column of .* that ends with _fraction or _score"):
        gzsurvey.compare(run, str(tmp_path / "other.csv"), tmp_path / "out2")
    with pytest.raises(RecipeError, match="did you mean mag_r"):
        gzsurvey.compare(run, str(tmp_path / "far.csv"), tmp_path / "out3", by=["mag_rr"])
    with pytest.raises(TableError, match="'field' holds no numbers"):
        gzsurvey.compare(run, str(tmp_path / "far.csv"), tmp_path / "out4", by=["field"])
