from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from gzsurvey.outputs.columns import Column, Flavour, Layout
from gzsurvey.outputs.fits import ascii_text, open_table
from gzsurvey.outputs.parameters import Parameter
from gzsurvey.outputs.rows import catalogue_rows
from outputs.catalogues import BIG_ID, client, make_block, make_card, make_stored

PARAMETERS = (
    Parameter("MODEL", "it's " * 30, "the model"),
    Parameter("MISSLIM", 0.2, "limit of missing_fraction"),
    Parameter("NTARGET", 50, "rows"),
    Parameter("SIMUL", True, "simulated galaxies only"),
    Parameter("AUTHOR", "Zoë <z@x>", "non-ASCII"),
)
N = 50


def write(path: Path, flavour: Flavour = "catalogue", pieces: int = 3) -> tuple[Layout, dict[str, np.ndarray]]:
    card = make_card()
    layout = Layout(card, ("gz_decals_dr8",), make_stored(), flavour)
    rows = catalogue_rows(make_block(card, N), layout)
    with open_table(path, layout.columns, N, PARAMETERS) as table:
        for part in np.array_split(np.arange(N), pieces):
            table.append({name: values[part] for name, values in rows.items()})
    return layout, rows


@pytest.mark.parametrize("flavour", ["catalogue", "full"])
def test_fitsverify_finds_nothing(tmp_path: Path, flavour: Flavour) -> None:
    program = client("fitsverify")
    write(tmp_path / "t.fits", flavour)
    done = subprocess.run([program, tmp_path / "t.fits"], capture_output=True, text=True)
    assert "found 0 warning(s) and 0 error(s)" in done.stdout, done.stdout


def test_stilts_shows_units_ucds_descriptions_and_nulls(tmp_path: Path) -> None:
    program = client("stilts")
    write(tmp_path / "t.fits")
    command = [program, "tpipe", f"in={tmp_path / 't.fits'}", "cmd=meta Name Class Units UCD Description Null_Value",
               "ofmt=csv"]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert '\nra,Double,deg,pos.eq.ra;meta.main,"Right ascension, ICRS",' in shown
    assert "\nhealpix_29,Long,,pos.healpix," in shown
    assert 'bar_strong_fraction,Float,,stat.probability;src.morph.type,"bar-dr8_strong (gz_decals_dr8): ' in shown
    assert "(not debiased)" in shown
    assert "\nmag_r,Float,mag,phot.mag;em.opt.R,r < 22 & 'dereddened'," in shown
    assert f"\nflag,Integer,,meta.record,flag of targets.fits,{-(2**31)}" in shown


def test_votlint_misses_only_the_rows_in_the_votable_of_the_primary_hdu(tmp_path: Path) -> None:
    """It is one without data, with the number of rows, as STILTS itself writes it."""
    program = client("stilts")
    write(tmp_path / "t.fits")
    with fits.open(tmp_path / "t.fits") as hdus:
        (tmp_path / "t.vot").write_bytes(hdus[0].data.tobytes())
    lint = subprocess.run([program, "votlint", tmp_path / "t.vot"], capture_output=True, text=True)
    assert lint.stderr == ""
    (line,) = lint.stdout.splitlines()
    assert line.endswith(f"Row count (0) not equal to nrows attribute ({N})")


def test_stilts_reads_big_ids_and_nulls(tmp_path: Path) -> None:
    program = client("stilts")
    write(tmp_path / "t.fits")
    command = [program, "tpipe", f"in={tmp_path / 't.fits'}", "cmd=keepcols 'objid flag in_training'", "ofmt=csv"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[1] == f"{BIG_ID},,"
    assert lines[2] == "-2,7,"


def test_astropy_reads_the_same_values(tmp_path: Path) -> None:
    layout, rows = write(tmp_path / "t.fits", "full")
    with fits.open(tmp_path / "t.fits", checksum=True) as hdus:
        data = hdus[1].data
        assert len(data) == N
        for column in layout.columns:
            if column.dtype != "A":
                expected = rows[column.name].astype(column.numpy)
                np.testing.assert_array_equal(data[column.name], expected, err_msg=column.name)
        assert list(data["field"][:3]) == ["north", "s?d", "x?y"]
        assert hdus[1].header["MISSLIM"] == 0.2


def test_checksums_are_astropys(tmp_path: Path) -> None:
    write(tmp_path / "t.fits", pieces=7)
    with fits.open(tmp_path / "t.fits") as hdus:
        for hdu in hdus:
            assert hdu.verify_checksum() == 1
            assert hdu.verify_datasum() == 1


def test_a_damaged_byte_breaks_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "t.fits"
    write(path)
    content = bytearray(path.read_bytes())
    content[-2880] ^= 1
    path.write_bytes(content)
    with fits.open(path) as hdus:
        assert hdus[1].verify_datasum() == 0


def test_the_primary_hdu_is_fits_plus(tmp_path: Path) -> None:
    write(tmp_path / "t.fits")
    cards = [(tmp_path / "t.fits").read_bytes()[80 * i : 80 * i + 8].decode().strip() for i in range(6)]
    assert cards == ["SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "VOTMETA", "EXTEND"]


def test_the_same_rows_in_other_pieces_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.fits", pieces=1)
    write(tmp_path / "b.fits", pieces=9)
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()


def test_an_error_leaves_the_old_file_and_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "t.fits"
    path.write_text("old")
    column = Column("name", "A", 3)
    with pytest.raises(ValueError, match="holds 3 characters, a value has 4"), open_table(path, [column], 1) as table:
        table.append({"name": np.array(["long"])})
    with pytest.raises(ValueError, match="1 rows, but 2 were announced"), open_table(path, [column], 2) as table:
        table.append({"name": np.array(["abc"])})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_table_is_valid(tmp_path: Path) -> None:
    with open_table(tmp_path / "t.fits", [Column("a", "E"), Column("ok", "L")], 0):
        pass
    with fits.open(tmp_path / "t.fits", checksum=True) as hdus:
        assert len(hdus[1].data) == 0


def test_logicals_survive(tmp_path: Path) -> None:
    with open_table(tmp_path / "t.fits", [Column("ok", "L")], 2) as table:
        table.append({"ok": np.array([True, False])})
    with fits.open(tmp_path / "t.fits") as hdus:
        assert list(hdus[1].data["ok"]) == [True, False]


def test_text_is_printable_ascii() -> None:
    values = np.array(["plain", "süd", "a\tb", "", "日本", "~ '"])
    assert ascii_text(values).tolist() == [b"plain", b"s?d", b"a?b", b"", b"??", b"~ '"]
    assert ascii_text(np.array(["ab", "c"], dtype=object)).tolist() == [b"ab", b"c"]
    assert ascii_text(values[:0]).shape == (0,)
