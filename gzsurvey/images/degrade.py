"""Real cutouts made worse: fainter, blurred, noisier, as a telescope would have seen them.

Letters: C bands, S pixels on a side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.stats import gaussian_fwhm_to_sigma, mad_std
from numpy.typing import NDArray

Planes = NDArray[np.float32]


@dataclass(frozen=True)
class Degradation:
    """What is done to a cutout."""

    flux: float = 1.0
    """Factor of the galaxy's light."""
    psf: float = 1.0
    """Factor of the PSF's width, at least 1."""
    noise: float = 1.0
    """Factor of the sky noise, at least 1."""

    @classmethod
    def fainter(cls, magnitudes: float) -> Degradation:
        """A fainter galaxy under the same sky."""
        return cls(flux=float(10 ** (-0.4 * magnitudes)))

    @classmethod
    def smaller(cls, factor: float) -> Degradation:
        """A smaller galaxy of the same surface brightness, in a cutout that shrinks with it.

        In units of the cutout the PSF is then wider by 1 / `factor`, and a pixel, which covers
        less sky, noisier by as much.
        """
        return cls(psf=1.0 / factor, noise=1.0 / factor)

    @classmethod
    def noisier(cls, magnitudes: float) -> Degradation:
        """An image of less depth."""
        return cls(noise=float(10 ** (0.4 * magnitudes)))


def sky_noise(planes: Planes) -> NDArray[np.float64]:
    """Noise of the sky in each band, shape (C,): from the scatter in the outer eighth of a cutout (C, S, S)."""
    edge = max(planes.shape[-1] // 8, 1)
    inner = np.zeros(planes.shape[1:], dtype=bool)
    inner[edge:-edge, edge:-edge] = True
    border = planes[:, ~inner]
    return np.asarray(mad_std(border, axis=1, ignore_nan=True), dtype=np.float64)


def degrade(planes: Planes, how: Degradation, psf_px: float, seed: int) -> Planes:
    """Make a cutout worse.

    Parameters
    ----------
    planes : float32, shape (C, S, S)
        Background-subtracted flux; NaN where there is none.
    how : Degradation
        What is done.
    psf_px : float
        Width (FWHM) of the PSF in pixels of the cutout.
    seed : int
        Of the added noise.

    Returns
    -------
    float32, shape (C, S, S)
        Light times `flux`, convolved so that a Gaussian PSF becomes `psf` times as wide, with noise
        added until the sky scatters `noise` times as much as before. Blurring and dimming take
        noise away, which is put back.
    """
    from scipy.ndimage import gaussian_filter

    before = sky_noise(planes)
    extra_px = psf_px * np.sqrt(max(how.psf**2 - 1.0, 0.0)) * gaussian_fwhm_to_sigma
    known = np.isfinite(planes)
    made = np.where(known, planes, 0.0).astype(np.float64) * how.flux
    if extra_px > 0:
        made = gaussian_filter(made, (0.0, extra_px, extra_px), mode="nearest")
    left = before * how.flux * _noise_left(extra_px)
    added = np.sqrt(np.maximum((how.noise * before) ** 2 - left**2, 0.0))
    noise = np.random.default_rng(seed).standard_normal(planes.shape) * added[:, None, None]
    return np.where(known, made + noise, np.nan).astype(np.float32)


def _noise_left(sigma_px: float) -> float:
    """Share of white noise that a Gaussian filter leaves: the root of the sum of its squared weights."""
    from scipy.ndimage import gaussian_filter

    if sigma_px == 0:
        return 1.0
    side = 2 * int(np.ceil(5 * sigma_px)) + 1
    point = np.zeros((side, side))
    point[side // 2, side // 2] = 1.0
    return float(np.sqrt((gaussian_filter(point, sigma_px) ** 2).sum()))
