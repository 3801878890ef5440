"""A small simulated sky with galaxies, for services that show it."""

from __future__ import annotations

import numpy as np
from loopback import Sky, tan_wcs

RA, DEC, SCALE, SIDE = 150.0, 2.0, 0.262, 600
GALAXIES = ((300.0, 300.0), (180.5, 420.25), (430.0, 205.0), (120.0, 110.0))
"""Zero-based columns and rows of the mosaic."""


def simulated_sky(seed: int = 1) -> Sky:
    """Elliptical galaxies whose axes and brightness differ by band, on faint noise; nanomaggies per pixel."""
    rows, columns = np.indices((SIDE, SIDE), dtype=np.float32)
    planes = {}
    for number, band in enumerate("grz"):
        plane = np.random.default_rng([seed, number]).normal(0, 0.002, (SIDE, SIDE))
        for place, (x, y) in enumerate(GALAXIES):
            along = (columns - x) * np.cos(place + 0.5) + (rows - y) * np.sin(place + 0.5)
            across = (rows - y) * np.cos(place + 0.5) - (columns - x) * np.sin(place + 0.5)
            plane += (0.4 + 0.3 * number) * np.exp(-0.5 * ((along / 9) ** 2 + (across / 4.5) ** 2))
        planes[band] = plane.astype(np.float32)
    return Sky(planes, tan_wcs(RA, DEC, SCALE, SIDE))


def position(column: float, row: float) -> tuple[float, float]:
    """Degrees of a pixel of the sky."""
    ra, dec = tan_wcs(RA, DEC, SCALE, SIDE).all_pix2world(column, row, 0)
    return float(ra), float(dec)
