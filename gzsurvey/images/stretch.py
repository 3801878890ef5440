"""From surface brightness to the 8-bit colours that volunteers and models see."""

from __future__ import annotations

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
    ``gz_decals`` and ``legacy`` are the maps of the Galaxy Zoo DECaLS subjects and of the
    Legacy Surveys viewer; values are cut to whole numbers, not rounded, as both do.
    """
    if flux.ndim != 3 or flux.shape[0] != 3:
        raise ValueError(f"'flux' must have shape (3, H, W), got {flux.shape}")
    stretch = preparation.stretch
    planes = np.nan_to_num(flux[::-1, ::-1].astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    look = {"gz_decals": _gz_decals, "legacy": _legacy, "lupton": _lupton}[stretch.kind]
    colours = look(planes, stretch)
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
