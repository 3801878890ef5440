"""What lies around the galaxies: stars, faint galaxies, noise, and what goes wrong.

Positions are columns and rows of a canvas (3, H, W) in nanomaggies per native pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gzsurvey.recipes.simulation import Region
from gzsurvey.simulation.profiles import Planes, column
from gzsurvey.simulation.render import place, psfs

SOURCE = np.dtype(
    [
        ("column", "f8"),
        ("row", "f8"),
        ("mag_r", "f8"),
        ("g_r", "f8"),
        ("r_z", "f8"),
        ("size", "f8"),  # arcsec FWHM before the PSF; 0: a star
        ("axis_ratio", "f8"),
        ("pa", "f8"),
    ]
)
GALAXIES_PER_ARCMIN2 = 17.0
"""Faint galaxies between r = 18.5 and `FAINTEST`."""
STARS_PER_ARCMIN2 = 2.0
"""Stars between r = 12 and `FAINTEST`, at high Galactic latitude."""
BRIGHTEST_GALAXY, BRIGHTEST_STAR, FAINTEST = 18.5, 12.0, 23.6
SATURATION_MAG_ARCSEC2 = 14.6
"""Surface brightness at which a pixel is full."""
_HALF_WIDTHS = np.array([6, 8, 11, 15, 20, 28, 40, 56, 80, 112, 160, 220, 290])
"""Half-widths of the windows in which sources are painted, pixels."""
BRIGHT_STAR = 1
"""Mask bit: light of a bright star."""
SATURATED = 2
"""Mask bit: a full pixel, or a bleed trail."""
ARTEFACT = 4
"""Mask bit: satellite trail or cosmic ray."""


@dataclass(frozen=True)
class Conditions:
    """Noise of a region's native pixels, in nanomaggies."""

    sky: NDArray[np.float32]
    """Standard deviation of the sky per pixel, shape (3,)."""
    gain: NDArray[np.float32]
    """Photons per nanomaggy, shape (3,)."""

    @classmethod
    def of(cls, region: Region) -> Conditions:
        """Noise that gives the region its 5 sigma point-source depth."""
        limit = 10 ** (-0.4 * (np.asarray(region.depth_mag) - 22.5)) / 5.0
        area = np.asarray([psf.noise_area_arcsec2() for psf in psfs(region)])
        sky = limit * region.pixel_scale_arcsec / np.sqrt(area)
        return cls(sky.astype(np.float32), np.asarray(region.gain, dtype=np.float32))

    def add_noise(self, canvas: Planes, normal: Planes) -> None:
        """Add sky and photon noise in place; `normal` holds unit deviates, shape (3, H, W)."""
        for plane, unit, sky, gain in zip(canvas, normal, self.sky, self.gain, strict=True):
            spread = np.maximum(plane, 0)
            spread /= gain
            spread += sky * sky
            np.sqrt(spread, out=spread)
            spread *= unit
            plane += spread


def sources(rng: np.random.Generator, height: int, width: int, scale_arcsec: float) -> NDArray[np.void]:
    """Draw the stars and faint galaxies of an area.

    Parameters
    ----------
    rng : numpy.random.Generator
        Of this area.
    height, width : int
        Native pixels.
    scale_arcsec : float
        Pixel scale.

    Returns
    -------
    structured array of dtype `SOURCE`
    """
    area = height * width * (scale_arcsec / 60.0) ** 2
    clustering = rng.gamma(3.0, 1 / 3.0)
    galaxies = rng.poisson(GALAXIES_PER_ARCMIN2 * area * clustering)
    stars = rng.poisson(STARS_PER_ARCMIN2 * area)
    rows = np.zeros(galaxies + stars, dtype=SOURCE)
    rows["column"] = rng.uniform(-0.5, width - 0.5, len(rows))
    rows["row"] = rng.uniform(-0.5, height - 0.5, len(rows))
    _faint_galaxies(rows[:galaxies], rng)
    _stars(rows[galaxies:], rng)
    return rows


def _power_law(rng: np.random.Generator, count: int, slope: float, brightest: float) -> NDArray[np.float64]:
    """Magnitudes whose counts grow as ``10 ** (slope m)`` up to `FAINTEST`."""
    low, high = 10 ** (slope * brightest), 10 ** (slope * FAINTEST)
    magnitudes: NDArray[np.float64] = np.log10(rng.uniform(low, high, count)) / slope
    return magnitudes


