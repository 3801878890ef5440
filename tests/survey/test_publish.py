from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from mocpy import MOC
from outputs.catalogues import BIG_ID, client, make_card, package
from outputs.runs import BLOCK_ROWS, make_run

from gzsurvey.card import ClassesCalibration, Credit
from gzsurvey.catalogue import query, read_catalogue
from gzsurvey.errors import CardMismatch, RunIncomplete
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.prevalence import estimated_shares
from gzsurvey.outputs.provenance import sha256_of
from gzsurvey.outputs.rows import catalogue_rows
from gzsurvey.status import Status
from gzsurvey.survey import ledger
from gzsurvey.survey.finished import open_finished
from gzsurvey.survey.publish import publish
from gzsurvey.survey.verify import verify

N = 600


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    run = tmp_path_factory.mktemp("publish") / "run"
    block = make_run(run, n=N)
    assert publish(run) == run / "catalogue.fits"
    return run, block


def test_one_row_per_target_in_order(published: tuple[Path, dict[str, np.ndarray]]) -> None:
    run, block = published
    for name in ("catalogue.fits", "catalogue_full.fits"):
        data = fits.getdata(run / name, 1)
        np.testing.assert_array_equal(data["objid"], block["id"])
        np.testing.assert_array_equal(data["status"], block["status"])
        np.testing.assert_array_equal(data["ra"], block["ra"])
        np.testing.assert_array_equal(data["psfsize_r"], block["psfsize_r"])
        assert list(data["image_id"]) == list(block["image_id"])


