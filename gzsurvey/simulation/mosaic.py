"""Mosaic tiles: painted one by one, written as compressed FITS images with their mask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from gzsurvey.simulation import field as sky
from gzsurvey.simulation.layout import Field, Tile
from gzsurvey.simulation.profiles import Planes
from gzsurvey.simulation.render import place, render

BANDS = ("g", "r", "z")
CELL_PX = 256
"""Noise and faint sources are drawn in cells of the region's grid, each from its own seed,
so that tiles which share a cell share its pixels."""
_REACH_PX = 300
"""How far the light of a bright star reaches."""
_STEPS_PER_SIGMA = 16
"""Pixel values are multiples of the sky noise over about this."""
_BLEED_MAG = 13.8


@dataclass(frozen=True)
class Painted:
    """The pixels of one tile."""

    planes: Planes
    """float32, shape (3, H, W), nanomaggies per native pixel; NaN in gaps."""
    mask: NDArray[np.uint8]
    """Bits `field.BRIGHT_STAR`, `field.SATURATED`, `field.ARTEFACT`."""


def paint_tile(field: Field, tile: Tile) -> Painted:
    """Paint one tile, with everything whose light reaches it.

    Parameters
    ----------
    field : Field
        The region.
    tile : Tile
        One of its tiles.
    """
    canvas = np.zeros((3, tile.height, tile.width), dtype=np.float32)
    mask = np.zeros((tile.height, tile.width), dtype=np.uint8)
    _paint_targets(canvas, field, tile)
    stars = []
    for number in _cells(field, tile, _REACH_PX):
        sources = _sources_of_cell(field, number)
        sources["column"] -= tile.column
        sources["row"] -= tile.row
        sky.paint(canvas, sources, field.region)
        stars.append(sources[(sources["size"] == 0) & (sources["mag_r"] < 16.0)])
    _add_noise(canvas, field, tile)
    bright = np.concatenate(stars)
    _mask_stars(mask, bright, field)
    _saturate(canvas, mask, bright, field)
    _artefacts(canvas, mask, field, tile)
    for gap in field.gaps:
        top, left = gap.row - tile.row, gap.column - tile.column
        canvas[gap.band, max(top, 0) : max(top + gap.side, 0), max(left, 0) : max(left + gap.side, 0)] = np.nan
    return Painted(canvas, mask)


def _paint_targets(canvas: Planes, field: Field, tile: Tile) -> None:
    near = field.near(tile)
    kinds = field.galaxies["kind"][near]
    galaxies = near[~np.isin(kinds, ("star", "artifact"))]
    places = np.stack([field.columns, field.rows], axis=1)
    whole = np.floor(places + 0.5).astype(np.int64)
    for row, image in render(field.galaxies[galaxies], field.region, (places - whole)[galaxies]):
        column, line = whole[galaxies[row]]
        place(canvas, image.planes, (int(column) - tile.column, int(line) - tile.row))
    odd = near[kinds == "star"]
    stars = np.zeros(len(odd), dtype=sky.SOURCE)
    stars["column"], stars["row"] = field.columns[odd] - tile.column, field.rows[odd] - tile.row
    stars["mag_r"], stars["g_r"], stars["r_z"], stars["axis_ratio"] = field.galaxies["mag_r"][odd], 0.6, 0.4, 1.0
    sky.paint(canvas, stars, field.region)


def _cells(field: Field, tile: Tile, reach: int) -> Iterator[tuple[int, int]]:
    """Cells (row, column) of the region's grid within `reach` pixels of a tile."""
    rows = _cell_range(tile.row - reach, tile.row + tile.height + reach, field.height)
    columns = _cell_range(tile.column - reach, tile.column + tile.width + reach, field.width)
    return ((row, column) for row in rows for column in columns)


