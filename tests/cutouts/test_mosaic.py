"""Cutouts from a mosaic: the right pixels, whatever the tiles, and a status where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from contracts.cutout_source import CutoutSourceContract
from mosaics import RA, SCALE, SIDE, at, field, field_wcs, header, write_quarters, write_tile
from numpy.typing import NDArray

from gzsurvey.cutouts import mosaic
from gzsurvey.cutouts.mosaic import MosaicSource
from gzsurvey.cutouts.mosaic_index import build_index
from gzsurvey.cutouts.open import open_source
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.spec import LayerSpec, SourceSpec
from gzsurvey.images.frame import Frame
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.status import Status

PREPARATION = Preparation(image_size=32)


def open_mosaic(
    address: Path | str, bands: str = "g,r,z", zeropoints: str | None = None, **options: object
) -> MosaicSource:
    spec = SourceSpec.parse(f"mosaic:{address}", bands, zeropoints)
    return MosaicSource(build_index(spec, PREPARATION.bands), PREPARATION, **options)  # type: ignore[arg-type]


def open_of(spec: SourceSpec) -> MosaicSource:
    return MosaicSource(build_index(spec, PREPARATION.bands), PREPARATION)


def ask(pixel: tuple[float, float], row: int = 0, size: int = 33, scale: float = SCALE) -> Request:
    """The cutout around one pixel of the field."""
    return Request(row, f"t{row}", *at(*pixel), Frame(size, scale))


def get(source: MosaicSource, request: Request) -> Cutout | Miss:
    ((_, answer),) = source.fetch([request])
    return answer


def pixels(source: MosaicSource, request: Request) -> NDArray[np.float32]:
    answer = get(source, request)
    assert isinstance(answer, Cutout), answer
    return answer.pixels.astype(np.float32)


def around(image: NDArray[np.float32], column: int, row: int, size: int = 33) -> NDArray[np.float32]:
    """What the cutout shows, straight from the field; NaN outside."""
    half = size // 2
    padded = np.pad(image, size, constant_values=np.nan)
    return padded[row + size - half : row + size + half + 1, column + size - half : column + size + half + 1]


class TestMosaicSource(CutoutSourceContract):
    @pytest.fixture
    def source(self, tmp_path: Path) -> MosaicSource:
        write_quarters(tmp_path)
        return open_mosaic(tmp_path)

    @pytest.fixture
    def requests(self) -> list[Request]:
        places = [(60, 60), (150, 150), (250, 40), (3, 150), (290, 290), (900, 60), (145, 80)]
        return [ask(place, row) for row, place in enumerate(places)]


def test_cutouts_are_the_native_pixels(tmp_path: Path) -> None:
    whole = write_quarters(tmp_path)
    cutout = pixels(open_mosaic(tmp_path), ask((60, 80)))
    for plane, band in zip(cutout, "grz", strict=True):
        np.testing.assert_allclose(plane, around(whole[band], 60, 80), atol=1e-4)


@pytest.mark.parametrize("size", [32, 33])
def test_native_cutouts_are_those_of_astropy_to_the_bit(tmp_path: Path, size: int) -> None:
    whole = write_quarters(tmp_path / "tiles", bands="g")["g"]
    write_tile(tmp_path / "whole.fits", whole, FILTER="g")
    native = Preparation(image_size=size, resampling="native")
    source = open_source(SourceSpec.parse(f"mosaic:{tmp_path}/whole.fits", "g,g,g"), native, missing_limit=1.0)
    places = np.random.default_rng(3).uniform(-10, SIDE + 9, (60, 2))
    requests = [ask(tuple(place), n, size) for n, place in enumerate(places)]
    for row, answer in source.fetch(requests):
        where = SkyCoord(requests[row].ra_deg, requests[row].dec_deg, unit="deg")
        expected = Cutout2D(whole, where, size, field_wcs(), mode="partial", fill_value=np.nan).data
        assert isinstance(answer, Cutout)
        np.testing.assert_array_equal(answer.pixels[0], expected)


def test_native_frames_of_another_scale_or_orientation_are_resampled(tmp_path: Path) -> None:
    write_tile(tmp_path / "whole.fits", field(), FILTER="g")
    spec = SourceSpec.parse(f"mosaic:{tmp_path}/whole.fits", "g,g,g")
    found = [
        pixels(open_source(spec, Preparation(image_size=32, resampling=how)), ask((150.3, 150.4), size=32, scale=0.3))  # type: ignore[arg-type]
        for how in ("native", "mean")
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("place", [(150, 60), (149, 151), (168, 100), (131, 131)])
def test_cutouts_across_tiles_are_those_of_one_image(tmp_path: Path, place: tuple[int, int]) -> None:
    whole = write_quarters(tmp_path)
    cutout = pixels(open_mosaic(tmp_path), ask(place, size=61))
    np.testing.assert_allclose(cutout[0], around(whole["g"], *place, 61), atol=1e-4)


def test_overlaps_are_never_averaged_and_the_best_covered_wins(tmp_path: Path) -> None:
    write_tile(tmp_path / "g_left.fits", np.full((SIDE, 170), 1, np.float32), 0, 0, FILTER="g")
    write_tile(tmp_path / "g_right.fits", np.full((SIDE, 170), 5, np.float32), 130, 0, FILTER="g")
    source = open_mosaic(tmp_path, "g,g,g")
    assert (pixels(source, ask((140, 150), size=11)) == 1).all()
    assert (pixels(source, ask((160, 150), size=11)) == 5).all()
    joined = pixels(source, ask((155, 150), size=61))[0]
    assert set(np.unique(np.round(joined, 4))) == {1, 5}
    assert (joined[:, -30:] == 5).all()
    names = [get(source, ask(place, size=11)).image_id for place in ((140, 150), (160, 150))]
    assert names == ["g_left", "g_right"]


def test_each_file_is_opened_once(tmp_path: Path) -> None:
    write_quarters(tmp_path)
    source = open_mosaic(tmp_path)
    rng = np.random.default_rng(0)
    requests = [ask((c, r), n) for n, (c, r) in enumerate(rng.uniform(20, 280, (200, 2)))]
    rng.shuffle(requests)  # type: ignore[arg-type]
    assert len(list(source.fetch(requests))) == 200
    assert source.files_opened == 12


def test_batches_and_a_small_cache_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_quarters(tmp_path, ".fits.fz")
    requests = [ask((40 + 10 * n, 150), n, size=41) for n in range(20)]
    expected = dict(open_mosaic(tmp_path).fetch(requests))
    monkeypatch.setattr(mosaic, "BATCH_BYTES", 3 * 41 * 41 * 4 * 2)
    monkeypatch.setattr(mosaic, "CACHE_BYTES", 0)
    for row, answer in open_mosaic(tmp_path).fetch(requests):
        other = expected[row]
        assert isinstance(answer, Cutout)
        assert isinstance(other, Cutout)
        np.testing.assert_array_equal(answer.pixels, other.pixels)


@pytest.mark.parametrize("suffix", [".fits.fz", ".fits.gz", ".fits.bz2"])
@pytest.mark.parametrize("targets", [1, 60])
def test_compressed_files_hold_the_same_sky(tmp_path: Path, suffix: str, targets: int) -> None:
    write_quarters(tmp_path / "plain")
    write_quarters(tmp_path / "packed", suffix)
    requests = [ask((50 + 3 * n, 100 + n), n) for n in range(targets)]
    plain, packed = (dict(open_mosaic(tmp_path / name).fetch(requests)) for name in ("plain", "packed"))
    for row, answer in plain.items():
        other = packed[row]
        assert isinstance(answer, Cutout)
        assert isinstance(other, Cutout)
        np.testing.assert_array_equal(answer.pixels, other.pixels)


@pytest.mark.parametrize(("zeropoint", "factor"), [("25,25,25", 0.1), ("0,0,0", 1e9), ("22.5,22.5,22.5", 1.0)])
def test_zero_points_turn_counts_into_nanomaggies(tmp_path: Path, zeropoint: str, factor: float) -> None:
    write_tile(tmp_path / "g.fits", np.full((SIDE, SIDE), 3, np.float32), FILTER="g")
    cutout = pixels(open_mosaic(tmp_path, "g,g,g", zeropoint), ask((150, 150)))
    np.testing.assert_allclose(cutout, 3 * factor, rtol=1e-3)


@pytest.mark.parametrize("scale", [0.1, 0.262, 0.7])
def test_surface_brightness_does_not_depend_on_the_cutouts_scale(tmp_path: Path, scale: float) -> None:
    write_tile(tmp_path / "g.fits", np.full((SIDE, SIDE), 3, np.float32), FILTER="g")
    np.testing.assert_allclose(pixels(open_mosaic(tmp_path, "g,g,g"), ask((150, 150), scale=scale)), 3, rtol=1e-3)


def test_coarse_pixels_are_dimmed_to_the_reference_pixel(tmp_path: Path) -> None:
    coarse = header(FILTER="g", BUNIT="nanomaggy")
    coarse["CDELT1"], coarse["CDELT2"] = -1.188 / 3600, 1.188 / 3600
    fits.writeto(tmp_path / "g.fits", np.full((SIDE, SIDE), 3, np.float32), coarse)
    cutout = pixels(open_mosaic(tmp_path, "g,g,g"), ask((150, 150), scale=1.0))
    np.testing.assert_allclose(cutout, 3 * (0.262 / 1.188) ** 2, rtol=1e-3)


def test_integers_with_scale_and_blank(tmp_path: Path) -> None:
    counts = np.full((SIDE, SIDE), 7, np.int16)
    counts[150:153, 150:153] = -99
    raw = fits.PrimaryHDU(counts, header(FILTER="g", BUNIT="nanomaggy", BLANK=-99))
    raw.writeto(tmp_path / "g.fits")
    with fits.open(tmp_path / "g.fits", mode="update", do_not_scale_image_data=True) as opened:
        opened[0].header["BSCALE"], opened[0].header["BZERO"] = 0.5, 1.0
    cutout = pixels(open_mosaic(tmp_path, "g,g,g"), ask((151, 151)))[0]
    assert np.isnan(cutout).sum() == 9
    np.testing.assert_allclose(cutout[~np.isnan(cutout)], 4.5, rtol=1e-4)


def test_extensions_are_tiles_of_their_own(tmp_path: Path) -> None:
    image = field()
    hdus = [fits.PrimaryHDU()]
    for name, column in (("CCD1", 0), ("CCD2", 150)):
        hdus.append(fits.ImageHDU(image[:, column : column + 150], header(column, 0, BUNIT="nanomaggy"), name=name))
    hdus.append(fits.ImageHDU(np.ones_like(image), header(), name="WEIGHT"))
    hdus[0].header["FILTER"] = "g"
    fits.HDUList(hdus).writeto(tmp_path / "exposure.fits")
    source = open_mosaic(tmp_path, "g,g,g")
    np.testing.assert_allclose(pixels(source, ask((150, 100)))[0], around(image, 150, 100), atol=1e-4)
    assert get(source, ask((60, 60))).image_id == "exposure[1]"


def statuses(source: MosaicSource, requests: Sequence[Request]) -> dict[int, Status]:
    return {row: a.status if isinstance(a, Miss) else Status.PREDICTED for row, a in source.fetch(requests)}


def test_each_lack_has_its_status(tmp_path: Path) -> None:
    for band, width in (("g", 300), ("r", 300), ("z", 200)):
        write_tile(tmp_path / f"{band}.fits", np.ones((SIDE, width), np.float32), FILTER=band)
    requests = [ask((100, 100), 0), ask((250, 100), 1), ask((400, 100), 2), ask((197, 100), 3), ask((3, 3), 4)]
    source = open_mosaic(tmp_path)
    assert statuses(source, requests) == {
        0: Status.PREDICTED, 1: Status.BAND_MISSING, 2: Status.OUTSIDE_IMAGING, 3: Status.MISSING_PIXELS,
        4: Status.MISSING_PIXELS,
    }  # fmt: skip
    miss = get(source, requests[1])
    assert isinstance(miss, Miss)
    assert miss.reason == "no image of band z here"
    missing = get(source, requests[4])
    assert missing.missing_fraction == pytest.approx(1 - (20 / 33) ** 2, abs=0.02)


def test_the_limit_of_missing_pixels_is_a_choice(tmp_path: Path) -> None:
    write_tile(tmp_path / "g.fits", np.ones((SIDE, SIDE), np.float32), FILTER="g")
    request = ask((5, 150))
    assert isinstance(get(open_mosaic(tmp_path, "g,g,g"), request), Miss)
    answer = get(open_mosaic(tmp_path, "g,g,g", missing_limit=0.5), request)
    assert isinstance(answer, Cutout)
    assert answer.missing_fraction == pytest.approx(11 / 33, abs=0.02)


@pytest.mark.parametrize("blank", [0.0, np.nan])
def test_blank_borders_are_missing_not_black(tmp_path: Path, blank: float) -> None:
    image = field()
    image[:, :100] = blank
    write_tile(tmp_path / "g.fits", image, FILTER="g")
    source = open_mosaic(tmp_path, "g,g,g")
    assert get(source, ask((50, 150))).status == Status.MISSING_PIXELS  # type: ignore[union-attr]
    nearby = pixels(source, ask((114, 150)))[0]
    np.testing.assert_array_equal(np.isnan(nearby), [np.arange(33) < 2] * 33)


def test_a_blank_line_at_the_border_is_missing_and_a_zero_inside_is_not(tmp_path: Path) -> None:
    image = field()
    image[0] = 0
    image[40, 60] = image[41, 61] = image[20, 50:60] = 0
    write_tile(tmp_path / "g.fits", image, FILTER="g")
    cutout = pixels(open_mosaic(tmp_path, "g,g,g"), ask((60, 30), size=61))[0]
    np.testing.assert_array_equal(np.isnan(cutout), [[row == 0] * 61 for row in range(61)])


def test_coarsely_counted_sky_is_not_blank(tmp_path: Path) -> None:
    """Rounded to whole counts, a third of the sky's pixels are exact zeros."""
    image = np.round(np.random.default_rng(5).normal(0, 1.2, (SIDE, SIDE))).astype(np.float32)
    write_tile(tmp_path / "g.fits", image, FILTER="g")
    cutout = pixels(open_mosaic(tmp_path, "g,g,g"), ask((150, 150), size=201))[0]
    assert (np.abs(cutout) < 1e-3).mean() > 0.2
    assert np.isnan(cutout).mean() < 0.003


