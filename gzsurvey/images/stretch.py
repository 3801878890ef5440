"""From surface brightness to the 8-bit colours that volunteers and models see."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gzsurvey.recipes.preparation import Preparation, Stretch

GZ_BLACK, GZ_WHITE = -0.5, 300.0
"""Flux over scale that becomes black and white in the Galaxy Zoo DECaLS look."""
GZ_COLOUR_LIMIT = 2.5
"""A pixel whose brightest plane is this many times its mean loses all colour."""
LEGACY_OFFSET, LEGACY_Q = 0.03, 20.0
"""Sky pedestal and softening of the Legacy Surveys viewer."""
LUPTON_LINEAR = 0.1
"""Fraction of `lupton_range` up to which the Lupton look is linear."""
EUCLID_WHITE, FAINT_WHITE = 99.85, 98.0
"""Percentiles of a cutout's pixels at which the looks of Galaxy Zoo Euclid turn white."""

Planes = NDArray[np.float32]


def to_rgb(flux: NDArray[np.floating], preparation: Preparation) -> NDArray[np.uint8]:
    """Picture of a flux cutout.

    Parameters
    ----------
    flux : float32, shape (C, H, W)
        Three bands, bluest first, row 0 in the south, column 0 in the east; nanomaggies per
        pixel of the stretch's reference scale. Pixels without data (NaN) count as no flux.
    preparation : Preparation
        Its stretch.

    Returns
    -------
    uint8, shape (H, W, 3)
        Row 0 in the north; the reddest band in plane R.

    Notes
    -----
    ``gz_decals``, ``legacy``, ``gz_euclid`` and ``low_surface_brightness`` are the maps of the Galaxy
    Zoo DECaLS subjects, the Legacy Surveys viewer and the Galaxy Zoo Euclid subjects; values are cut to
    whole numbers, not rounded, as all do.

    Raises
    ------
    ValueError
        There are not three bands, or the stretch makes no picture.
    """
    if flux.ndim != 3 or flux.shape[0] != 3:
        raise ValueError(f"'flux' must have shape (3, H, W), got {flux.shape}")
    stretch = preparation.stretch
    planes = np.nan_to_num(flux[::-1, ::-1].astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if stretch.kind not in LOOKS:
        raise ValueError(f"stretch {stretch.kind!r} makes no picture")
    colours = LOOKS[stretch.kind](planes, stretch)
    np.clip(colours, 0.0, 1.0, out=colours)
    return np.ascontiguousarray(np.moveaxis(colours * np.float32(255), 0, -1).astype(np.uint8))


def _scales(stretch: Stretch) -> Planes:
    return np.asarray(stretch.scales[::-1], dtype=np.float32)[:, None, None]


def _gz_decals(planes: Planes, stretch: Stretch) -> Planes:
    black, white = np.arcsinh(GZ_BLACK), np.arcsinh(GZ_WHITE)
    values = (np.arcsinh(planes / _scales(stretch)) - np.float32(black)) / np.float32(white - black)
    mean = values.mean(axis=0)
    mean[mean == 0] = 1.0
    excess = np.minimum((values / mean).max(axis=0) / np.float32(GZ_COLOUR_LIMIT), np.float32(1))
    colour = np.sin((1 - excess) * np.float32(np.pi / 2))
    grey = 1 - colour
    muted: Planes = values * colour + mean * grey + mean * grey**2 * values
    return muted


def _legacy(planes: Planes, stretch: Stretch) -> Planes:
    values = planes * _scales(stretch) + np.float32(LEGACY_OFFSET)
    intensity = np.maximum(values, 0).mean(axis=0)
    curve = np.arcsinh(np.float32(LEGACY_Q) * intensity) / np.float32(np.sqrt(LEGACY_Q))
    intensity += (intensity == 0) * np.float32(1e-6)
    bent: Planes = values * (curve / intensity)
    return bent


def _lupton(planes: Planes, stretch: Stretch) -> Planes:
    values = planes * _scales(stretch)
    intensity = values.mean(axis=0)
    dark = intensity <= 0
    intensity[dark] = 1.0
    slope = LUPTON_LINEAR / np.arcsinh(LUPTON_LINEAR * stretch.lupton_q)
    curve = np.arcsinh(intensity * np.float32(stretch.lupton_q / stretch.lupton_range)) * np.float32(slope)
    bent = np.maximum(values * np.where(dark, 0, curve / intensity), 0)
    hue_kept: Planes = bent / np.maximum(bent.max(axis=0), 1)
    return hue_kept


def _gz_euclid(planes: Planes, stretch: Stretch) -> Planes:
    bent = np.arcsinh(planes * _scales(stretch))
    for plane in bent:
        np.clip(plane, 0, np.percentile(plane, EUCLID_WHITE), out=plane)
    bent[1] = (bent[0] + bent[2]) / 2
    return _own_range(bent)


def _low_surface_brightness(planes: Planes, stretch: Stretch) -> Planes:
    def faint(flux: Planes) -> Planes:
        strength = np.abs(flux) * _scales(stretch)
        bent: Planes = np.arcsinh(np.sqrt(strength / (1 + strength)))
        return bent

    brightest = faint(planes.max(axis=(1, 2), keepdims=True))
    brightest[brightest == 0] = 1
    bent: Planes = faint(planes) / brightest
    for plane in bent:
        np.clip(plane, 0, np.percentile(plane, FAINT_WHITE), out=plane)
    return _own_range(bent)


def _own_range(planes: Planes) -> Planes:
    """Each plane by its own range, as Galaxy Zoo Euclid has it: 1 at its largest value, 0 at no flux."""
    low, high = planes.min(axis=(1, 2), keepdims=True), planes.max(axis=(1, 2), keepdims=True)
    ranged: Planes = (planes + low) / np.where(high > 0, low + high, 1)
    return ranged


def _asinh(planes: Planes, stretch: Stretch) -> Planes:
    black, white = np.arcsinh(stretch.black), np.arcsinh(stretch.white)
    values: Planes = (np.arcsinh(planes / _scales(stretch)) - np.float32(black)) / np.float32(white - black)
    return values


def _percentile(planes: Planes, stretch: Stretch) -> Planes:
    low, high = np.percentile(planes, stretch.percentiles, axis=(1, 2), keepdims=True).astype(np.float32)
    values: Planes = (planes - low) / np.where(high > low, high - low, 1)
    return values


LOOKS: dict[str, Callable[[Planes, Stretch], Planes]] = {
    "gz_decals": _gz_decals,
    "legacy": _legacy,
    "lupton": _lupton,
    "gz_euclid": _gz_euclid,
    "low_surface_brightness": _low_surface_brightness,
    "asinh": _asinh,
    "percentile": _percentile,
}
"""From planes R, G, B of flux to values of which 0 is black and 1 white, by kind."""
