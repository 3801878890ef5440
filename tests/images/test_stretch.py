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

from gzsurvey.images.stretch import to_rgb
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


@pytest.mark.parametrize("kind", STRETCH_SCALES)
def test_north_is_on_top_and_the_reddest_band_is_red(kind: str) -> None:
    flux = np.zeros((3, 20, 20), dtype=np.float32)
    flux[2, 18, 3] = 0.05
    picture = to_rgb(flux, preparation(kind)).astype(int) - to_rgb(np.zeros_like(flux), preparation(kind))
    row, column, plane = np.unravel_index(picture.argmax(), picture.shape)
    assert (row, column, plane) == (1, 3, 0)


@pytest.mark.parametrize("kind", STRETCH_SCALES)
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