def test_holes_are_filled_from_the_next_tile(tmp_path: Path) -> None:
    image = field()
    holed = image.copy()
    holed[140:160, 140:160] = np.nan
    write_tile(tmp_path / "one_g.fits", holed, FILTER="g")
    write_tile(tmp_path / "two_g.fits", image[100:250, 100:250], 100, 100, FILTER="g")
    np.testing.assert_allclose(
        pixels(open_mosaic(tmp_path, "g,g,g"), ask((150, 150)))[0], around(image, 150, 150), atol=1e-4
    )


def test_a_damaged_tile_costs_only_its_own_targets(tmp_path: Path) -> None:
    write_quarters(tmp_path, ".fits.gz")
    source = open_mosaic(tmp_path)
    damaged = tmp_path / "r_a.fits.gz"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    there, elsewhere = dict(source.fetch([ask((50, 50), 0), ask((250, 250), 1)])).values()
    answers = {type(there), type(elsewhere)}
    assert answers == {Miss, Cutout}
    miss = there if isinstance(there, Miss) else elsewhere
    assert isinstance(miss, Miss)
    assert miss.status == Status.UNREADABLE
    assert miss.reason.startswith("r_a cannot be read: ")


def test_layers_are_read_at_the_target(tmp_path: Path) -> None:
    write_quarters(tmp_path)
    seeing = np.arange(150 * 300, dtype=np.float32).reshape(150, 300) + 1
    seeing[40:60, 40:60] = np.nan
    write_tile(tmp_path / "maps" / "psfsize-r.fits.fz", seeing, EXTNAME="PSFSIZE")
    write_tile(tmp_path / "maps" / "nexp.fits", np.full((SIDE, SIDE), 7, np.int16), BUNIT="")
    write_tile(tmp_path / "maps" / "psfsize-2.fits", np.full((60, 60), 5, np.float32), 30, 30)
    layers = (LayerSpec("psfsize_r", f"{tmp_path}/maps/psfsize*"), LayerSpec("nexp", f"{tmp_path}/maps/nexp.fits"))
    source = open_of(replace(SourceSpec.parse(f"mosaic:{tmp_path}/*_?.fits", "g,r,z"), layers=layers))
    places = {0: (100.3, 120.4), 1: (50, 50), 2: (100, 200), 3: (20.6, 99.7)}
    found = {row: answer.layers for row, answer in source.fetch([ask(p, n) for n, p in places.items()])}  # type: ignore[union-attr]
    assert found[0] == {"psfsize_r": 120 * 300 + 100 + 1, "nexp": 7}
    assert found[1] == {"psfsize_r": 5, "nexp": 7}
    assert np.isnan(found[2]["psfsize_r"])
    assert found[2]["nexp"] == 7
    assert found[3]["psfsize_r"] == 100 * 300 + 21 + 1


