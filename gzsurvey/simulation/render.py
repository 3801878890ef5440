"""Galaxies through the atmosphere onto a detector: convolution by FFT, then native pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, sparse

from gzsurvey.recipes.simulation import Region
from gzsurvey.simulation.draw import BATCH, Galaxies, draw
from gzsurvey.simulation.population import companion
from gzsurvey.simulation.profiles import EDGE, Planes
from gzsurvey.simulation.psf import Moffat, transfer_grid

SMALL, LARGE = 128, 256
"""Pixels on a side of the drawing grids."""
COARSEST_ARCSEC = 0.42
"""Largest step of a drawing grid: still two and a half per PSF width."""
_LADDER = 8
"""Steps come in this many sizes per factor of 2, so that transfer functions are reused."""
_KERNEL = 4
"""Half-width of the Lanczos kernel between drawing grid and native pixels."""


@dataclass(frozen=True)
class Image:
    """One galaxy on native pixels."""

    planes: Planes
    """float32, shape (3, m, m), nanomaggies per native pixel in g, r, z, without noise."""
    centre: tuple[float, float]
    """Where the galaxy sits: column, row of `planes`, zero-based."""


def psfs(region: Region) -> tuple[Moffat, Moffat, Moffat]:
    """Point spread functions of a region, in g, r, z."""
    g, r, z = region.psf_fwhm_arcsec
    beta = region.psf_beta
    return Moffat(g, beta), Moffat(r, beta), Moffat(z, beta)


def grid_of(r_major_arcsec: float) -> tuple[int, float]:
    """Pixels on a side and step in arcsec of the grid on which a galaxy is drawn."""
    for size in (SMALL, LARGE):
        needed = 2 * EDGE * r_major_arcsec / (size - 4)
        step = float(2.0 ** (np.ceil(_LADDER * np.log2(needed)) / _LADDER))
        if step <= COARSEST_ARCSEC:
            return size, step
    return LARGE, step


def render(galaxies: Galaxies, region: Region, shifts: NDArray[np.float64]) -> Iterator[tuple[int, Image]]:
    """Draw galaxies as a region's camera sees them.

    Parameters
    ----------
    galaxies : structured array of dtype `population.GALAXY`, shape (N,)
        Companions are drawn with their galaxies.
    region : Region
        PSF and pixel scale.
    shifts : float, shape (N, 2)
        Offset of each galaxy from the centre of its central pixel, in native pixels
        (columns, rows), within half a pixel.

    Yields
    ------
    int, Image
        Row of `galaxies`, and its picture.
    """
    grids = [grid_of(float(r)) for r in galaxies["r_major"]]
    for size in (SMALL, LARGE):
        rows = [i for i, grid in enumerate(grids) if grid[0] == size]
        for start in range(0, len(rows), BATCH):
            batch = np.asarray(rows[start : start + BATCH])
            steps = np.asarray([grids[i][1] for i in batch])
            drawn = draw(galaxies[batch], size, steps)
            for planes, row, step in zip(drawn, batch, steps, strict=True):
                image = _observe(planes, float(step), region, shifts[row])
                if galaxies["companion_ratio"][row] > 0:
                    image = _with_companion(image, galaxies[row], region)
                yield int(row), image


def _observe(planes: Planes, step: float, region: Region, shift: NDArray[np.float64]) -> Image:
    size = planes.shape[-1]
    pixel = region.pixel_scale_arcsec
    spectrum = fft.rfft2(planes, workers=1)
    for band, psf in enumerate(psfs(region)):
        spectrum[band] *= transfer_grid(psf, size, step, pixel)
    spectrum *= _shift_phase(size, shift * pixel / step)
    seen = fft.irfft2(spectrum, s=(size, size), workers=1)
    native = _to_native(seen, step, pixel)
    middle = native.shape[-1] // 2
    return Image(native, (middle + float(shift[0]), middle + float(shift[1])))


def _shift_phase(size: int, shift_px: NDArray[np.float64]) -> NDArray[np.complex64]:
    """Fourier factors that move a grid's content by `shift_px` columns and rows."""
    columns = np.exp(-2j * np.pi * np.fft.rfftfreq(size) * shift_px[0])
    rows = np.exp(-2j * np.pi * np.fft.fftfreq(size) * shift_px[1])
    phase: NDArray[np.complex64] = (rows[:, None] * columns[None, :]).astype(np.complex64)
    return phase


def _to_native(seen: Planes, step: float, pixel: float) -> Planes:
    """Interpolate (3, n, n) at `step` to native pixels, keeping flux; shape (3, m, m)."""
    size = seen.shape[-1]
    matrix = _interpolation(size, step, pixel)
    m = matrix.shape[0]
    along_rows = matrix @ np.ascontiguousarray(seen.transpose(1, 0, 2)).reshape(size, 3 * size)
    turned = np.ascontiguousarray(along_rows.reshape(m, 3, size).transpose(2, 1, 0)).reshape(size, 3 * m)
    both = (matrix @ turned).reshape(m, 3, m).transpose(1, 2, 0)
    return np.ascontiguousarray(both)


@lru_cache(maxsize=128)
def _interpolation(size: int, step: float, pixel: float) -> sparse.csr_array:
    """Lanczos weights from a drawing grid to native pixels, with flux per pixel kept."""
    count = 2 * int(np.floor((size // 2 - 1) * step / pixel)) + 1
    places = (np.arange(count) - count // 2) * pixel / step + size // 2
    first = np.floor(places).astype(np.int64)
    offsets = np.arange(1 - _KERNEL, _KERNEL + 1)
    index = first[:, None] + offsets
    distance = places[:, None] - index
    weights = np.sinc(distance) * np.sinc(distance / _KERNEL)
    weights *= (pixel / step) / weights.sum(axis=1, keepdims=True)
    weights[(index < 0) | (index >= size)] = 0.0
    rows = np.repeat(np.arange(count), len(offsets))
    values = (weights.ravel().astype(np.float32), (rows, np.clip(index, 0, size - 1).ravel()))
    return sparse.csr_array(values, shape=(count, size))


def _with_companion(image: Image, galaxy: np.void, region: Region) -> Image:
    other = companion(galaxy)
    angle = np.radians(float(galaxy["companion_pa"]))
    distance = float(galaxy["companion_separation"] * galaxy["r_major"]) / region.pixel_scale_arcsec
    column = image.centre[0] - distance * np.sin(angle)
    row = image.centre[1] + distance * np.cos(angle)
    whole = round(column), round(row)
    size, step = grid_of(float(other["r_major"][0]))
    drawn = draw(other, size, np.array([step]))[0]
    seen = _observe(drawn, step, region, np.array([column - whole[0], row - whole[1]]))
    place(image.planes, seen.planes, whole)
    return image


def place(canvas: Planes, planes: Planes, centre: tuple[int, int]) -> None:
    """Add `planes` (3, m, m) to `canvas` (3, H, W) with the middle at column, row `centre`."""
    half = planes.shape[-1] // 2
    column, row = centre[0] - half, centre[1] - half
    height, width = canvas.shape[1:]
    low, high = max(row, 0), min(row + planes.shape[1], height)
    left, right = max(column, 0), min(column + planes.shape[2], width)
    if low < high and left < right:
        canvas[:, low:high, left:right] += planes[:, low - row : high - row, left - column : right - column]
