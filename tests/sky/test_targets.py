"""Targets as astronomers keep them: every format, unit, frame and mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table

from gzsurvey.errors import RecipeError, TableError
from gzsurvey.sky.columns import ColumnChoices
from gzsurvey.sky.footprint import parse_footprint
from sky.reading import read

IDS = np.array([-5, 2**53 + 1, 7, 12])
RA, DEC = np.array([10.0, 359.9, 180.0, 10.0]), np.array([-20.0, 5.0, 89.9, -20.5])
R50 = np.array([1.5, 2.0, np.nan, 4.0])


def table() -> Table:
    return Table(
        {
            "ObjID": Column(IDS, meta={"ucd": "meta.id;meta.main"}),
            "RA": Column(RA, unit="deg"),
            "Dec": Column(DEC, unit="deg"),
            "petro_th50": Column(R50, unit="arcsec"),
            "mag_r": Column([17.0, 18.5, 16.0, 15.2], unit="mag", description="r magnitude"),
            "survey": ["north", "south", "north", "é"],
            "n": MaskedColumn([1, 2, 3, 4], mask=[False, True, False, False]),
        }
    )


def to_fits(path: Path) -> None:
    plain = table()
    hdu = fits.table_to_hdu(plain["ObjID", "RA", "Dec", "petro_th50", "mag_r", "n"])
    hdu.columns.add_col(fits.Column("survey", "6A", array=np.array(["north", "south", "north", "e"])))
    hdu = fits.BinTableHDU.from_columns(hdu.columns)
    names = [column.name for column in hdu.columns]
    hdu.header[f"TUCD{names.index('mag_r') + 1}"] = "phot.mag;em.opt.R"
    hdu.header[f"TCOMM{names.index('mag_r') + 1}"] = "r magnitude"
    hdu.writeto(path)


def to_parquet(path: Path) -> None:
    frame = table().to_pandas()
    pq.write_table(pa.Table.from_pandas(frame), path)


WRITERS: dict[str, Callable[[Path], None]] = {
    "t.fits": to_fits,
    "t.csv": lambda path: table().write(path, format="ascii.csv"),
    "t.ecsv": lambda path: table().write(path),
    "t.vot": lambda path: table().write(path, format="votable"),
    "t.parquet": to_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_targets(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    found = read(tmp_path / name, keep=("mag_r", "n", "survey"))
    by_id = dict(zip(found.id.tolist(), range(4), strict=True))
    rows = [by_id[i] for i in IDS.tolist()]
    np.testing.assert_allclose(found.ra_deg[rows], RA)
    np.testing.assert_allclose(found.dec_deg[rows], DEC)
    np.testing.assert_allclose(found.r50_arcsec[rows], R50)
    np.testing.assert_allclose(found.kept["mag_r"][rows], [17.0, 18.5, 16.0, 15.2])
    assert found.kept["survey"][rows][:2].tolist() == ["north", "south"]
    null = found.kept_columns[1].null
    assert found.kept["n"][rows].tolist() == [1, null, 3, 4] or np.isnan(found.kept["n"][rows][1])
    assert found.id_column.name == "ObjID"
    assert (np.diff(found.healpix_29) > 0).all()
    if name in {"t.fits", "t.ecsv", "t.vot"}:
        assert found.kept_columns[0].unit == "mag"
        assert found.kept_columns[0].description == "r magnitude"
    if name == "t.fits":
        assert found.kept_columns[0].ucd == "phot.mag;em.opt.R"


def test_a_glob_and_a_hats_directory_are_one_table(tmp_path: Path) -> None:
    whole = table()
    for number, part in enumerate((whole[:2], whole[2:])):
        part.write(tmp_path / f"part{number}.ecsv")
        folder = tmp_path / "hats/dataset/Norder=0/Dir=0"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pandas(part.to_pandas()), folder / f"Npix={number}.parquet")
    for text in (str(tmp_path / "part*.ecsv"), str(tmp_path / "hats")):
        assert sorted(read(text).id.tolist()) == sorted(IDS.tolist())


def test_units_frames_and_sexagesimal_are_converted_and_said(tmp_path: Path) -> None:
    sky = SkyCoord(RA, DEC, unit="deg")
    size = (R50 * u.arcsec).to_value(u.deg)
    Table({"id": IDS, "ra": (RA / 15) * u.hourangle, "dec": np.radians(DEC) * u.rad, "r50": size * u.deg}).write(
        tmp_path / "units.ecsv"
    )
    Table({"id": IDS, "glon": sky.galactic.l.deg, "glat": sky.galactic.b.deg}).write(tmp_path / "galactic.csv")
    hours, text = sky.ra.to_string("hourangle", sep=":", precision=6), sky.dec.to_string(sep=":")
    Table({"id": IDS, "ra": hours, "dec": text}).write(tmp_path / "text.csv")
    for name, said in (("units.ecsv", "hourangle"), ("galactic.csv", "galactic"), ("text.csv", "sexagesimal")):
        found = read(tmp_path / name)
        rows = [found.id.tolist().index(i) for i in IDS.tolist()]
        separation = SkyCoord(found.ra_deg[rows], found.dec_deg[rows], unit="deg").separation(sky)
        assert separation.max() < 0.01 * u.arcsec
        assert any(said in note for note in found.notes)
    np.testing.assert_allclose(np.sort(read(tmp_path / "units.ecsv").r50_arcsec), np.sort(R50))


def test_sizes_in_pixels_take_the_scale_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,ra,dec,r50_pix\n1,2,3,4\n")
    chosen = ColumnChoices(size="r50_pix", size_unit="pix")
    assert read(tmp_path / "t.csv", columns=chosen, pixel_scale_arcsec=lambda: 0.5).r50_arcsec == 2.0
    with pytest.raises(TableError, match="no pixel scale"):
        read(tmp_path / "t.csv", columns=chosen)


def test_ids_are_kept_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "zero.csv").write_text("id,ra,dec\n007,1,2\n012,1,3\n")
    assert sorted(read(tmp_path / "zero.csv").id) == ["007", "012"]
    (tmp_path / "join.csv").write_text("release,brickid,objid,ra,dec\n9010,5,1,1,2\n9010,5,2,1,3\n")
    joined = read(tmp_path / "join.csv", columns=ColumnChoices(id="release,brickid,objid"))
    assert sorted(joined.id) == ["9010_5_1", "9010_5_2"]
    Table({"id": np.array([1, 2**63 + 5], dtype=np.uint64), "ra": [1.0, 2], "dec": [0.0, 1]}).write(tmp_path / "u.fits")
    assert sorted(read(tmp_path / "u.fits").id) == ["1", str(2**63 + 5)]


@pytest.mark.parametrize(
    ("content", "said", "rows"),
    [
        ("id,ra,dec\n1,10,5\n2,10,95\n", "not on the sky", (1,)),
        ("id,ra,dec\n1,nan,5\n2,10,5\n", "no position", (0,)),
        ("id,ra,dec\n1,10,5\n,10,6\n", "no id", (1,)),
        ("id,ra,dec\n1.5,10,5\n2,10,6\n", "no whole number", (0,)),
        ("id,ra,dec\n7,10,5\n8,11,5\n7,12,5\n", "1 ids stand twice, e.g. 7", (2,)),
        ("id,ra,dec\n", "is empty", ()),
        ("id,ra\n1,10\n", "name it with --dec-column", ()),
        ("thing,ra,dec\n1,10,2\n", "--id-column among thing, ra, dec", ()),
    ],
)
def test_what_is_wrong_is_refused_naming_the_rows(
    tmp_path: Path, content: str, said: str, rows: tuple[int, ...]
) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(TableError, match=said) as refused:
        read(tmp_path / "t.csv")
    assert refused.value.rows == rows
    assert "\n" not in str(refused.value)


def test_files_that_are_no_tables_are_one_line(tmp_path: Path) -> None:
    for name in ("a.fits", "a.vot", "a.parquet", "a.ecsv", "a.docx"):
        (tmp_path / name).write_bytes(b"no table at all \x00\xff" * 30)
        with pytest.raises(TableError) as refused:
            read(tmp_path / name)
        assert "\n" not in str(refused.value)
    with pytest.raises(TableError, match="no such file"):
        read(tmp_path / "b.fits")


def test_duplicates_first_keeps_the_first_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,ra,dec,mag\n7,10,5,1\n8,11,5,2\n7,12,5,3\n")
    found = read(tmp_path / "t.csv", duplicates="first", keep=("mag",))
    assert dict(zip(found.id.tolist(), found.kept["mag"].tolist(), strict=True)) == {7: 1, 8: 2}
    assert [(cut.name, cut.before, cut.after) for cut in found.cuts] == [("table", 3, 3), ("duplicates", 3, 2)]


def test_selection_saves_a_table_with_bad_rows_and_is_counted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,ra,dec,mag\n1,10,5,17\n2,10,99,99\n3,10.00001,5,18\n4,200,5,16\n")
    region = parse_footprint("circle(10,5,1)")
    found = read(tmp_path / "t.csv", select="mag < 90", footprint=region)
    assert [(c.name, c.before, c.after) for c in found.cuts] == [("table", 4, 4), ("select", 4, 3), ("footprint", 3, 2)]
    assert found.notes == ("1 pairs of targets are closer than 1 arcsec",)
    outside = read(tmp_path / "t.csv", select="mag < 90", exclude=region)
    assert outside.id.tolist() == [4]


def test_images_need_no_positions_and_keep_the_order(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id_str,file_loc\nb,x/b.jpg\na,x/a.jpg\n")
    found = read(tmp_path / "t.csv")
    assert found.id.tolist() == ["b", "a"]
    assert found.columns["image"].tolist() == ["x/b.jpg", "x/a.jpg"]
    assert np.isnan(found.ra_deg).all()
    assert (found.healpix_29 == -1).all()


def test_a_misspelt_column_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,ra,dec,mag_r\n1,10,5,17\n")
    for options in ({"keep": ("magr",)}, {"select": "mag_rr < 3"}, {"columns": ColumnChoices(size="mag_rr")}):
        with pytest.raises(RecipeError, match="did you mean mag_r"):
            read(tmp_path / "t.csv", **options)


def test_real_detections_become_targets(shared_data: Path) -> None:
    path = shared_data / "survey_field_kids_viking" / "detections_r.fits"
    chosen = ColumnChoices(size="r50_pix", size_unit="pix")
    found = read(path, columns=chosen, keep=("snr", "extended"), pixel_scale_arcsec=lambda: 0.339)
    assert len(found) == 1928
    assert found.kept["extended"].sum() == 452
    assert 0 < np.nanmedian(found.r50_arcsec) < 3
    bright = read(path, columns=chosen, select="snr > 50 and extended == 1", pixel_scale_arcsec=lambda: 0.339)
    assert 0 < len(bright) < 452


def test_a_real_tractor_catalogue_is_read_by_its_own_names(shared_data: Path) -> None:
    path = shared_data / "legacysurvey_tables" / "tractor-3301m002.fits.gz"
    chosen = ColumnChoices(id="release,brickid,objid", size="shapedev_r")
    found = read(path, columns=chosen, keep=("type", "flux_r"), limit=5)
    assert len(found) == 5
    assert found.r50_arcsec is not None
    assert found.id[0].count("_") == 2
    assert list(found.kept) == ["TYPE", "FLUX_R"]
    bright = read(path, columns=chosen, select="flux_r > 1 and type != 'PSF'")
    assert sorted(bright.id) == ["8000_330248_0", "8000_330248_15"]
