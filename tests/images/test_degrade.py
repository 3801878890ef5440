from __future__ import annotations

import numpy as np
import pytest

from gzsurvey.images.degrade import Degradation, degrade, sky_noise

SIDE, PSF_PX = 129, 5.0
SIGMA = PSF_PX / 2.354820045


def star(flux: float = 1000.0, noise: float = 0.1, seed: int = 1) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    light = flux * np.exp(-(x**2 + y**2) / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)
    noisy = light + np.random.default_rng(seed).normal(0, noise, (3, SIDE, SIDE)) * np.array([1, 2, 3])[:, None, None]
    return noisy.astype(np.float32)


def width_px(plane: np.ndarray) -> float:
    """FWHM from the second moment of the middle."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    near = np.hypot(x, y) < 30
    weight = plane * near
    return float(2.354820045 * np.sqrt((weight * (x**2 + y**2)).sum() / weight.sum() / 2))


def test_sky_noise_is_that_of_each_band() -> None:
    np.testing.assert_allclose(sky_noise(star()), [0.1, 0.2, 0.3], rtol=0.1)


def test_nothing_is_nothing() -> None:
    planes = star()
    np.testing.assert_array_equal(degrade(planes, Degradation(), PSF_PX, 1), planes)


def test_fainter_keeps_the_sky() -> None:
    made = degrade(star(), Degradation.fainter(2.5), PSF_PX, 2)
    assert made[0].sum() == pytest.approx(100, abs=5 * 0.1 * SIDE)
    np.testing.assert_allclose(made[:, :20].std(axis=(1, 2)), [0.1, 0.2, 0.3], rtol=0.08)


def test_blurred_is_wider_with_the_same_light_and_sky() -> None:
    planes = star(noise=1e-4)
    made = degrade(planes, Degradation(psf=2.0), PSF_PX, 3)
    assert width_px(made[0]) == pytest.approx(2 * PSF_PX, rel=0.02)
    assert made[0].sum() == pytest.approx(planes[0].sum(), rel=0.01)
    noisy = degrade(star(flux=0.0), Degradation(psf=2.0), PSF_PX, 3)
    np.testing.assert_allclose(noisy.std(axis=(1, 2)), [0.1, 0.2, 0.3], rtol=0.08)


def test_noisier_has_less_depth() -> None:
    made = degrade(star(flux=0.0), Degradation.noisier(1.0), PSF_PX, 4)
    np.testing.assert_allclose(made.std(axis=(1, 2)), 10**0.4 * np.array([0.1, 0.2, 0.3]), rtol=0.08)


def test_smaller_is_wider_and_noisier_in_units_of_the_cutout() -> None:
    assert Degradation.smaller(0.5) == Degradation(psf=2.0, noise=2.0)


def test_missing_pixels_stay_missing() -> None:
    planes = star()
    planes[1, :40] = np.nan
    made = degrade(planes, Degradation(psf=2.0, noise=2.0), PSF_PX, 5)
    assert (np.isnan(made) == np.isnan(planes)).all()
