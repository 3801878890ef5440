"""The HATS collection: partitions, margins and values; hats, LSDB and DuckDB read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from scipy.spatial import cKDTree

from gzsurvey.outputs import columns as c
from gzsurvey.outputs import hats, id_index
from gzsurvey.outputs.fits import open_table
from gzsurvey.outputs.hats import HATS_HEALPIX, MARGIN_ARCSEC, margin_rows, partitions, write_hats
from gzsurvey.outputs.opened import Catalogue, open_catalogue
from gzsurvey.outputs.parquet import Dataset
from gzsurvey.outputs.zarr import read_rows
from gzsurvey.sky.healpix import cells, unit_vectors
from gzsurvey.survey.publish import publish
from outputs.catalogues import package
from outputs.runs import make_run

N = 300
COLUMNS = (c.TARGET_ID, c.RA, c.DEC, c.HEALPIX)


def make_catalogue(path: Path, ra: np.ndarray, dec: np.ndarray) -> Catalogue:
    ids, healpix = np.arange(len(ra))[::-1], cells(ra, dec)
    order = np.lexsort((ids, healpix))
    with open_table(path, COLUMNS, len(ra)) as table:
        table.append({"id": ids[order], "ra": ra[order], "dec": dec[order], "healpix_29": healpix[order]})
    return open_catalogue(path)


def test_partitions_are_small_where_the_sky_is_crowded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ra = np.concatenate([rng.uniform(40, 90, 60_000), rng.normal(60, 0.3, 90_000), rng.normal(200, 4, 50_000)])
    dec = np.concatenate([rng.uniform(-30, 30, 60_000), rng.normal(10, 0.3, 90_000), rng.normal(-40, 3, 50_000)])
    catalogue = make_catalogue(tmp_path / "uneven.fits", ra, dec)
    found = partitions(catalogue, hats.PARTITION_ROWS)
    assert len({part.order for part in found}) >= 3
    assert [part.start for part in found[1:]] == [part.stop for part in found[:-1]]
    assert (found[0].start, found[-1].stop) == (0, 200_000)
    assert max(part.stop - part.start for part in found) <= hats.PARTITION_ROWS
    healpix = catalogue.read(np.arange(200_000), ["healpix_29"])["healpix_29"]
    for part in found:
        assert set(healpix[part.start : part.stop] >> 2 * (29 - part.order)) == {part.pixel}


def test_a_margin_holds_every_neighbour_across_a_border(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ra = np.concatenate([rng.uniform(44.95, 45.05, 12_000), rng.uniform(359.9, 360, 2000), rng.uniform(0, 360, 2000)])
    dec = np.concatenate([rng.uniform(-0.05, 0.05, 12_000), rng.uniform(41, 41.9, 2000), rng.uniform(89.9, 90, 2000)])
    catalogue = make_catalogue(tmp_path / "dense.fits", ra, dec)
    rows = catalogue.read(np.arange(len(ra)), ["ra", "dec"])
    tree = cKDTree(unit_vectors(rows["ra"], rows["dec"]))
    chord = 2 * np.sin(np.radians(MARGIN_ARCSEC / 3600) / 2)
    first, second = tree.query_pairs(chord, output_type="ndarray").T
    outside = 0
    for part in partitions(catalogue, 300):
        inside = (np.stack([first, second]) >= part.start) & (np.stack([first, second]) < part.stop)
        across = np.concatenate([second[inside[0] & ~inside[1]], first[inside[1] & ~inside[0]]])
        margin = margin_rows(catalogue, part)
        assert not ((margin >= part.start) & (margin < part.stop)).any()
        assert set(across) <= set(margin)
        outside += len(across)
    assert outside > 1000


@pytest.mark.parametrize(("groups", "files", "rows_per_group"), [(100, 6, 31), (30, 2, 93)])
def test_the_index_is_sorted_in_bounded_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: int, files: int, rows_per_group: int
) -> None:
    monkeypatch.setattr(id_index, "_ROWS_PER_GROUP", 31)
    monkeypatch.setattr(id_index, "_GROUPS", groups)
    rng = np.random.default_rng(2)
    catalogue = make_catalogue(tmp_path / "few.fits", rng.uniform(0, 9, 2600), rng.uniform(0, 9, 2600))
    write_hats(tmp_path / "hats", catalogue, ["id"], "2026-01-01T00:00:00", 200)
    dataset = tmp_path / "hats/id_index/dataset"
    assert len(list((dataset / "index").iterdir())) == files
    footers = pq.read_metadata(dataset / "_metadata")
    assert footers.row_group(0).num_rows == rows_per_group
    assert footers.num_row_groups <= groups
    index = ds.parquet_dataset(dataset / "_metadata").to_table().to_pandas()
    assert list(index["id"]) == list(range(2600))
    assert (index[HATS_HEALPIX].to_numpy() >> (2 * (29 - index["Norder"].astype(int))) == index["Npix"]).all()


def test_the_footers_of_few_files_stand_together(tmp_path: Path) -> None:
    table = pa.table({"ra": np.arange(30.0), "dec": np.arange(30.0)})
    for most in (12, 11):
        dataset = Dataset(tmp_path / str(most), table.schema, most)
        for part in range(2):
            dataset.write(Path(f"Norder=0/Dir=0/Npix={part}.parquet"), table, 10)
        dataset.finish()
    together = tmp_path / "12"
    assert ds.parquet_dataset(together / "_metadata").to_table().equals(pa.concat_tables([table, table]))
    assert not (tmp_path / "11" / "_metadata").exists()
    assert pq.read_schema(tmp_path / "11" / "_common_metadata") == table.schema


@pytest.mark.parametrize("ids", ["text", pytest.param("numbers", marks=pytest.mark.slow)])
def test_fits_zarr_and_hats_hold_the_same_rows(tmp_path: Path, ids: str) -> None:
    run, changes = tmp_path / "run", {}
    if ids == "text":
        changes["id"] = np.array([f"{i}_{2 * i}" for i in range(N)])
    make_run(run, n=N, **changes)
    publish(run)
    table = fits.getdata(run / "catalogue_full.fits", 1)
    hats_rows = ds.parquet_dataset(run / "hats/catalogue/dataset/_metadata").to_table()
    stored = read_rows(run / "predictions.zarr", 0, N)
    assert set(stored["status"]) == {int(code) for code in c.DESCRIPTIONS}
    for name in table.names:
        ours = hats_rows[HATS_HEALPIX if name == "healpix_29" else name]
        plain = np.asarray(table[name])
        known = ~ours.is_null().to_numpy()
        nothing = np.isnan(plain) if plain.dtype.kind == "f" else ~known & (plain.dtype.kind == "i")
        np.testing.assert_array_equal(known, ~nothing, err_msg=name)
        np.testing.assert_array_equal(np.array(ours.drop_null().to_pylist()), plain[known].tolist(), err_msg=name)
        array = stored.get("id" if name == "objid" else name)
        if array is not None and name != "field":
            np.testing.assert_array_equal(array[known], plain[known], err_msg=name)
    answers = table["bar_strong_dirichlet"]
    concentration = stored["concentration"]
    assert any(np.array_equal(concentration[:, k], answers, equal_nan=True) for k in range(concentration.shape[1]))


def test_the_files_say_what_columns_mean(tmp_path: Path) -> None:
    make_run(tmp_path / "run", n=40)
    publish(tmp_path / "run")
    dataset = tmp_path / "run/hats/catalogue/dataset"
    for path in (dataset / "_common_metadata", next(dataset.rglob("Npix=*.parquet"))):
        schema = pq.read_schema(path)
        assert schema.field("ra").metadata[b"ucd"] == b"pos.eq.ra;meta.main"
        assert schema.metadata[b"IVOA.VOTable-Parquet.version"] == b"1.0"
        assert b'<FIELD name="_healpix_29" datatype="long" ucd="pos.healpix">' in schema.metadata[
            b"IVOA.VOTable-Parquet.content"
        ]  # fmt: skip


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run in many partitions."""
    run = tmp_path_factory.mktemp("clients") / "run"
    make_run(run, n=1500)
    publish(run)
    write_hats(run / "hats", open_catalogue(run / "catalogue_full.fits"), ["objid", "ra"], "2026-01-01T00:00", 400)
    return run / "hats"