def test_masked_pixels_are_counted(tmp_path: Path) -> None:
    write_tile(tmp_path / "g.fits", np.ones((SIDE, SIDE), np.float32), FILTER="g")
    bits = np.zeros((SIDE, SIDE), np.int32)
    bits[:, 150:] = 2
    bits[:150] |= 1
    write_tile(tmp_path / "masks" / "field.fits", bits)
    spec = SourceSpec(f"mosaic:{tmp_path}/g.fits", ("g", "g", "g"), None, f"{tmp_path}/masks/*.fits", 2)
    source = MosaicSource(build_index(spec, PREPARATION.bands), PREPARATION)
    answer = get(source, ask((150, 150)))
    assert isinstance(answer, Cutout)
    assert answer.masked_fraction == pytest.approx(17 / 33, abs=0.02)
    assert np.isnan(get(open_mosaic(tmp_path, "g,g,g"), ask((150, 150))).masked_fraction)  # type: ignore[union-attr]


def test_positions_across_ra_zero(tmp_path: Path) -> None:
    image = field()
    moved = header(FILTER="g", BUNIT="nanomaggy")
    moved["CRVAL1"] = 0.0
    fits.writeto(tmp_path / "g.fits", image, moved)
    source = open_mosaic(tmp_path, "g,g,g")
    for column in (100, 200):
        ra, dec = at(column, 150)
        request = Request(0, "t", (ra - RA) % 360, dec, Frame(33, SCALE))
        np.testing.assert_allclose(pixels(source, request)[0], around(image, column, 150), atol=1e-4)
