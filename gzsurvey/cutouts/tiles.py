"""Reading pixels of FITS images: whole, or only the parts that are needed."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from gzsurvey.cutouts import headers
from gzsurvey.cutouts.mosaic_index import Tile
from gzsurvey.errors import SourceError

Bounds = list[int]
"""Native ``column0, row0, column1, row1``, ends excluded; may reach beyond the image."""

WHOLE_FROM = 0.5
"""Share of an image's pixels, as they must be decompressed, from which it is read whole."""
BLANK_RUN = 3
"""Exact zeros count as blank where they fill a square of this many pixels."""


class OpenTile:
    """One image, open for reading.

    Parameters
    ----------
    tile : Tile
        From the index.

    Raises
    ------
    any of gzsurvey.cutouts.headers.READ_ERRORS
        The file is damaged.
    """

    def __init__(self, tile: Tile) -> None:
        self.tile = tile
        self._file, hdu = _open(tile)
        if headers.plane_shape(hdu.header) != tile.shape:
            raise ValueError("is not the image it was when the index was built")
        self._hdu: Any = hdu
        wcs = headers.celestial_wcs(hdu.header)
        if wcs is None:
            raise SourceError(tile.path, "has lost its celestial WCS since the index was built")
        self.wcs = wcs
        self.grid = (tile.shape, wcs.to_header_string(relax=True))
        """Equal for images that share their pixel grid."""
        self._leading = (0,) * (int(hdu.header["NAXIS"]) - 2)
        self._whole: NDArray[np.generic] | None = None

    @property
    def bytes(self) -> int:
        """Memory it holds."""
        return 0 if self._whole is None or isinstance(self._whole, np.memmap) else self._whole.nbytes

    def close(self) -> None:
        """Forget pixels and file."""
        self._whole = None
        self._file.close()

    def expect(self, parts: NDArray[np.intp], times: float) -> None:
        """Read the image whole, if that is cheaper than some `times` these parts, shape (n, 4), one by one."""
        if self._whole is not None:
            return
        height, width = self.tile.shape
        if self._mapped() or self._costs(parts) * times > WHOLE_FROM * height * width:
            self._whole = self._hdu.data[self._leading] if self._leading else self._hdu.data

    def _mapped(self) -> bool:
        """Whether reading needs no copy (plain floats) or no saving is possible (compressed files)."""
        if self.tile.path.endswith((".gz", ".bz2")):
            return True
        return not isinstance(self._hdu, fits.CompImageHDU) and not _is_scaled(self._hdu)

    def _costs(self, parts: NDArray[np.intp]) -> int:
        """Pixels that reading `parts` decompresses."""
        steps = np.array(getattr(self._hdu, "tile_shape", (1, 1))[-2:])[::-1]
        size = np.array(self.tile.shape[::-1])
        inside = clipped(parts, self.tile.shape)
        lengths = np.minimum(-(-inside[:, 2:] // steps) * steps, size) - inside[:, :2] // steps * steps
        return int(lengths.prod(axis=1).sum())

    def flux(self, parts: NDArray[np.intp], out: NDArray[np.float32]) -> None:
        """Write the pixels of `parts`, bounds of shape (n, 4), to `out`, shape (n, h, w): NaN where none are, or blank.

        Raises
        ------
        any of gzsurvey.cutouts.headers.READ_ERRORS
            The file is damaged; what was not read is NaN.
        """
        insides = clipped(parts, self.tile.shape)
        starts = (insides - parts)[:, :2]
        done = 0
        try:
            for (column, row), inside, pixels in zip(starts.tolist(), insides.tolist(), out, strict=True):
                read = self._read(inside)
                if read.shape != pixels.shape:
                    pixels.fill(np.nan)
                    pixels = pixels[row : row + read.shape[0], column : column + read.shape[1]]
                pixels[...] = read
                done += 1
        finally:
            out[done:] = np.nan
            for number in np.flatnonzero((out == 0).any(axis=(1, 2))):
                column, row = starts[number]
                height, width = insides[number, 2:][::-1] - insides[number, :2][::-1]
                pixels = out[number, row : row + height, column : column + width]
                pixels[blank(pixels, insides[number].tolist(), self.tile.shape)] = np.nan

    def bits(self, part: Bounds) -> NDArray[np.int64]:
        """Mask bits of `part`, 0 outside."""
        inside = clipped(np.array(part), self.tile.shape).tolist()
        return _padded(np.nan_to_num(self._read(inside)).astype(np.int64), inside, part, np.int64(0))

    def _read(self, part: Bounds) -> NDArray[Any]:
        column0, row0, column1, row1 = part
        rows, columns = slice(row0, row1), slice(column0, column1)
        if row1 <= row0 or column1 <= column0:
            return np.zeros((max(row1 - row0, 0), max(column1 - column0, 0)), dtype=np.float32)
        if self._whole is not None:
            pixels: NDArray[Any] = self._whole[rows, columns]
            return pixels
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fits.verify.VerifyWarning)
            return np.asarray(self._hdu.section[(*self._leading, rows, columns)])


@dataclass
class TileCache:
    """Open images, the last used kept within a memory budget."""

    budget_bytes: int
    wanted: Mapping[tuple[str, int], int] = field(default_factory=dict)
    """How many parts of each image will be asked for."""
    max_open: int = 48
    opened: int = 0
    """How often a file was opened."""
    damaged: dict[tuple[str, int], str] = field(default_factory=dict)
    """Why images could not be read."""
    _open: OrderedDict[tuple[str, int], OpenTile] = field(default_factory=OrderedDict)

    def get(self, tile: Tile) -> OpenTile | None:
        """The open image; None if it is damaged."""
        key = tile.key
        if key in self.damaged:
            return None
        if key not in self._open:
            try:
                self._open[key] = OpenTile(tile)
            except headers.READ_ERRORS as error:
                self.report(tile, error)
                return None
            self.opened += 1
        self._open.move_to_end(key)
        return self._open[key]

    def expect(self, tile: OpenTile, parts: NDArray[np.intp]) -> None:
        """Prepare to read `parts`, and as many like them as are wanted."""
        try:
            tile.expect(parts, max(self.wanted.get(tile.tile.key, 0) / max(len(parts), 1), 1))
        except headers.READ_ERRORS as error:
            self.report(tile.tile, error)

    def flux(self, tile: OpenTile, parts: NDArray[np.intp], out: NDArray[np.float32]) -> None:
        """Write the pixels of `parts` to `out`; NaN where they cannot be read."""
        if tile.tile.key in self.damaged:
            out.fill(np.nan)
            return
        try:
            tile.flux(parts, out)
        except headers.READ_ERRORS as error:
            self.report(tile.tile, error)

    def bits(self, tile: OpenTile, part: Bounds) -> NDArray[np.int64]:
        """Mask bits of `part`; none if they cannot be read."""
        if tile.tile.key not in self.damaged:
            try:
                return tile.bits(part)
            except headers.READ_ERRORS as error:
                self.report(tile.tile, error)
        return np.zeros((part[3] - part[1], part[2] - part[0]), dtype=np.int64)

    def report(self, tile: Tile, error: BaseException) -> None:
        """Remember that an image is damaged."""
        self.damaged[tile.key] = " ".join(str(error).split()) or type(error).__name__
        if broken := self._open.pop(tile.key, None):
            broken.close()

    def trim(self, in_use: int) -> None:
        """Close what was used longest ago, but not the last `in_use`, until the budget is kept."""
        while len(self._open) > in_use and (
            len(self._open) > self.max_open or sum(tile.bytes for tile in self._open.values()) > self.budget_bytes
        ):
            _, oldest = self._open.popitem(last=False)
            oldest.close()

    def close(self) -> None:
        """Close all."""
        self.trim(0)
        while self._open:
            self._open.popitem()[1].close()


def _open(tile: Tile) -> tuple[fits.HDUList, Any]:
    """The file and the image; files that are scaled when read cannot be mapped to memory."""
    file = fits.open(tile.path, memmap=True, lazy_load_hdus=True)
    if _is_scaled(file[tile.hdu]):
        file.close()
        file = fits.open(tile.path, memmap=False, lazy_load_hdus=True)
    return file, file[tile.hdu]


def _is_scaled(hdu: Any) -> bool:
    header = hdu.header
    return bool(header.get("BSCALE", 1) != 1 or header.get("BZERO", 0) != 0 or "BLANK" in header)


def clipped(parts: NDArray[np.intp], shape: tuple[int, int]) -> NDArray[np.intp]:
    """What of bounds (..., 4) lies on an image; of no pixel where nothing does."""
    size = np.array(shape[::-1])
    low, high = np.clip(parts[..., :2], 0, size), np.minimum(parts[..., 2:], size)
    return np.concatenate([low, np.maximum(high, low)], axis=-1)


def _padded(pixels: NDArray[Any], inside: Bounds, part: Bounds, fill: np.generic) -> NDArray[Any]:
    if inside == part:
        return pixels
    whole = np.full((part[3] - part[1], part[2] - part[0]), fill)
    if pixels.size:
        row, column = inside[1] - part[1], inside[0] - part[0]
        whole[row : row + pixels.shape[0], column : column + pixels.shape[1]] = pixels
    return whole


def blank(pixels: NDArray[np.float32], inside: Sequence[int], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Find exact zeros in squares of `BLANK_RUN` pixels: a filled border, never a pixel that happens to be zero.

    Beyond the image's own border all counts as zero, so that a single line along it is found.
    """
    edge = BLANK_RUN - 1
    zeros = np.pad(pixels == 0, edge)
    zeros[:, :edge] |= inside[0] == 0
    zeros[:edge] |= inside[1] == 0
    zeros[:, -edge:] |= inside[2] == shape[1]
    zeros[-edge:] |= inside[3] == shape[0]
    height, width = (length - edge for length in zeros.shape)
    steps = range(BLANK_RUN)
    lines = np.logical_and.reduce([zeros[step : step + height] for step in steps])
    squares = np.logical_and.reduce([lines[:, step : step + width] for step in steps])
    blank = np.zeros_like(zeros)
    if squares.any():
        for row in steps:
            for column in steps:
                blank[row : row + height, column : column + width] |= squares
    return blank[edge:-edge, edge:-edge]