def _cell_range(low: int, high: int, length: int) -> range:
    return range(max(low, 0) // CELL_PX, (min(high, length) - 1) // CELL_PX + 1)


def _sources_of_cell(field: Field, cell: tuple[int, int]) -> NDArray[np.void]:
    rng = np.random.default_rng([field.seed, field.code, 11, *cell])
    sources = sky.sources(rng, CELL_PX, CELL_PX, field.region.pixel_scale_arcsec)
    sources["row"] += cell[0] * CELL_PX
    sources["column"] += cell[1] * CELL_PX
    return sources


def _add_noise(canvas: Planes, field: Field, tile: Tile) -> None:
    normal = np.empty_like(canvas)
    for cell in _cells(field, tile, 0):
        rng = np.random.default_rng([field.seed, field.code, 12, *cell])
        square = rng.standard_normal((3, CELL_PX, CELL_PX), dtype=np.float32)
        rows, own_rows = _window(cell[0], tile.row, tile.height)
        columns, own_columns = _window(cell[1], tile.column, tile.width)
        normal[:, rows, columns] = square[:, own_rows, own_columns]
    sky.Conditions.of(field.region).add_noise(canvas, normal)


def _window(cell: int, start: int, length: int) -> tuple[slice, slice]:
    """Pixels that a cell and a tile share: in the tile, and in the cell."""
    low, high = max(cell * CELL_PX, start), min((cell + 1) * CELL_PX, start + length)
    return slice(low - start, high - start), slice(low - cell * CELL_PX, high - cell * CELL_PX)


def _mask_stars(mask: NDArray[np.uint8], stars: NDArray[np.void], field: Field) -> None:
    for star in stars[stars["mag_r"] < 15.5]:
        radius = 3.2 * 10 ** (0.13 * (15.5 - float(star["mag_r"]))) / field.region.pixel_scale_arcsec
        rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
        near = slice(max(int(star["row"] - radius), 0), max(int(star["row"] + radius) + 2, 0))
        inside = (rows[near] - star["row"]) ** 2 + (columns - star["column"]) ** 2 < radius**2
        mask[near] |= np.where(inside, np.uint8(sky.BRIGHT_STAR), np.uint8(0))


def _saturate(canvas: Planes, mask: NDArray[np.uint8], stars: NDArray[np.void], field: Field) -> None:
    """Fill pixels to the brim, and let the brightest stars bleed along their columns."""
    scale = field.region.pixel_scale_arcsec
    full = np.float32(10 ** (-0.4 * (sky.SATURATION_MAG_ARCSEC2 - 22.5)) * scale**2)
    for star in stars[stars["mag_r"] < _BLEED_MAG]:
        length = int(14 / scale * 10 ** (0.22 * (_BLEED_MAG - float(star["mag_r"]))))
        column, row = round(float(star["column"])), round(float(star["row"]))
        trail = (slice(max(row - length, 0), max(row + length + 1, 0)), slice(max(column - 1, 0), max(column + 2, 0)))
        canvas[(slice(None), *trail)] += np.float32(0.5) * full
        mask[trail] |= np.uint8(sky.SATURATED)
    over = (canvas > full).any(axis=0)
    np.minimum(canvas, full, out=canvas)
    mask[over] |= np.uint8(sky.SATURATED)


def _artefacts(canvas: Planes, mask: NDArray[np.uint8], field: Field, tile: Tile) -> None:
    """Satellite trails across the region, and cosmic rays or reflections on targets."""
    rng = np.random.default_rng([field.seed, field.code, 13])
    noise = sky.Conditions.of(field.region).sky
    for _ in range(1 + rng.poisson(field.width * field.height / 3e7)):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.4, 0.4) * min(field.width, field.height)
        band, width = int(rng.integers(3)), 1.3 / field.region.pixel_scale_arcsec
        centre = (field.width / 2 - tile.column, field.height / 2 - tile.row)
        line = (float(np.sin(angle)), float(np.cos(angle)), offset, width, 12 * float(noise[band]))
        _trail(canvas[band], mask, centre, line)
    for i in np.flatnonzero(field.galaxies["kind"] == "artifact"):
        column, row = field.columns[i] - tile.column, field.rows[i] - tile.row
        _ghost(canvas, mask, (float(column), float(row)), 6.0 / field.region.pixel_scale_arcsec, noise)