def test_rows_are_made_a_few_at_a_time_however_large_a_block_is(
    published: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, lengths = sys.modules["gzsurvey.survey.publish"], []

    def noted(stored: dict[str, np.ndarray], *more: object) -> dict[str, np.ndarray]:
        lengths.append(len(stored["id"]))
        return catalogue_rows(stored, *more)

    monkeypatch.setattr(module, "catalogue_rows", noted)
    monkeypatch.setattr(module, "_ROWS_AT_A_TIME", 100)
    make_run(tmp_path / "run", n=N)
    publish(tmp_path / "run")
    assert lengths == [100, 100, 56, 100, 100, 56, 88]
    for name in ("catalogue_full.fits", "missing.ecsv", "moc/missing.fits"):
        assert sha256_of(tmp_path / "run" / name) == sha256_of(published[0] / name)


def test_widths_of_text_come_from_the_ledger(
    published: tuple[Path, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, block = published
    stored = open_finished(run).stored
    for width, name in ((stored.image_id_width, "image_id"), (stored.kept[2].width, "field")):
        assert width == max(map(len, block[name].tolist()))
    path = RunPaths(run).ledger_entry(0)
    monkeypatch.setattr(type(path), "read_bytes", lambda path: path.read_text().replace("text_widths", "x").encode())
    assert not open_finished(run).entries


@pytest.mark.parametrize("name", ["catalogue.fits", "catalogue_full.fits"])
def test_fitsverify_finds_nothing(published: tuple[Path, dict[str, np.ndarray]], name: str) -> None:
    done = subprocess.run([client("fitsverify"), published[0] / name], capture_output=True, text=True)
    assert "found 0 warning(s) and 0 error(s)" in done.stdout, done.stdout


def test_kept_columns_keep_what_the_targets_say(published: tuple[Path, dict[str, np.ndarray]]) -> None:
    table = read_catalogue(published[0])
    assert (table["mag_r"].unit, table["mag_r"].meta["ucd"]) == ("mag", "phot.mag;em.opt.R")
    assert table["flag"].description == "flag of targets.fits"
    assert table["field"].meta["ucd"] == "meta.record"
    assert table["flag"].mask[0]
    assert table["objid"].description == "Survey object"
    assert table["objid"][0] == BIG_ID


def test_misses_are_listed_with_reasons(published: tuple[Path, dict[str, np.ndarray]]) -> None:
    run, block = published
    table = Table.read(run / "missing.ecsv")
    missed = block["status"] != 0
    np.testing.assert_array_equal(table["objid"], block["id"][missed])
    np.testing.assert_array_equal(table["ra"], block["ra"][missed])
    assert set(table["reason"]) == {'because, of "it" all'}
    assert table["ra"].unit == "deg"


def test_requested_is_delivered_and_missing(published: tuple[Path, dict[str, np.ndarray]]) -> None:
    run, block = published
    maps = {name: MOC.from_fits(run / "moc" / f"{name}.fits") for name in ("requested", "delivered", "missing")}
    assert maps["requested"] == maps["delivered"].union(maps["missing"])
    cells = np.unique(block["healpix_29"] >> 36)
    np.testing.assert_array_equal(np.sort(maps["requested"].flatten()), cells)
    assert MOC.from_fits(run / "moc" / "footprint.fits") == maps["requested"]


@pytest.mark.slow
def test_stilts_reads_the_maps(published: tuple[Path, dict[str, np.ndarray]]) -> None:
    run, block = published
    cells, good = block["healpix_29"] >> 36, block["status"] == 0
    for name, rows in (("requested", good | ~good), ("delivered", good), ("missing", ~good)):
        command = [client("stilts"), "tpipe", f"in={run / 'catalogue.fits'}", "omode=count",
                   f'cmd=select "inMoc(\\"{run / "moc" / name}.fits\\", ra, dec)"']  # fmt: skip
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert int(shown.split("rows:")[1]) == np.isin(cells, cells[rows]).sum()


def test_provenance_names_inputs_products_and_counts(published: tuple[Path, dict[str, np.ndarray]]) -> None:
    run, _ = published
    document = json.loads((run / "provenance.json").read_text())
    entity = document["entity"]
    assert entity["gzsurvey:targets-1"]["gzsurvey:sha256"] == "ab" * 32
    assert entity["gzsurvey:product-catalogue"]["gzsurvey:sha256"] == sha256_of(run / "catalogue.fits")
    assert {"gzsurvey:product-missing", "gzsurvey:product-moc-missing", "gzsurvey:model"} <= set(entity)
    activity = document["activity"]["gzsurvey:run"]
    assert activity["prov:endTime"].startswith("2026-01-01T00:00:02")
    assert sum(json.loads(activity["gzsurvey:statuses"]).values()) == N
    names = {use["prov:entity"] for use in document["used"].values()}
    assert names <= set(entity)
    assert "gzsurvey:source-1" in names


def test_the_header_tells_the_selection(published: tuple[Path, dict[str, np.ndarray]]) -> None:
    header = fits.getheader(published[0] / "catalogue.fits", 1)
    assert header["CUT1"] == "table: 605 -> 600"
    assert header["SELECT"] == "mag_r < 20"
    assert header["CAMPAIGN"] == "gz_decals_dr8"
    assert header["MODELSHA"] == "0123456789abcdef"
    assert header["SIMULATD"] is True


def test_the_header_says_what_calibrated_the_model(tmp_path: Path) -> None:
    fitted = ClassesCalibration(sharpness=0.9, shift=(0.1, -0.1), galaxies=321, loss_before=0.5, loss_after=0.4)
    make_run(tmp_path / "run", make_card(calibration={"ring_probability": (fitted,)}), n=20)
    publish(tmp_path / "run")
    header = fits.getheader(tmp_path / "run" / "catalogue.fits", 1)
    assert header["CALIB1"] == "ring_probability: 321 held-out galaxies, in fp32"


def test_publishing_again_gives_the_same_bytes(published: tuple[Path, dict[str, np.ndarray]]) -> None:
    run, _ = published
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    publish(run)
    assert {path: path.read_bytes() for path in files} == before
    assert files == [path for path in sorted(run.rglob("*")) if path.is_file()]


def test_the_store_is_consolidated_and_opens_with_xarray(published: tuple[Path, dict[str, np.ndarray]]) -> None:
    xarray = pytest.importorskip("xarray")
    run, block = published
    opened = xarray.open_zarr(run / "predictions.zarr", consolidated=True)
    assert opened["concentration"].dims == ("row", "answer")
    assert opened.sizes["row"] == N
    np.testing.assert_array_equal(opened["id"].values, block["id"])


def test_an_unfinished_run_is_published_with_status_40(tmp_path: Path) -> None:
    run = tmp_path / "run"
    block = make_run(run, n=N, skip={1})
    failure = {"block": 1, "state": "failed", "rows": 0, "seconds": 0, "finished": "2026-01-01", "cause": "disk full"}
    ledger.write_entry(run, ledger.LedgerEntry.model_validate(failure))
    with pytest.raises(RunIncomplete, match=r"1 of 3 blocks are not finished \(disk full\)") as caught:
        publish(run)
    assert caught.value.exit_code == 3
    data = fits.getdata(run / "catalogue.fits", 1)
    left = slice(BLOCK_ROWS, 2 * BLOCK_ROWS)
    assert (data["status"][left] == Status.BLOCK_NOT_FINISHED).all()
    np.testing.assert_array_equal(data["objid"], block["id"])
    np.testing.assert_array_equal(data["mag_r"], block["mag_r"])
    assert np.isnan(data["bar_strong_fraction"][left]).all()
    missing = Table.read(run / "missing.ecsv")
    assert len(missing) == N - int((data["status"] == 0).sum())
    assert "its block was not finished" in set(missing["reason"])


def test_campaigns_are_a_choice_of_publishing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, n=20)
    publish(run, campaigns=["gz2", "gz_decals_dr8"])
    names = fits.getdata(run / "catalogue.fits", 1).names
    assert "bar_dr8_strong_fraction" in names
    assert fits.getheader(run / "catalogue.fits", 1)["CAMPAIGN"] == "gz2, gz_decals_dr8"
    with pytest.raises(CardMismatch, match="no campaign 'gz3'"):
        publish(run, campaigns=["gz3"])


def test_a_model_without_votes_has_its_task_alone(tmp_path: Path) -> None:
    card = make_card(heads=make_card().heads[1:], default_campaign=None)
    make_run(tmp_path / "run", card, n=20)
    publish(tmp_path / "run", prevalence=["ring.Ring=0.1"])
    table = read_catalogue(tmp_path / "run")
    assert "ring_Ring_score" in table.colnames
    assert not [name for name in table.colnames if name.endswith("proportion_asked")]
    assert table["ring_Ring_probability"].count() > 0
    assert table.meta["PREVAL1"] == "ring: Ring 0.1, not-ring 0.9"
    publish(tmp_path / "run", prevalence=["ring=estimated"])
    estimated = read_catalogue(tmp_path / "run")
    scores = np.array([table["ring_Ring_score"], table["ring_not_ring_score"]]).T
    shares = estimated_shares(scores[table["status"] == 0], card.heads[0])
    assert estimated.meta["PREVAL1"] == f"ring: Ring {shares['Ring']:g}, not-ring {shares['not-ring']:g}"


def test_ids_can_be_text_and_positions_may_be_absent(tmp_path: Path) -> None:
    n = 20
    ids = np.array([f"{i}_{2 * i}" for i in range(n)])
    nowhere = {"ra": np.full(n, np.nan), "dec": np.full(n, np.nan), "healpix_29": np.full(n, -1)}
    make_run(tmp_path / "run", n=n, id=ids, **nowhere)
    publish(tmp_path / "run")
    table = read_catalogue(tmp_path / "run")
    assert list(table["objid"]) == list(ids)
    assert table["healpix_29"].mask.all()
    assert table["ra"].mask.all()
    assert not (tmp_path / "run" / "moc").exists()
    assert not (tmp_path / "run" / "hats").exists()
    assert list(Table.read(tmp_path / "run" / "missing.ecsv")["objid"]) == list(ids[table["status"] != 0])


def test_a_friendly_catalogue_is_blank_where_few_are_asked(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, n=300)
    publish(run, flavours=["friendly"])
    usual, friendly = (fits.getdata(run / f"catalogue{end}.fits", 1) for end in ("", "_friendly"))
    name, few = "disk_edge_on_no_fraction", ~(usual["disk_edge_on_proportion_asked"] >= 0.5)
    assert 0 < few.sum() < 300
    np.testing.assert_array_equal(np.isnan(friendly[name]), few)
    np.testing.assert_array_equal(friendly[name][~few], usual[name][~few])
    np.testing.assert_array_equal(friendly["ood_distance"], usual["ood_distance"])
    assert "blank where fewer than half" in read_catalogue(run / "catalogue_friendly.fits")[name].description
    done = subprocess.run([client("fitsverify"), run / "catalogue_friendly.fits"], capture_output=True, text=True)
    assert "found 0 warning(s) and 0 error(s)" in done.stdout, done.stdout
    verify(run)
    before = (run / "catalogue_friendly.fits").read_bytes()
    publish(run, campaigns=["gz2"])
    assert (run / "catalogue_friendly.fits").read_bytes() != before


@pytest.mark.slow
def test_a_large_catalogue_is_written_in_parts(published: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    run, whole = tmp_path / "run", read_catalogue(published[0])
    make_run(run, n=N)
    assert publish(run, part_bytes=60_000) == run / "catalogue"
    names = (run / "catalogue" / "parts.txt").read_text().split()
    assert names == sorted(path.name for path in (run / "catalogue").glob("*.fits"))
    assert len(names) > 3
    assert not (run / "catalogue.fits").exists()
    parts = read_catalogue(run)
    assert all(np.ma.allequal(parts[name], whole[name]) for name in whole.colnames)
    assert all(fits.getval(run / "catalogue" / name, "NAXIS1", 1) * fits.getval(run / "catalogue" / name, "NAXIS2", 1)
               <= 60_000 for name in names)  # fmt: skip
    done = subprocess.run([client("fitsverify"), run / "catalogue" / names[-1]], capture_output=True, text=True)
    assert "found 0 warning(s) and 0 error(s)" in done.stdout, done.stdout
    verify(run)
    assert len(query(run, where="status == 0")) == (whole["status"] == 0).sum()
    publish(run)
    assert (run / "catalogue.fits").read_bytes() == (published[0] / "catalogue.fits").read_bytes()
    assert not (run / "catalogue").exists()


def test_what_trained_the_model_is_to_be_cited(tmp_path: Path) -> None:
    credit = Credit(
        name="GZ DECaLS", licence="CC BY-NC-SA 4.0", galaxies=3, citation="Walmsley et al. 2022, " + "MNRAS " * 12
    )
    run = tmp_path / "run"
    make_run(run, make_card(credits=(credit,)), n=20)
    publish(run)
    assert fits.getheader(run / "catalogue.fits", 1)["CITE1"].startswith("Walmsley et al. 2022")
    assert read_catalogue(run).meta["CITE1"] == f"{credit.citation}: GZ DECaLS, CC BY-NC-SA 4.0"
    entity = json.loads((run / "provenance.json").read_text())["entity"]
    assert json.loads(entity["gzsurvey:model"]["gzsurvey:trained_on"])[0]["name"] == "GZ DECaLS"


@pytest.mark.slow
def test_the_provenance_is_prov_json(published: tuple[Path, dict[str, np.ndarray]]) -> None:
    model = package("prov.model")
    document = model.ProvDocument.deserialize(published[0] / "provenance.json")
    (activity,) = document.get_records(model.ProvActivity)
    made = [str(record.args[0]) for record in document.get_records(model.ProvGeneration)]
    assert str(activity.identifier) == "gzsurvey:run"
    assert {"gzsurvey:product-catalogue", "gzsurvey:product-hats", "gzsurvey:product-predictions"} <= set(made)


def test_the_catalogue_lies_where_the_paths_say(published: tuple[Path, dict[str, np.ndarray]]) -> None:
    paths = RunPaths(published[0])
    assert all(path.is_file() for path in (paths.catalogue, paths.catalogue_full, paths.missing, paths.provenance))
