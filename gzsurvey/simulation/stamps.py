"""Training pictures: a galaxy and its surroundings, made by the functions that a survey uses."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from gzsurvey.images.affine import Affine
from gzsurvey.images.frame import Frame, field_of_view
from gzsurvey.images.prepare import frame_of, prepare_cutout
from gzsurvey.images.resample import resample
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.simulation import Region
from gzsurvey.simulation.draw import Galaxies
from gzsurvey.simulation.field import Conditions, paint, sources
from gzsurvey.simulation.profiles import Planes
from gzsurvey.simulation.render import Image, place, render


def stamps(galaxies: Galaxies, region: Region, preparation: Preparation) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Take the picture of each galaxy.

    Parameters
    ----------
    galaxies : structured array of dtype `population.GALAXY`, shape (N,)
        Each has a sky of its own, from its own seed.
    region : Region
        The camera.
    preparation : Preparation
        Frame and stretch.

    Yields
    ------
    int, uint8 array of shape (S, S, 3)
        Row of `galaxies`, and its picture with row 0 in the north.
    """
    conditions = Conditions.of(region)
    fields = field_of_view(preparation.scale_rule, galaxies["r50"])
    shifts = np.stack([_rng(galaxy, 4).uniform(-0.5, 0.5, 2) for galaxy in galaxies])
    for row, image in render(galaxies, region, shifts):
        frame = frame_of(preparation, float(fields[row]))
        native, centre = surroundings(galaxies[row], image, frame, region, conditions)
        yield row, prepare_cutout(on_frame(native, centre, frame, region, preparation), preparation)


def surroundings(
    galaxy: np.void, image: Image, frame: Frame, region: Region, conditions: Conditions
) -> tuple[Planes, tuple[float, float]]:
    """Native pixels around a galaxy, with neighbours and noise.

    Returns
    -------
    float32, shape (3, H, W)
        Nanomaggies per native pixel.
    (float, float)
        Column and row of the galaxy.
    """
    rng = _rng(galaxy, 5)
    side = 2 * int(np.ceil(frame.fov_arcsec / region.pixel_scale_arcsec / 2 + 2)) + 1
    canvas = np.zeros((3, side, side), dtype=np.float32)
    middle = side // 2
    place(canvas, image.planes, (middle, middle))
    half = image.planes.shape[-1] // 2
    paint(canvas, sources(rng, side, side, region.pixel_scale_arcsec), region)
    conditions.add_noise(canvas, rng.standard_normal(canvas.shape, dtype=np.float32))
    return canvas, (middle + image.centre[0] - half, middle + image.centre[1] - half)


def on_frame(
    native: Planes, centre: tuple[float, float], frame: Frame, region: Region, preparation: Preparation
) -> Planes:
    """Resample native pixels (3, H, W) to a frame, in the unit of the stretch; (3, S, S)."""
    step = frame.scale_arcsec / region.pixel_scale_arcsec
    start = (frame.size_px - 1) / 2 * step
    affine = Affine(centre[0] - start, centre[1] - start, step, 0.0, 0.0, step)
    native_pixels = (preparation.stretch.unit_arcsec(frame.scale_arcsec) / region.pixel_scale_arcsec) ** 2
    return resample(native, affine, frame.size_px) * np.float32(native_pixels)


def encode(picture: NDArray[np.uint8]) -> bytes:
    """Return a picture as PNG, which keeps every pixel."""
    buffer = io.BytesIO()
    PillowImage.fromarray(picture).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _rng(galaxy: np.void, purpose: int) -> np.random.Generator:
    return np.random.default_rng([int(galaxy["texture_seed"]), purpose])
