"""Resampling keeps surface brightness, position, orientation and parity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS, Sip
from numpy.typing import NDArray
from reproject import reproject_exact, reproject_interp

from gzsurvey.cutouts.collection import decode, open_collection
from gzsurvey.images.affine import Affine, affine_maps
from gzsurvey.images.frame import Frame
from gzsurvey.images.prepare import prepare_picture
from gzsurvey.images.resample import _matrix_means, _two_pass_means, resample
from gzsurvey.images.stretch import to_rgb
from gzsurvey.recipes.preparation import Preparation

RA, DEC = 150.0, 52.0
ORIENTATIONS = [(0, 1), (30, 1), (90, 1), (200, 1), (0, -1), (45, -1), (135, -1), (90, -1)]


def tangent_wcs(
    size: int, scale: float, turn: float = 0, parity: int = 1, kind: str = "TAN", at: tuple[float, float] = (RA, DEC)
) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{kind}", f"DEC--{kind}"]
    wcs.wcs.crval = at
    wcs.wcs.crpix = [(size + 1) / 2 + 0.3, (size + 1) / 2 - 0.2]
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    wcs.wcs.cd = np.array([[c, -s], [s, c]]) @ np.diag([-parity * scale, scale]) / 3600
    if kind == "ZPN":
        wcs.wcs.set_pv([(2, 1, 1.0), (2, 3, 42.0)])  # VISTA's
    wcs.wcs.set()
    return wcs


def frame_wcs(frame: Frame) -> WCS:
    """The frame as a WCS with column 0 in the east and row 0 in the south."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [RA, DEC]
    wcs.wcs.crpix = [(frame.size_px + 1) / 2] * 2
    wcs.wcs.cdelt = [-frame.scale_arcsec / 3600, frame.scale_arcsec / 3600]
    return wcs


Source = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def sky(east: NDArray[np.float64], north: NDArray[np.float64]) -> NDArray[np.float64]:
    """An asymmetric source: a bar, a companion to the north-east, a faint one to the south; arcsec."""
    bar = np.exp(-0.5 * ((east / 3) ** 2 + (north / 1.5) ** 2))
    companion = 0.7 * np.exp(-0.5 * ((east - 5) ** 2 + (north - 3) ** 2) / 1.2**2)
    faint = 0.3 * np.exp(-0.5 * ((east + 1) ** 2 + (north + 6) ** 2) / 1.5**2)
    total: NDArray[np.float64] = bar + companion + faint
    return total


def rendered(wcs: WCS, size: int, source: Source = sky) -> NDArray[np.float32]:
    """A source in an image's own pixels."""
    rows, columns = np.indices((size, size))
    ra, dec = wcs.all_pix2world(columns, rows, 0)
    turn, dec, dec0 = np.radians(ra - RA), np.radians(dec), np.radians(DEC)
    away = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(turn)
    east = np.cos(dec) * np.sin(turn) / away
    north = (np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(turn)) / away
    return source(np.degrees(east) * 3600, np.degrees(north) * 3600).astype(np.float32)


