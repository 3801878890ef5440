"""Where the pixels of a cutout lie among the tiles of a HiPS."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import astropy.units as u
import numpy as np
from astropy.coordinates import Latitude, Longitude, SkyCoord
from cdshealpix import nested
from numpy.typing import NDArray

from gzsurvey.cutouts.source import Request
from gzsurvey.errors import SourceError

ORDER_ZERO_DEG = 58.6323
"""Side of a square as large as one of the twelve cells of order 0."""
FRAMES = {"equatorial": "icrs", "galactic": "galactic"}
FAR_TOO_COARSE = 20.0
"""A HiPS whose finest pixels are so many times the cutouts' shows no galaxy."""
PER_FOLDER = 10_000
FULL_WEIGHT = 0.5
"""A pixel with less than this share of its weight on data has no data."""

Tile = tuple[int, int]
"""Order and NESTED number."""


@dataclass(frozen=True)
class HipsProperties:
    """What the file ``properties`` of a HiPS says."""

    order: int
    """Of its finest tiles."""
    tile_px: int
    frame: str
    """``equatorial`` or ``galactic``."""
    formats: tuple[str, ...]
    original_arcsec: float | None
    """Pixel scale of the images that it was made from."""

    @classmethod
    def parse(cls, text: str, where: str) -> HipsProperties:
        """Read ``key = value`` lines.

        Raises
        ------
        gzsurvey.errors.SourceError
            A key is missing, or says something that is not supported.
        """
        lines = (line.partition("=") for line in text.splitlines() if not line.lstrip().startswith("#"))
        said = {key.strip(): value.strip() for key, separator, value in lines if separator}
        missing = [key for key in ("hips_order", "hips_frame", "hips_tile_format") if key not in said]
        if missing:
            raise SourceError(where, f"its properties do not say {missing[0]!r}; is it the top folder of a HiPS?")
        if said["hips_frame"] not in FRAMES:
            raise SourceError(where, f"hips_frame must be {' or '.join(FRAMES)}, got {said['hips_frame']!r}")
        try:
            order, tile_px = int(said["hips_order"]), int(said.get("hips_tile_width", 512))
            scale = float(said["s_pixel_scale"]) * 3600 if "s_pixel_scale" in said else None
        except ValueError as error:
            raise SourceError(where, f"its properties are damaged: {error}") from None
        if tile_px & (tile_px - 1) or not 0 <= order + tile_px.bit_length() - 1 <= 29:
            raise SourceError(where, f"order {order} with tiles of {tile_px} pixels is no HEALPix grid")
        return cls(order, tile_px, said["hips_frame"], tuple(said["hips_tile_format"].split()), scale)

    def pixel_arcsec(self, order: int) -> float:
        """Side of a square as large as a pixel of the tiles of this order."""
        return ORDER_ZERO_DEG * 3600 / (self.tile_px << order)

    def order_for(self, scale_arcsec: float, where: str) -> int:
        """Coarsest order whose pixels are not larger than a cutout's; the finest if all are.

        Raises
        ------
        gzsurvey.errors.SourceError
            Even the finest are far too coarse.
        """
        return int(self.orders_for(np.array([scale_arcsec]), where)[0])

    def orders_for(self, scale_arcsec: NDArray[np.float64], where: str) -> NDArray[np.int64]:
        """Return `order_for` of many cutouts, shape (N,)."""
        finest, smallest = self.pixel_arcsec(self.order), float(np.min(scale_arcsec))
        if finest > FAR_TOO_COARSE * smallest:
            raise SourceError(
                where, f"its finest pixels are {finest:.3g} arcsec wide, those of the cutouts {smallest:.3g}"
            )
        steps = np.log2(self.pixel_arcsec(0) / scale_arcsec)
        return np.clip(np.ceil(steps - 1e-6), 0, self.order).astype(np.int64)

    def tiles_at(self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], order: int) -> NDArray[np.int64]:
        """NESTED numbers of the tiles of one order at ICRS positions."""
        xyz = _unit(np.radians(ra_deg), np.radians(dec_deg)) @ _rotation(self.frame).T
        lon, lat = _longitude(xyz)
        return np.asarray(nested.lonlat_to_healpix(lon, lat, order), dtype=np.int64)


def tile_path(tile: Tile, extension: str) -> str:
    """Path of a tile below the top of its HiPS."""
    order, number = tile
    return f"Norder{order}/Dir{number // PER_FOLDER * PER_FOLDER}/Npix{number}.{extension}"


