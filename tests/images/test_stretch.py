"""Looks are those that volunteers saw: checked against plain loops in float64, on real galaxies."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.visualization import make_lupton_rgb
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gzsurvey.images.prepare import prepare_cutout, shown
from gzsurvey.images.stretch import LOOKS, to_rgb
from gzsurvey.recipes.preparation import STRETCH_SCALES, Preparation, Stretch

GALAXIES = [
    "0.0043_+0.5414", "0.0135_-1.1131", "0.0940_-0.9885", "146.7142_-1.0413", "147.1764_-0.3540", "359.9950_+0.7018",
]  # fmt: skip


def preparation(kind: str) -> Preparation:
    return Preparation.model_validate({"image_size": 64, "stretch": {"kind": kind}})


def plain_gz_decals(g: float, r: float, z: float) -> tuple[float, float, float]:
    black, white = math.asinh(-0.5), math.asinh(300)
    red, green, blue = ((math.asinh(v) - black) / (white - black) for v in (z / 0.019, r / 0.014, g / 0.008))
    mean = (red + green + blue) / 3 or 1.0
    strongest = min(1.0, max(v / mean / 2.5 for v in (red, green, blue)))
    weight = math.sin((1 - strongest) * math.pi / 2)
    muted = [v * weight + mean * (1 - weight) + mean * (1 - weight) ** 2 * v for v in (red, green, blue)]
    return tuple(255 * min(1.0, max(0.0, v)) for v in muted)  # type: ignore[return-value]


def plain_legacy(g: float, r: float, z: float) -> tuple[float, float, float]:
    red, green, blue = (v * scale + 0.03 for v, scale in ((z, 2.2), (r, 3.4), (g, 6.0)))
    intensity = (max(0, red) + max(0, green) + max(0, blue)) / 3
    bent = math.asinh(20 * intensity) / math.sqrt(20)
    if intensity == 0:
        intensity = 1e-6
    return tuple(255 * min(1.0, max(0.0, v * bent / intensity)) for v in (red, green, blue))  # type: ignore[return-value]


@pytest.mark.parametrize("name", GALAXIES)
@pytest.mark.parametrize(("kind", "plain"), [("gz_decals", plain_gz_decals), ("legacy", plain_legacy)])
def test_looks_on_real_galaxies(shared_data: Path, name: str, kind: str, plain: object) -> None:
    flux = fits.getdata(shared_data / "decals_fits_cutouts" / f"decals_{name}.fits.gz")[:, ::7, ::7].astype(np.float32)
    expected = np.array([[plain(*pixel) for pixel in row] for row in np.moveaxis(flux.astype(float), 0, -1)])  # type: ignore[operator]
    expected = expected[::-1]
    got = to_rgb(flux, preparation(kind))
    certain = np.abs(expected - np.round(expected)) > 1e-2
    np.testing.assert_array_equal(got[certain], np.floor(expected[certain]).astype(np.uint8))
    assert np.abs(got - expected).max() <= 1.01
    assert certain.mean() > 0.8


def test_lupton_is_the_one_of_astropy(shared_data: Path) -> None:
    flux = fits.getdata(shared_data / "decals_fits_cutouts" / "decals_359.9950_+0.7018.fits.gz").astype(np.float32)
    stretch = Stretch(kind="lupton", scales=(1, 1, 1), lupton_q=8, lupton_range=0.5)
    got = to_rgb(flux, Preparation(image_size=64, stretch=stretch))
    expected = make_lupton_rgb(flux[2], flux[1], flux[0], stretch=0.5, Q=8)[::-1]
    assert np.abs(got.astype(int) - expected).max() <= 1


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    place = share / 100 * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def own_range(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [255 * (v + low) / (low + high) if high > 0 else 0.0 for v in values]


def plain_gz_euclid(vis: list[float], _: list[float], y: list[float]) -> list[list[float]]:
    bent = []
    for flux, strength in ((y, 200.0), (vis, 691.8)):
        values = [math.asinh(v * strength) for v in flux]
        white = percentile(values, 99.85)
        bent.append([min(max(v, 0.0), white) for v in values])
    mean = [(a + b) / 2 for a, b in zip(*bent, strict=True)]
    return [own_range(plane) for plane in (bent[0], mean, bent[1])]


def plain_low_surface_brightness(*bands: list[float]) -> list[list[float]]:
    def faint(flux: float) -> float:
        strength = 138.4 * abs(flux)
        return math.asinh(math.sqrt(strength / (1 + strength)))

    planes = []
    for flux in reversed(bands):
        values = [faint(v) / faint(max(flux)) for v in flux]
        white = percentile(values, 98)
        planes.append(own_range([min(v, white) for v in values]))
    return planes


def plain_asinh(*bands: list[float]) -> list[list[float]]:
    black, white = math.asinh(-0.5), math.asinh(300)
    scaled = zip(reversed(bands), (0.019, 0.014, 0.008), strict=True)
    return [[255 * (math.asinh(v / scale) - black) / (white - black) for v in flux] for flux, scale in scaled]


def plain_percentile(*bands: list[float]) -> list[list[float]]:
    planes = []
    for flux in reversed(bands):
        low, high = percentile(flux, 0.5), percentile(flux, 99.5)
        planes.append([255 * (v - low) / (high - low) for v in flux])
    return planes


@pytest.mark.parametrize("name", [*GALAXIES[:2], "noise"])
@pytest.mark.parametrize(
    ("kind", "plain"),
    [("gz_euclid", plain_gz_euclid), ("low_surface_brightness", plain_low_surface_brightness),
     ("asinh", plain_asinh), ("percentile", plain_percentile)],
)  # fmt: skip
def test_looks_of_whole_cutouts(request: pytest.FixtureRequest, name: str, kind: str, plain: object) -> None:
    if name == "noise":
        flux = np.random.default_rng(7).normal(0.01, 0.03, (3, 40, 40)).astype(np.float32)
    else:
        folder = request.getfixturevalue("shared_data") / "decals_fits_cutouts"
        flux = fits.getdata(folder / f"decals_{name}.fits.gz")[:, ::7, ::7].astype(np.float32)
    planes = plain(*(band.astype(float).ravel().tolist() for band in flux))  # type: ignore[operator]
    expected = np.clip(np.moveaxis(np.reshape(planes, flux.shape)[:, ::-1], 0, -1), 0, 255)
    got = to_rgb(flux, preparation(kind))
    certain = np.abs(expected - np.round(expected)) > 1e-2
    np.testing.assert_array_equal(got[certain], np.floor(expected[certain]).astype(np.uint8))
    assert np.abs(got - expected).max() <= 1.01
    assert certain.mean() > 0.3


def test_vis_alone_is_grey() -> None:
    flux = np.repeat(np.random.default_rng(1).normal(0, 0.1, (1, 20, 20)).astype(np.float32), 3, axis=0)
    stretch = Stretch(kind="gz_euclid", scales=(691.8,) * 3)
    picture = to_rgb(flux, Preparation(image_size=20, bands=("VIS", "VIS", "VIS"), stretch=stretch))
    np.testing.assert_array_equal(picture[..., 0], picture[..., 2])
    np.testing.assert_array_equal(picture[..., 1], picture[..., 2])
    assert picture.max() == 255


def test_looks_with_a_range_of_their_own_say_so() -> None:
    for kind in LOOKS:
        doubled, once = np.full((3, 9, 9), 0.1, dtype=np.float32), np.full((3, 9, 9), 0.05, dtype=np.float32)
        for flux in (doubled, once):
            flux[:, 4, 4] *= 3
        same = np.array_equal(to_rgb(doubled, preparation(kind)), to_rgb(once, preparation(kind)))
        warned = "not comparable between galaxies" in " ".join(preparation(kind).warnings)
        assert warned or not same
    assert [kind for kind in STRETCH_SCALES if preparation(kind).warnings] == [
        "gz_euclid", "low_surface_brightness", "percentile",
    ]  # fmt: skip


def test_flux_stays_flux() -> None:
    flux = np.random.default_rng(2).normal(0, 0.1, (3, 16, 16)).astype(np.float32)
    flux[1, 2, 3] = np.nan
    kept = Preparation(image_size=16, stretch=Stretch(kind="flux"))
    cube = prepare_cutout(flux, kept)
    assert cube.dtype == np.float32
    np.testing.assert_array_equal(np.moveaxis(cube, -1, 0)[:, ::-1], np.nan_to_num(flux))
    np.testing.assert_array_equal(shown(cube, kept), to_rgb(flux, Preparation(image_size=16)))
    with pytest.raises(ValueError, match="needs float pixels"):
        prepare_cutout(np.zeros((16, 16, 3), dtype=np.uint8), kept)


@pytest.mark.parametrize("kind", LOOKS)
def test_north_is_on_top_and_the_reddest_band_is_red(kind: str) -> None:
    flux = np.zeros((3, 20, 20), dtype=np.float32)
    flux[2, 17:20, 2:5] = 0.05
    picture = to_rgb(flux, preparation(kind)).astype(int) - to_rgb(np.zeros_like(flux), preparation(kind))
    assert np.argwhere(picture.max(axis=2) == picture.max()).mean(axis=0).tolist() == [1, 3]
    assert picture.argmax() % 3 == 0


@pytest.mark.parametrize("kind", LOOKS)
@settings(max_examples=25, deadline=None)
@given(st.floats(-1e6, 1e6, width=32), st.integers(0, 2**31))
def test_any_flux_gives_a_picture(kind: str, level: float, seed: int) -> None:
    flux = np.random.default_rng(seed).normal(level, 1, (3, 9, 9)).astype(np.float32)
    flux[0, 0] = np.nan
    flux[1, 1] = np.inf
    picture = to_rgb(flux, preparation(kind))
    assert picture.shape == (9, 9, 3)
    assert picture.dtype == np.uint8


def test_missing_pixels_count_as_no_flux() -> None:
    flux: NDArray[np.float32] = np.full((3, 9, 9), np.nan, dtype=np.float32)
    np.testing.assert_array_equal(
        to_rgb(flux, preparation("gz_decals")), to_rgb(np.zeros_like(flux), preparation("gz_decals"))
    )


def test_other_than_three_bands_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, H, W\)"):
        to_rgb(np.zeros((2, 8, 8), dtype=np.float32), preparation("legacy"))


def test_each_look_has_its_scales() -> None:
    assert Stretch(kind="legacy").scales == (6.0, 3.4, 2.2)
    assert Stretch().scales == (0.008, 0.014, 0.019)
    assert Stretch.model_validate_json(Stretch(kind="legacy", scales=(1, 2, 3)).model_dump_json()).scales == (1, 2, 3)
    with pytest.raises(ValueError, match="above 0"):
        Stretch(scales=(0, 1, 1))