def grid(frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Arcsec to the east and north of the frame's pixels."""
    rows, columns = np.indices((frame.size_px, frame.size_px))
    middle = (frame.size_px - 1) / 2
    return (middle - columns) * frame.scale_arcsec, (rows - middle) * frame.scale_arcsec


def cut(native: NDArray[np.float32], wcs: WCS, frame: Frame) -> NDArray[np.float32]:
    affine = affine_maps(wcs, np.array([RA]), np.array([DEC]), np.array([frame.scale_arcsec]), frame.size_px)[0]
    assert affine.known
    return resample(native[None], affine, frame.size_px)[0]


def centroid_px(image: NDArray[np.floating], frame: Frame) -> NDArray[np.float64]:
    east, north = grid(frame)
    return np.array([(image * east).sum(), (image * north).sum()]) / image.sum() / frame.scale_arcsec


@pytest.mark.parametrize("scale", [0.1, 0.262, 0.4, 1.1])
@pytest.mark.parametrize(("rotation", "parity"), ORIENTATIONS)
def test_same_cutout_through_any_scale_and_orientation(scale: float, rotation: float, parity: int) -> None:
    frame = Frame(64, 0.5)
    size = int(60 / scale)
    wcs = tangent_wcs(size, scale, rotation, parity)
    cutout = cut(rendered(wcs, size), wcs, frame)
    truth = sky(*grid(frame))
    assert cutout.sum() == pytest.approx(truth.sum(), rel=2e-3 if scale <= 0.4 else 2e-2)
    assert np.abs(centroid_px(cutout, frame) - centroid_px(truth, frame)).max() < 0.01
    worst = 0.03 if scale <= 0.4 else 0.25
    assert np.abs(cutout - truth).max() < worst


def spiral(east: NDArray[np.float64], north: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two arms that turn to the left on their way out, as seen with north up and east left; arcsec."""
    radius, angle = np.hypot(east, north) + 0.3, np.arctan2(north, -east)
    arms: NDArray[np.float64] = np.exp(-radius / 4) * (1 + 0.9 * np.cos(2 * (angle - 2.5 * np.log(radius))))
    return 0.3 * arms


def winding(picture: NDArray[np.uint8]) -> float:
    """Turn of the two-armed pattern from ring to ring on the way out: above 0 to the left, as the eye sees it."""
    light = picture.astype(float).mean(axis=2)
    down, right = (np.indices(light.shape).reshape(2, -1).T - (np.array(light.shape) - 1) / 2).T
    pattern = light.ravel() * np.exp(-2j * np.arctan2(-down, right))
    ring = np.searchsorted(np.geomspace(0.06, 0.4, 13) * len(light), np.hypot(down, right))
    modes = np.array([pattern[ring == number].mean() for number in range(1, 13)])
    return float(np.imag(modes[:-1] * modes[1:].conj()).sum())


@pytest.mark.parametrize(("rotation", "parity"), [(0, 1), (130, 1), (0, -1), (70, -1)])
def test_a_spiral_has_its_sense_through_any_orientation(rotation: float, parity: int) -> None:
    frame, preparation = Frame(64, 0.5), Preparation(image_size=64)
    wcs = tangent_wcs(240, 0.262, rotation, parity)
    picture, mirrored = (
        to_rgb(np.stack([cut(rendered(wcs, 240, source), wcs, frame)] * 3), preparation)
        for source in (spiral, lambda east, north: spiral(-east, north))
    )
    truth = to_rgb(np.stack([spiral(*grid(frame))] * 3), preparation)
    assert winding(picture) == pytest.approx(winding(truth), rel=0.15)
    assert winding(mirrored) == pytest.approx(-winding(truth), rel=0.15)
    assert winding(truth) > 100


@pytest.mark.slow
def test_real_spirals_keep_the_sense_that_volunteers_saw(shared_data: Path) -> None:
    """Arms of clockwise spirals turn to the left on their way out: they trail."""
    folder = shared_data / "gz1_sdss_classes"
    table = pd.read_csv(folder / "catalogue.csv").query("gz1_class in (1, 2)")
    images = open_collection(folder / "images.zip")
    preparation = Preparation(image_size=128, crop=0.4)
    turns = np.array(
        [winding(prepare_picture(decode(images.read(name), name), preparation)) for name in table["image"]]
    )
    clockwise = table["gz1_class"].to_numpy() == 1
    assert ((turns > 0) == clockwise).mean() > 0.7


@pytest.mark.parametrize("kind", ["TAN", "SIN", "ZEA", "STG", "ZPN"])
@pytest.mark.parametrize("rotation", [0, 17])
def test_equal_to_reproject(kind: str, rotation: float) -> None:
    frame = Frame(60, 0.5)
    wcs = tangent_wcs(400, 0.4, rotation, kind=kind, at=(RA - 0.01, DEC + 0.005))
    native = rendered(wcs, 400)
    expected, _ = reproject_interp((native, wcs), frame_wcs(frame), (60, 60), order="bilinear")
    cutout = cut(native, wcs, frame)
    assert np.abs(cutout - expected).max() < 0.02
    assert np.abs(centroid_px(cutout, frame) - centroid_px(expected, frame)).max() < 0.05


def test_plate_carree_far_from_its_equator() -> None:
    frame = Frame(60, 0.5)
    wcs = tangent_wcs(500, 0.3, kind="CAR", at=(RA, 0.0))
    wcs.wcs.crpix = [250.5, 250.5 - DEC * 3600 / 0.3]
    wcs.wcs.set()
    cutout = cut(rendered(wcs, 500), wcs, frame)
    assert np.abs(cutout - sky(*grid(frame))).max() < 0.03


def sip_wcs(size: int) -> WCS:
    made = tangent_wcs(size, 0.3, 20).to_header()
    made["CTYPE1"], made["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    made["CRPIX1"] = made["CRPIX2"] = -1500.0
    made["CRVAL1"] = made["CRVAL1"] + 0.12
    for name in ("A", "B"):
        made[f"{name}_ORDER"] = 2
    made["A_2_0"], made["A_1_1"], made["B_0_2"] = 2e-6, 1e-6, -3e-6
    return WCS(made)


def tpv_wcs(size: int) -> WCS:
    made = tangent_wcs(size, 0.3, 20).to_header()
    made["CTYPE1"], made["CTYPE2"] = "RA---TPV", "DEC--TPV"
    made["PV1_1"], made["PV2_1"], made["PV1_4"], made["PV2_4"] = 1.0, 1.0, 2e-2, -3e-2
    return WCS(made)


@pytest.mark.parametrize("make", [sip_wcs, tpv_wcs])
def test_distorted_images_are_straightened(make: Callable[[int], WCS]) -> None:
    frame, size = Frame(60, 0.4), 400
    wcs = make(size)
    column, row = (float(part) for part in wcs.all_world2pix(RA, DEC, 0))
    if not 0 < column < size or not 0 < row < size:
        wcs.wcs.crpix += [size / 2 - column, size / 2 - row]
        if wcs.sip is not None:
            wcs.sip = Sip(wcs.sip.a, wcs.sip.b, None, None, wcs.wcs.crpix)
    cutout = cut(rendered(wcs, size), wcs, frame)
    assert np.abs(cutout - sky(*grid(frame))).max() < 0.03
    assert np.abs(centroid_px(cutout, frame) - centroid_px(sky(*grid(frame)), frame)).max() < 0.02


def test_equal_to_exact_areas_when_pixels_grow() -> None:
    frame = Frame(40, 1.0)
    wcs = tangent_wcs(300, 0.2)
    noise = np.random.default_rng(2).normal(size=(300, 300)).astype(np.float32)
    expected, _ = reproject_exact((noise, wcs), frame_wcs(frame), (40, 40))
    assert np.abs(cut(noise, wcs, frame) - expected).max() < 2e-3


def test_one_galaxy_in_three_pixel_scales_is_one_picture() -> None:
    frame, preparation = Frame(64, 0.5), Preparation(image_size=64)
    pictures = []
    for scale in (0.1, 0.262, 0.4):
        size = int(50 / scale)
        wcs = tangent_wcs(size, scale)
        cutout = cut(rendered(wcs, size), wcs, frame)
        pictures.append(to_rgb(np.stack([0.3 * cutout, 0.6 * cutout, cutout]), preparation).astype(int))
    for picture in pictures[1:]:
        assert np.abs(picture - pictures[0]).max() <= 6
        assert np.abs(picture - pictures[0]).mean() <= 1.0


def test_native_pixels_come_through_unchanged() -> None:
    native = np.random.default_rng(3).normal(size=(2, 50, 50)).astype(np.float32)
    np.testing.assert_array_equal(resample(native, Affine(9.0, 5.0, 1, 0, 0, 1), 32), native[:, 5:37, 9:41])


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("mirror", [1, -1])
def test_frames_on_native_pixels_are_copies_in_any_orientation(turn: int, mirror: int) -> None:
    native = np.random.default_rng(5).normal(size=(1, 40, 40)).astype(np.float32)
    xx, xy = [(1, 0), (0, 1), (-1, 0), (0, -1)][turn]
    steps = np.array([xx * mirror, xy, -xy * mirror, xx], dtype=float)
    near = Affine(*(20 - np.array([steps[:2].sum(), steps[2:].sum()]) * 7.5 + 0.2), *(steps + 1e-4))
    affine = near.snapped(16)
    assert affine.whole
    y, x = np.indices((16, 16))
    columns = (affine.column + affine.xx * x + affine.xy * y).astype(int)
    rows = (affine.row + affine.yx * x + affine.yy * y).astype(int)
    np.testing.assert_array_equal(resample(native, affine, 16)[0], native[0, rows, columns])
    moved = near.values[:2] + 7.5 * np.array([near.xx + near.xy, near.yx + near.yy])
    middle = affine.values[:2] + 7.5 * np.array([affine.xx + affine.xy, affine.yx + affine.yy])
    assert np.abs(middle - moved).max() <= 0.5


@pytest.mark.parametrize("affine", [Affine(10, 10, 0.9, 0, 0, 0.9), Affine(10, 12, 0.9, 0.3, -0.3, 0.9)])
def test_missing_pixels_stay_missing_and_do_not_spread(affine: Affine) -> None:
    native = np.ones((1, 60, 70), dtype=np.float32)
    native[0, :, 35:45] = np.nan
    out = resample(native, affine, 40)[0]
    truth = resample(np.isfinite(native).astype(np.float32), affine, 40)[0]
    clear = np.abs(truth - 0.5) > 1e-3
    np.testing.assert_array_equal(np.isnan(out)[clear], truth[clear] < 0.5)
    np.testing.assert_allclose(out[np.isfinite(out)], 1, rtol=1e-5)


def test_outside_is_missing() -> None:
    out = resample(np.ones((1, 30, 30), dtype=np.float32), Affine(-10, 0, 1, 0, 0, 1), 20)[0]
    assert np.isnan(out[:, :10]).all()
    assert (out[:, 10:] == 1).all()


@pytest.mark.parametrize("step", [1.7, 1.0, 0.6])
def test_both_ways_of_averaging_agree(step: float) -> None:
    native = np.random.default_rng(4).normal(size=(1, 3, 120, 130)).astype(np.float32)
    affine = Affine(*np.array([[5.3], [7.1], [step], [0], [0], [0.9 * step]]))
    np.testing.assert_allclose(_matrix_means(native, affine, 40), _two_pass_means(native, affine, 40), atol=1e-5)


def test_bright_neighbours_leave_the_sky_alone() -> None:
    native = np.full((1, 80, 80), 1e-3, dtype=np.float32)
    native[0, :, 2] = 1e6
    out = resample(native, Affine(10, 10, 0.8, 0.2, -0.2, 0.8), 50)[0]
    np.testing.assert_allclose(out[:30, 10:], 1e-3, rtol=1e-5)


def test_the_other_side_of_the_sky_has_no_map() -> None:
    wcs = tangent_wcs(100, 0.3)
    maps = affine_maps(wcs, np.array([RA, (RA + 180) % 360]), np.array([DEC, -DEC]), np.array([0.3, 0.3]), 16)
    assert maps.known.tolist() == [True, False]


def test_galactic_images_have_north_up_too() -> None:
    frame = Frame(48, 0.5)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
    centre = SkyCoord(RA, DEC, unit="deg")
    wcs.wcs.crval = [centre.galactic.l.deg, centre.galactic.b.deg]
    wcs.wcs.crpix = [150.5, 150.5]
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    wcs.wcs.set()
    rows, columns = np.indices((300, 300))
    icrs = wcs.pixel_to_world(columns, rows).icrs
    east, north = (part.to_value("arcsec") for part in centre.spherical_offsets_to(icrs))
    cutout = cut(sky(east, north).astype(np.float32), wcs, frame)
    assert np.abs(cutout - sky(*grid(frame))).max() < 0.03