@pytest.mark.slow
def test_the_strict_validator_passes(collection: Path) -> None:
    validation = package("hats.io.validation")
    for part in ("", "catalogue", "margin", "id_index"):
        assert validation.is_valid_catalog(collection / part, strict=True), part
    for name, needed in (("margin/partition_info.csv", True), ("catalogue/dataset/_metadata", False)):
        (collection / name).rename(collection / "aside")
        assert validation.is_valid_catalog(collection, strict=True) is not needed, name
        (collection / "aside").rename(collection / name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lsdb_opens_searches_and_matches(collection: Path) -> None:
    lsdb = package("lsdb")
    table = fits.getdata(collection.parent / "catalogue_full.fits", 1)
    catalogue = lsdb.open_catalog(collection)
    assert (len(catalogue), len(catalogue.margin) > 0) == (1500, True)
    centre = unit_vectors(np.array([150.5]), np.array([1.5]))
    chord = np.linalg.norm(unit_vectors(table["ra"], table["dec"]) - centre, axis=-1)
    near = table["objid"][chord <= 2 * np.sin(np.radians(600 / 3600) / 2)]
    assert sorted(catalogue.cone_search(150.5, 1.5, 600).compute()["objid"]) == sorted(near)
    assert list(catalogue.id_search({"objid": int(table["objid"][7])}).compute()["ra"]) == [table["ra"][7]]
    frame = pq.read_table(collection.parent / "targets.parquet", columns=["id", "ra", "dec"]).to_pandas()
    targets = lsdb.from_dataframe(frame, ra_column="ra", dec_column="dec")
    matched = targets.crossmatch(catalogue, radius_arcsec=1, suffixes=("_t", "_c")).compute()
    assert sorted(matched["id_t"]) == sorted(table["objid"])
    assert (matched["id_t"] == matched["objid_c"]).all()
    assert matched["_dist_arcsec"].max() == 0


@pytest.mark.slow
def test_duckdb_asks_it(collection: Path) -> None:
    duckdb = package("duckdb")
    files = collection / "catalogue" / "dataset" / "**" / "*.parquet"
    ((found,),) = duckdb.sql(f"SELECT count(*) FROM '{files}' WHERE bar_no_fraction > 0.5").fetchall()
    table = fits.getdata(collection.parent / "catalogue_full.fits", 1)
    assert found == (table["bar_no_fraction"] > 0.5).sum()
