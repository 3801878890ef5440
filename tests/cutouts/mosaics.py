"""Small mosaics of a made-up sky, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

RA, DEC, SCALE, SIDE = 150.0, 2.0, 0.262, 300
"""Centre, pixel scale and side of the whole field, from which all tiles are cut."""


def field_wcs() -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [RA, DEC]
    wcs.wcs.crpix = [(SIDE + 1) / 2] * 2
    wcs.wcs.cdelt = [-SCALE / 3600, SCALE / 3600]
    wcs.wcs.set()
    return wcs


def field(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(1.0, 0.1, (SIDE, SIDE)).astype(np.float32)


def at(column: float, row: float) -> tuple[float, float]:
    """Position of a pixel of the field, degrees."""
    ra, dec = field_wcs().all_pix2world(column, row, 0)
    return float(ra), float(dec)


def header(column: int = 0, row: int = 0, **cards: object) -> fits.Header:
    """Header of a tile whose first pixel is this one of the field."""
    wcs = field_wcs()
    wcs.wcs.crpix -= [column, row]
    made = wcs.to_header()
    for key, value in cards.items():
        made[key] = value
    return made


def write_tile(
    path: Path, pixels: NDArray[np.generic], column: int = 0, row: int = 0, **cards: object
) -> Path:  # fmt: skip
    """Write a tile of nanomaggies, compressed as its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = header(column, row, **{"BUNIT": "nanomaggy", **cards})
    if path.name.endswith(".fz"):
        fits.CompImageHDU(pixels, head, compression_type="GZIP_2", quantize_level=0).writeto(path, overwrite=True)
    else:
        fits.writeto(path, pixels, head, overwrite=True)
    return path


def write_quarters(folder: Path, suffix: str = ".fits", bands: str = "grz") -> dict[str, NDArray[np.float32]]:
    """Four tiles per band that overlap by 40 pixels; the whole field of each band."""
    whole = {band: field(n) for n, band in enumerate(bands)}
    for band, pixels in whole.items():
        for name, (column, row) in {"a": (0, 0), "b": (130, 0), "c": (0, 130), "d": (130, 130)}.items():
            part = pixels[row : row + 170, column : column + 170]
            write_tile(folder / f"{band}_{name}{suffix}", part, column, row, FILTER=band)
    return whole
