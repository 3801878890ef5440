"""Smooth profiles, and the coordinates in which they are written.

Arrays of a batch have shape (B, n, n): B galaxies, n pixels on a side, row 0 in the
south, column 0 in the east, float32. Lengths are in units of the half-light radius along
the major axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Planes = NDArray[np.float32]

CORE_PX = 12
"""Pixels on a side of the centre that steep profiles average over subpixels."""
CORE_SUBPIXELS = 6
EDGE = 6.0
"""Galaxies end here; light fades out over the last 1.5 of it."""


@dataclass(frozen=True)
class Sky:
    """Coordinates on the sky along the galaxies' axes."""

    along: Planes
    """Along the major axis, positive in direction `pa`."""
    across: Planes
    """Along the minor axis, positive to its west."""


def sky_coordinates(galaxies: NDArray[np.void], size: int, step: NDArray[np.float64]) -> Sky:
    """Coordinates of pixel centres; a galaxy sits on pixel ``size // 2``.

    Parameters
    ----------
    galaxies : structured array, shape (B,)
        Their `pa` is used.
    size : int
        Pixels on a side.
    step : float, shape (B,)
        Pixel scale, in half-light radii.
    """
    pixels = np.arange(size, dtype=np.float32) - np.float32(size // 2)
    return _rotate(pixels, galaxies["pa"], step)


def core_coordinates(galaxies: NDArray[np.void], step: NDArray[np.float64]) -> Sky:
    """Coordinates of the subpixels of the central `CORE_PX` pixels."""
    count = CORE_PX * CORE_SUBPIXELS
    pixels = (np.arange(count) + 0.5) / CORE_SUBPIXELS - CORE_PX // 2 - 0.5
    return _rotate(pixels.astype(np.float32), galaxies["pa"], step)


def _rotate(pixels: Planes, pa_deg: NDArray[np.float64], step: NDArray[np.float64]) -> Sky:
    angle = np.radians(pa_deg)
    sine = (np.sin(angle) * step).astype(np.float32)[:, None, None]
    cosine = (np.cos(angle) * step).astype(np.float32)[:, None, None]
    west, north = pixels[None, None, :], pixels[None, :, None]
    return Sky(along=north * cosine - west * sine, across=west * cosine + north * sine)


def column(values: NDArray[np.generic]) -> Planes:
    """One number per galaxy, ready to meet (B, n, n)."""
    return np.asarray(values, dtype=np.float32).reshape(-1, 1, 1)


def sersic(galaxies: NDArray[np.void], sky: Sky) -> Planes:
    """Sersic profile of the bulge, 1 at its half-light ellipse; shape (B, n, n)."""
    power = column(galaxies["bulge_power"])
    q = column(galaxies["bulge_axis_ratio"])
    if np.all(galaxies["bulge_power"] == 2.0):
        radius2 = sky.along * sky.along + (sky.across / q) ** 2
    else:
        distance = np.abs(sky.along) ** power + np.abs(sky.across / q) ** power
        radius2 = distance ** (2.0 / power)
    index = column(galaxies["bulge_n"])
    radius2 /= column(galaxies["bulge_radius"]) ** 2
    np.maximum(radius2, np.float32(1e-9), out=radius2)
    shape: Planes = np.exp(-_sersic_b(index) * (np.exp(np.log(radius2) / (2 * index)) - 1))
    return shape


def _sersic_b(index: Planes) -> Planes:
    """Ciotti and Bertin (1999), good to 1e-4 for n > 0.5."""
    value = 2 * index - 1 / 3 + 4 / (405 * index) + 46 / (25515 * index**2)
    return value.astype(np.float32, copy=False)


def with_core(planes: Planes, core: Planes) -> Planes:
    """Replace the central pixels by means over their subpixels, in place."""
    middle = planes.shape[-1] // 2
    inner = slice(middle - CORE_PX // 2, middle + CORE_PX // 2)
    blocks = core.reshape(len(core), CORE_PX, CORE_SUBPIXELS, CORE_PX, CORE_SUBPIXELS)
    planes[:, inner, inner] = blocks.mean(axis=(2, 4))
    return planes


def fade(sky: Sky) -> Planes:
    """1 inside, falling smoothly to 0 at `EDGE`."""
    radius = np.sqrt(sky.along**2 + sky.across**2)
    left = np.clip((EDGE - radius) / np.float32(1.5), 0, 1)
    smooth: Planes = left * left * (3 - 2 * left)
    return smooth


def normalised(planes: Planes) -> Planes:
    """Scale every plane to a sum of 1, in place."""
    sums = planes.reshape(len(planes), -1).sum(axis=1, dtype=np.float64)
    planes /= np.maximum(sums, 1e-20).astype(np.float32)[:, None, None]
    return planes
