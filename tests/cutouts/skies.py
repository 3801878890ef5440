"""A small simulated sky with galaxies, for services that show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from loopback import Sky, tan_wcs
from numpy.typing import NDArray
from reproject import reproject_interp
from reproject.hips import reproject_to_hips

from gzsurvey.cutouts.source import Cutout, CutoutSource, Miss, Request
from gzsurvey.images.frame import Frame

RA, DEC, SCALE, SIDE = 150.0, 2.0, 0.262, 600
GALAXIES = ((300.0, 300.0), (180.5, 420.25), (430.0, 205.0), (120.0, 110.0))
"""Zero-based columns and rows of the mosaic."""
PART = slice(170, 430)
"""Rows and columns of the sky that are made into a HiPS."""


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


def ask(column: float, row: float, number: int = 0, scale: float = SCALE, size: int = 48) -> Request:
    """The cutout around one pixel of the sky."""
    return Request(number, f"t{number}", *position(column, row), Frame(size, scale))


def get(source: CutoutSource, request: Request) -> Cutout | Miss:
    """What a source answers to one request."""
    ((_, answer),) = source.fetch([request])
    return answer


def write_hips(folder: Path, frame: str = "equatorial", bands: str = "r", tile_px: int = 128, order: int = 13) -> Sky:
    """Tiles of a part of the simulated sky, by reproject, in folders named after bands."""
    sky = simulated_sky()
    wcs = sky.wcs.deepcopy()
    wcs.wcs.crpix -= PART.start
    folder.mkdir(parents=True, exist_ok=True)
    for band in bands:
        reproject_to_hips(
            (sky.planes[band][PART, PART], wcs), coord_system_out=frame, reproject_function=reproject_interp,
            output_directory=str(folder / band), level=order, tile_size=tile_px,
            properties={"s_pixel_scale": SCALE / 3600},
        )  # fmt: skip
    return sky


def moments(plane: NDArray[np.float32]) -> tuple[float, ...]:
    """Flux, centroid and second moments of the light above the noise."""
    light = np.where(plane > 0.05, plane, 0.0)
    rows, columns = np.indices(plane.shape)
    x, y = (light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()
    shape = [(light * a * b).sum() / light.sum() for a, b in
             ((columns - x, columns - x), (rows - y, rows - y), (columns - x, rows - y))]  # fmt: skip
    return float(light.sum()), float(x), float(y), *map(float, shape)


def assert_same_galaxy(plane: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    found, true = moments(plane), moments(expected)
    assert found[0] == pytest.approx(true[0], rel=0.02)
    assert found[1:3] == pytest.approx(true[1:3], abs=0.05)
    assert found[3:] == pytest.approx(true[3:], rel=0.06, abs=0.6)
