"""Which files are a mosaic: what is taken, what is left out, what is refused and with which words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from mosaics import SIDE, field, header, write_quarters, write_tile

from gzsurvey.cutouts import mosaic_index
from gzsurvey.cutouts.headers import zeropoint
from gzsurvey.cutouts.index_file import index, pixel_scale_arcsec, read_index
from gzsurvey.cutouts.mosaic_index import MosaicIndex, build_index
from gzsurvey.cutouts.open import check_source, open_source
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import SourceError
from gzsurvey.recipes.preparation import Preparation

PREPARATION = Preparation(image_size=32)
IMAGE = np.ones((SIDE, SIDE), np.float32)


def built(address: object, bands: str | None = None, zeropoints: str | None = None) -> MosaicIndex:
    return build_index(SourceSpec.parse(f"mosaic:{address}", bands, zeropoints), PREPARATION.bands)


def refused(address: object, bands: str | None = None, zeropoints: str | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        built(address, bands, zeropoints)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(index: MosaicIndex) -> list[str]:
    return sorted(Path(tile.path).name for tile in index.tiles)


def test_a_survey_folder_holds_more_than_images(tmp_path: Path) -> None:
    write_quarters(tmp_path)
    for kind in ("weight", "rms", "mask", "model", "psf", "bkg", "stack", "invvar", "maskbits"):
        write_tile(tmp_path / f"g_a-{kind}.fits", IMAGE, FILTER="g")
    write_tile(tmp_path / "i_a.fits", IMAGE, FILTER="i")
    fits.BinTableHDU.from_columns([fits.Column("ra", "D", array=[1.0])]).writeto(tmp_path / "sources.fits")
    (tmp_path / "README.txt").write_text("not an image")
    found = built(tmp_path)
    assert names(found) == sorted(f"{band}_{tile}.fits" for band in "grz" for tile in "abcd")
    assert found.left_out == {
        "band i": 1, "bkg": 1, "invvar": 1, "mask": 1, "maskbits": 1, "model": 1, "psf": 1, "rms": 1, "stack": 1,
        "weight": 1, "without a two-dimensional image": 1,
    }  # fmt: skip


def test_folders_within_folders(tmp_path: Path) -> None:
    for n, band in enumerate("grz"):
        write_tile(tmp_path / "coadd" / f"00{n}" / f"legacysurvey-0001-image-{band}.fits.fz", IMAGE)
    assert len(built(tmp_path).tiles) == 3
    assert len(built(f"{tmp_path}/coadd/*/legacysurvey-*-image-{{band}}.fits.fz").tiles) == 3


def test_a_word_in_the_pattern_is_wanted(tmp_path: Path) -> None:
    for band in "grz":
        write_tile(tmp_path / f"stack_{band}.fits", IMAGE)
        write_tile(tmp_path / f"stack_{band}_weight.fits", IMAGE)
    assert names(built(f"{tmp_path}/stack_{{band}}*.fits")) == ["stack_g.fits", "stack_r.fits", "stack_z.fits"]
    assert "left out: 6 stack" in refused(tmp_path)


def test_a_pattern_beats_the_header(tmp_path: Path) -> None:
    for band in "gri":
        write_tile(tmp_path / f"frame_{band}.fits.bz2", IMAGE, FILTER="g")
    message = refused(tmp_path, "g,r,i")
    assert "frame_i.fits.bz2: its header says band 'g', its name 'i'" in message
    assert f"mosaic:{tmp_path}/frame_{{band}}.fits.bz2" in message
    found = built(f"{tmp_path}/frame_{{band}}.fits.bz2", "g,r,i")
    assert sorted(tile.band for tile in found.tiles) == ["g", "i", "r"]


def test_a_pattern_without_band_goes_by_the_headers(tmp_path: Path) -> None:
    for n in (1, 2):
        write_tile(tmp_path / f"image_{n}.fits", IMAGE[:, :200], 80 * n, 0, FILTER="H")
    assert len(built(f"{tmp_path}/image_*.fits", "H,H,H").tiles) == 2


def test_filters_of_instruments_are_understood(tmp_path: Path) -> None:
    for n, name in enumerate(("g DECam SDSS c0001 4720.0 1520.0", "OCAM_r_SDSS", "z")):
        write_tile(tmp_path / f"exposure{n}.fits", IMAGE, FILTER=name)
    assert sorted(tile.band for tile in built(tmp_path).tiles) == ["g", "r", "z"]


def test_missing_bands_are_named(tmp_path: Path) -> None:
    write_quarters(tmp_path)
    assert "no image of band 'q'; bands there: g, r, z" in refused(tmp_path, "g,r,q")
    assert "no file for band 'q'; bands that have one: g, r, z" in refused(f"{tmp_path}/{{band}}_*.fits", "g,r,q")


def test_nothing_there(tmp_path: Path) -> None:
    assert "no FITS file in this directory" in refused(tmp_path)
    assert "no FITS file matches" in refused(tmp_path / "absent")


def test_images_without_wcs_are_refused(tmp_path: Path) -> None:
    fits.writeto(tmp_path / "g.fits", IMAGE, fits.Header({"FILTER": "g", "BUNIT": "nanomaggy"}))
    assert "g.fits: image 0 has no celestial WCS" in refused(tmp_path, "g,g,g")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "g.fits").write_bytes(b"no FITS at all")
    assert "g.fits: cannot be read as FITS" in refused(tmp_path, "g,g,g")


def test_unknown_zero_points_are_refused(tmp_path: Path) -> None:
    fits.writeto(tmp_path / "g.fits", IMAGE, header(FILTER="g"))
    assert "give the AB magnitude of one count by --zeropoints" in refused(tmp_path, "g,g,g")
    assert built(tmp_path, "g,g,g", "30,30,30").tiles[0].zeropoint == 30
    assert "no keyword 'MYZERO'" in refused(tmp_path, "g,g,g", "MYZERO,MYZERO,MYZERO")
    fits.setval(tmp_path / "g.fits", "MYZERO", value=27.5)
    assert built(tmp_path, "g,g,g", "MYZERO,MYZERO,MYZERO").tiles[0].zeropoint == 27.5
    assert "names 25.0 and 26.0 for the same band 'g'" in refused(tmp_path, "g,g,g", "25,26,25")


@pytest.mark.parametrize(
    ("cards", "magnitude"),
    [
        ({"BUNIT": "nanomaggy"}, 22.5), ({"BUNIT": "uJy"}, 23.9), ({"BUNIT": "nJy/pix"}, 31.4),
        ({"BUNIT": "nanomaggy", "MAGZERO": 30}, 22.5), ({"BUNIT": "ADU", "MAGZPT": 25.1, "PHOTZP": 1}, 25.1),
        ({"PHOTZP": "24.2"}, 24.2), ({"FLUXMAG0": 1e10}, 25.0), ({"BUNIT": "counts"}, None), ({"MAGZERO": True}, None),
    ],
)  # fmt: skip
def test_zero_points_of_headers(cards: dict[str, object], magnitude: float | None) -> None:
    assert zeropoint(fits.Header(cards)) == magnitude


def test_two_images_with_one_outline_are_refused(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_tile(tmp_path / f"{name}_g.fits", IMAGE, FILTER="g")
    message = refused(tmp_path, "g,g,g")
    assert "first_g.fits[0] and second_g.fits[0], both band 'g', have the same outline" in message
    assert f"mosaic:{tmp_path}/first_{{band}}.fits" in message
    assert len(built(f"{tmp_path}/first_{{band}}.fits", "g,g,g").tiles) == 1


@pytest.mark.parametrize(("cards", "what"), [({"MAGZPT": 26}, "zero point"), ({"CDELT1": -1e-4}, "pixel scale")])
def test_overlaps_that_differ_are_refused(tmp_path: Path, cards: dict[str, object], what: str) -> None:
    write_tile(tmp_path / "one_g.fits", IMAGE, FILTER="g", BUNIT="ADU", MAGZPT=25)
    write_tile(tmp_path / "two_g.fits", IMAGE[:, :200], 80, 0, **{"FILTER": "g", "BUNIT": "ADU", "MAGZPT": 25, **cards})
    assert f"overlap with another {what}" in refused(tmp_path, "g,g,g")
    assert len(built(f"{tmp_path}/*_{{band}}.fits", "g,g,g").tiles) == 2


def test_bands_that_overlap_nowhere_are_refused(tmp_path: Path) -> None:
    write_tile(tmp_path / "east_g.fits", IMAGE, FILTER="g")
    write_tile(tmp_path / "west_r.fits", IMAGE, 2000, 0, FILTER="r")
    assert "bands 'g' and 'r' overlap nowhere" in refused(tmp_path, "g,r,g")


def test_the_primary_header_lends_no_wcs(tmp_path: Path) -> None:
    primary = fits.PrimaryHDU(header=header(FILTER="g", BUNIT="nanomaggy"))
    fits.HDUList([primary, fits.ImageHDU(IMAGE)]).writeto(tmp_path / "exposure.fits")
    assert "image 1 has no celestial WCS" in refused(tmp_path, "g,g,g")


def test_regions_apart_may_differ(tmp_path: Path) -> None:
    write_tile(tmp_path / "one_g.fits", IMAGE, FILTER="g", BUNIT="ADU", MAGZPT=25)
    write_tile(tmp_path / "two_g.fits", IMAGE, 2000, 0, FILTER="g", BUNIT="ADU", MAGZPT=26)
    assert len(built(tmp_path, "g,g,g").tiles) == 2


def test_many_files_are_read_in_parallel_with_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_quarters(tmp_path)
    expected = built(tmp_path)
    monkeypatch.setattr(mosaic_index, "PROCESSES_FROM", 4)
    assert built(tmp_path) == expected


def test_the_index_is_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles, cache = tmp_path / "tiles", tmp_path / "cache"
    write_quarters(tiles)
    spec = SourceSpec.parse(f"mosaic:{tiles}")
    first = check_source(spec, PREPARATION, cache)
    monkeypatch.chdir(tmp_path)
    assert index("mosaic:tiles", "g,r,z", None, cache) == first
    monkeypatch.setattr("gzsurvey.cutouts.index_file.build_index", lambda *_: pytest.fail("was built again"))
    assert check_source(spec, PREPARATION, cache) == first
    monkeypatch.undo()
    write_tile(tiles / "g_e.fits", field(9)[:100, :100], 400, 0, FILTER="g")
    second = check_source(spec, PREPARATION, cache)
    assert second != first
    assert second is not None
    assert len(read_index(second).tiles) == 13
    assert pixel_scale_arcsec(second) == pytest.approx(0.262)
    assert open_source(spec, PREPARATION, second).name == spec.text


def test_sizes_in_pixels_need_one_scale(tmp_path: Path) -> None:
    write_tile(tmp_path / "one_g.fits", IMAGE, FILTER="g")
    write_tile(tmp_path / "two_g.fits", IMAGE, 4000, 0, FILTER="g", CDELT1=-1e-4, CDELT2=1e-4)
    path = index(f"mosaic:{tmp_path}", "g,g,g", None, tmp_path / "cache")
    with pytest.raises(SourceError, match="sizes in pixels say nothing"):
        pixel_scale_arcsec(path)


def test_only_mosaics_have_an_index(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="needs no index"):
        index("synthetic:", cache_dir=tmp_path)
    with pytest.raises(SourceError, match="no index of a mosaic"):
        read_index(tmp_path / "absent.json")