def _faint_galaxies(rows: NDArray[np.void], rng: np.random.Generator) -> None:
    count = len(rows)
    rows["mag_r"] = _power_law(rng, count, 0.34, BRIGHTEST_GALAXY)
    red = rng.random(count) < 0.45
    rows["g_r"] = np.where(red, rng.normal(1.25, 0.3, count), rng.normal(0.5, 0.25, count))
    rows["r_z"] = np.where(red, rng.normal(0.95, 0.2, count), rng.normal(0.4, 0.25, count))
    rows["size"] = rng.lognormal(np.log(1.0), 0.45, count) * 10 ** (-0.10 * (rows["mag_r"] - 21.5))
    rows["axis_ratio"] = rng.uniform(0.25, 1.0, count)
    rows["pa"] = rng.uniform(0, 180, count)


def _stars(rows: NDArray[np.void], rng: np.random.Generator) -> None:
    count = len(rows)
    rows["mag_r"] = _power_law(rng, count, 0.17, BRIGHTEST_STAR)
    faint = np.clip((rows["mag_r"] - 14.0) / 8.0, 0, 1)
    locus = np.clip(rng.normal(0.55 + 0.75 * faint, 0.35), 0.15, 1.5)
    rows["g_r"] = locus
    rows["r_z"] = np.where(locus < 1.25, 0.55 * locus, 0.7 + 4.0 * (locus - 1.25)) + rng.normal(0, 0.04, count)
    rows["axis_ratio"] = 1.0


def fluxes(rows: NDArray[np.void]) -> NDArray[np.float64]:
    """Nanomaggies in g, r, z; shape (N, 3)."""
    in_r = 10 ** (-0.4 * (rows["mag_r"] - 22.5))
    return np.stack([in_r * 10 ** (-0.4 * rows["g_r"]), in_r, in_r * 10 ** (0.4 * rows["r_z"])], axis=-1)


def paint(canvas: Planes, rows: NDArray[np.void], region: Region) -> None:
    """Add sources to `canvas` (3, H, W) in place.

    Faint galaxies are Moffat profiles whose widths are added to the PSF's in quadrature:
    no more is seen of them.
    """
    scale = region.pixel_scale_arcsec
    fwhm = np.sqrt(np.asarray(region.psf_fwhm_arcsec) ** 2 + 0.5 * scale**2) / scale
    extent = np.hypot(fwhm.max(), rows["size"] / scale)
    needed = extent * (2.6 + 2.4 * np.maximum(0.0, 21.5 - rows["mag_r"]))
    rungs = np.minimum(np.searchsorted(_HALF_WIDTHS, needed), len(_HALF_WIDTHS) - 1)
    for rung in np.unique(rungs):
        half = int(_HALF_WIDTHS[rung])
        own = rows[(rungs == rung) & _touches(canvas, rows, half)]
        together = max(1, 20_000 // (2 * half + 1) ** 2)
        for start in range(0, len(own), together):
            _paint_windows(canvas, own[start : start + together], fwhm, region, half)


def _touches(canvas: Planes, rows: NDArray[np.void], half: int) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (rows["row"] > -half - 1) & (rows["row"] < canvas.shape[1] + half)
    inside &= (rows["column"] > -half - 1) & (rows["column"] < canvas.shape[2] + half)
    return inside


def _paint_windows(
    canvas: Planes, rows: NDArray[np.void], fwhm_px: NDArray[np.float64], region: Region, half: int
) -> None:
    """Add sources whose windows are `half` pixels to each side."""
    flux, beta = fluxes(rows), region.psf_beta
    whole = np.floor(np.stack([rows["row"], rows["column"]]) + 0.5)
    # Offsets are taken in double precision, so that two tiles see a source alike.
    north, west = (np.arange(-half, half + 1) + (whole - [rows["row"], rows["column"]])[:, :, None]).astype(np.float32)
    north, west = north[:, :, None], west[:, None, :]
    angle = np.radians(rows["pa"])
    sine, cosine = column(np.sin(angle)), column(np.cos(angle))
    along2, across2 = (north * cosine - west * sine) ** 2, (west * cosine + north * sine) ** 2
    size = rows["size"] / region.pixel_scale_arcsec
    factor = 2.0 * np.sqrt(2.0 ** (1.0 / beta) - 1.0)
    windows = np.empty((len(rows), 3, 2 * half + 1, 2 * half + 1), dtype=np.float32)
    for band in range(3):
        major, minor = np.hypot(fwhm_px[band], size), np.hypot(fwhm_px[band], size * rows["axis_ratio"])
        peak = column(flux[:, band] * (beta - 1.0) * factor**2 / (np.pi * major * minor))
        radius2 = along2 * column((factor / major) ** 2) + across2 * column((factor / minor) ** 2)
        windows[:, band] = peak * np.exp(np.float32(-beta) * np.log1p(radius2))
    for window, row, line in zip(windows, whole[0].astype(int), whole[1].astype(int), strict=True):
        place(canvas, window, (int(line), int(row)))