def _trail(
    plane: Planes, mask: NDArray[np.uint8], centre: tuple[float, float], line: tuple[float, float, float, float, float]
) -> None:
    sine, cosine, offset, width, height = line
    rows, columns = np.ogrid[: plane.shape[0], : plane.shape[1]]
    distance = ((columns - centre[0]) * sine - (rows - centre[1]) * cosine - offset).astype(np.float32)
    near = np.abs(distance) < 4 * width
    plane[near] += np.float32(height) * np.exp(-0.5 * (distance[near] / np.float32(width)) ** 2)
    mask[np.abs(distance) < 2 * width] |= np.uint8(sky.ARTEFACT)


def _ghost(
    canvas: Planes, mask: NDArray[np.uint8], centre: tuple[float, float], radius: float, noise: NDArray[np.float32]
) -> None:
    """A reflection inside the camera: an empty ring, in one band more than in the others."""
    reach = int(1.5 * radius)
    top, left = int(centre[1]) - reach, int(centre[0]) - reach
    window = (slice(max(top, 0), max(top + 2 * reach, 0)), slice(max(left, 0), max(left + 2 * reach, 0)))
    height, width = mask[window].shape
    if not height or not width:
        return
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(rows + max(top, 0) - centre[1], columns + max(left, 0) - centre[0]).astype(np.float32)
    shape = np.exp(-0.5 * ((distance - np.float32(radius)) / np.float32(0.25 * radius)) ** 2)
    for band, strength in enumerate((25.0, 8.0, 4.0)):
        canvas[(band, *window)] += np.float32(strength) * noise[band] * shape
    mask[window] |= np.where(shape > 0.2, np.uint8(sky.ARTEFACT), np.uint8(0))


def write_tile(field: Field, tile: Tile, folder: Path) -> None:
    """Paint a tile and write ``{band}_{tile}.fits.fz`` and ``mask_{tile}.fits.fz``.

    Files that exist already are complete, and kept.
    """
    names = [f"{band}_{tile.name}.fits.fz" for band in (*BANDS, "mask")]
    if all((folder / name).exists() for name in names):
        return
    painted = paint_tile(field, tile)
    noise = sky.Conditions.of(field.region).sky
    counts = np.float32(10 ** (0.4 * (field.region.zeropoint - 22.5)))
    for band, name in enumerate(names[:3]):
        header = _header(field, tile, BANDS[band])
        step = float(2.0 ** np.floor(np.log2(counts * noise[band] / _STEPS_PER_SIGMA)))
        values = np.round(painted.planes[band] * (counts / np.float32(step))) * np.float32(step)
        # Values are multiples of the step, so this "lossy" way of storing floats loses nothing.
        image = fits.CompImageHDU(values, header, compression_type="RICE_1", quantize_level=-step, quantize_method=-1)
        _write(folder / name, image)
    header = _header(field, tile, "mask")
    _write(folder / names[3], fits.CompImageHDU(painted.mask, header, compression_type="RICE_1"))


def _header(field: Field, tile: Tile, band: str) -> fits.Header:
    header = field.wcs.to_header()
    header["CRPIX1"] = (field.width + 1) / 2 - tile.column
    header["CRPIX2"] = (field.height + 1) / 2 - tile.row
    header["OBJECT"] = (tile.name, "tile")
    header["REGION"] = (field.region.name, "region of the simulated survey")
    header["ORIGIN"] = ("gzsurvey", "simulated sky")
    if band == "mask":
        header["IMAGETYP"] = ("mask", "1 bright star, 2 saturated, 4 artefact")
        return header
    region, number = field.region, BANDS.index(band)
    header["FILTER"] = (band, "band")
    header["BUNIT"] = (region.bunit, "unit of the pixels")
    header["MAGZERO"] = (region.zeropoint, "[mag] AB magnitude of one count")
    header["SEEING"] = (region.psf_fwhm_arcsec[number], "[arcsec] FWHM of the PSF")
    header["MAGLIM"] = (region.depth_mag[number], "[mag] 5 sigma depth of a point source")
    gain = region.gain[number] / 10 ** (0.4 * (region.zeropoint - 22.5))
    header["GAIN"] = (round(gain, 6), "photons per count")
    return header


def _write(path: Path, image: fits.CompImageHDU) -> None:
    aside = path.with_name(path.name + ".partial")
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(aside, overwrite=True)
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)