@dataclass(frozen=True)
class Sampling:
    """Pixels of tiles, with weights, from which a cutout is made: bilinear, then the mean over each output pixel."""

    order: int
    tiles: tuple[int, ...]
    """NESTED numbers."""
    _tile: NDArray[np.uint8]
    """Which of `tiles`; shape (points, 4)."""
    _place: NDArray[np.uint32]
    """Which pixel of the flattened tile; shape (points, 4)."""
    _weight: NDArray[np.float32]
    _size: int
    _fine: int
    """Points along the side of an output pixel."""

    @classmethod
    def of(cls, hips: HipsProperties, request: Request, size: int, scale_arcsec: float, where: str) -> Sampling:
        """Lay a square grid on the tiles: tangent plane at the target, row 0 in the south, column 0 in the east."""
        order = hips.order_for(scale_arcsec, where)
        fine = 2 if hips.pixel_arcsec(order) <= scale_arcsec * 1.000001 else 1
        steps = (np.arange(size * fine) - (size * fine - 1) / 2) * np.radians(scale_arcsec / fine / 3600)
        ra, dec = np.radians(request.ra_deg), np.radians(request.dec_deg)
        east = np.array([-np.sin(ra), np.cos(ra), 0.0])
        north = np.array([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
        grid = _unit(ra, dec) + steps[:, None, None] * north - steps[:, None] * east
        lon, lat = _longitude(grid.reshape(-1, 3) @ _rotation(hips.frame).T)
        depth = order + hips.tile_px.bit_length() - 1
        cells, weights = nested.bilinear_interpolation(lon, lat, depth, num_threads=1)
        bits = np.uint64(2 * (depth - order))
        numbers, inside = np.asarray(cells) >> bits, np.asarray(cells) & ((np.uint64(1) << bits) - np.uint64(1))
        tiles = np.unique(numbers) if np.ptp(numbers) else numbers[0, :1]
        return cls(
            order,
            tuple(tiles.tolist()),
            np.searchsorted(tiles, numbers).astype(np.uint8),
            flat_places(hips.tile_px)[inside],
            np.asarray(weights, dtype=np.float32),
            size,
            fine,
        )

    @property
    def bytes(self) -> int:
        """Memory it holds."""
        return self._tile.nbytes + self._place.nbytes + self._weight.nbytes

    def sample(self, images: list[NDArray[np.float32] | None]) -> NDArray[np.float32]:
        """Take the mean of each output pixel.

        Parameters
        ----------
        images : list of float32 arrays, shape (T * T,), or None
            Flattened pixels of `tiles`, in FITS order; None: there is no such tile.

        Returns
        -------
        float32, shape (S, S)
            NaN where less than half of the weight lies on data.
        """
        values = np.full(self._place.shape, np.nan, dtype=np.float32)
        for number, image in enumerate(images):
            if image is not None:
                here = self._tile == number
                values[here] = image[self._place[here]]
        finite = np.isfinite(values)
        flux = self._binned(np.where(finite, values, 0) * self._weight)
        weight = self._binned(finite * self._weight)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(weight >= FULL_WEIGHT * self._fine**2, flux / weight, np.float32(np.nan))

    def _binned(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        sums: NDArray[np.float32] = (
            points.sum(axis=1).reshape(self._size, self._fine, self._size, self._fine).sum(axis=(1, 3))
        )
        return sums


@cache
def flat_places(tile_px: int) -> NDArray[np.uint32]:
    """Where each cell of a tile stands in the flattened FITS image, by its NESTED number in the tile.

    A tile's rows run against the first HEALPix axis and its columns along the second; JPEG and PNG
    tiles are the same upside down. Held against ``reproject`` and real tiles by tests.
    """
    numbers = np.arange(tile_px**2, dtype=np.uint32)
    x, y = np.zeros_like(numbers), np.zeros_like(numbers)
    for bit in range(tile_px.bit_length() - 1):
        x |= (numbers >> (2 * bit) & 1) << bit
        y |= (numbers >> (2 * bit + 1) & 1) << bit
    return (tile_px - 1 - x) * np.uint32(tile_px) + y


@cache
def _rotation(frame: str) -> NDArray[np.float64]:
    """From ICRS unit vectors to those of a HiPS's frame."""
    axes = SkyCoord(*np.eye(3), representation_type="cartesian", frame="icrs").transform_to(FRAMES[frame])
    matrix: NDArray[np.float64] = np.asarray(axes.cartesian.xyz.value)
    return matrix


def _unit(ra: NDArray[np.float64] | float, dec: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec) + 0 * np.asarray(ra)], axis=-1)


def _longitude(xyz: NDArray[np.float64]) -> tuple[Longitude, Latitude]:
    lon = np.arctan2(xyz[..., 1], xyz[..., 0])
    return Longitude(lon, u.rad), Latitude(np.arctan2(xyz[..., 2], np.hypot(xyz[..., 0], xyz[..., 1])), u.rad)
