"""Where the pixels of frames fall among an image's own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gzsurvey.recipes.preparation import Resampling

if TYPE_CHECKING:
    from astropy.wcs import WCS

STRAIGHT_PX = 0.02
"""Images that leave a frame's rows by less than this, in native pixels, count as unrotated."""
NATIVE_PX = 0.25
"""A frame has an image's own grid where, laid on it in the middle, no pixel is further off than this."""
NATIVE_AREA = 1e-3
"""And where its pixels have the image's area within this: it is then taken as equal."""
MARGIN_PX = 1.5
"""Native pixels read around a frame, for the kernel."""

_STEPS = np.array([(east, north) for north in (-1.0, 0.0, 1.0) for east in (-1.0, 0.0, 1.0)])
"""Points of the tangent plane on which the affine map is fitted, in units of 0.4 fields."""
_REACH = 0.4


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """Where the pixels of a frame, or of N frames, fall among an image's own pixels.

    Native column and row (zero-based, integers at pixel centres) of the frame's pixel in
    column ``X`` and row ``Y`` are ``column + xx X + xy Y`` and ``row + yx X + yy Y``.
    Each value is a number, or float64 of shape (N,).
    """

    column: ArrayLike
    row: ArrayLike
    xx: ArrayLike
    xy: ArrayLike
    yx: ArrayLike
    yy: ArrayLike

    @property
    def values(self) -> NDArray[np.float64]:
        """All six, shape (6,) or (6, N)."""
        numbers = (self.column, self.row, self.xx, self.xy, self.yx, self.yy)
        return np.array(np.broadcast_arrays(*numbers), dtype=np.float64)

    def __getitem__(self, key: Any) -> Affine:
        """Return the maps of some frames."""
        return Affine(*(value[key] for value in self.values))

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which frames have a map: the others lie on the other side of the sky."""
        return np.asarray(np.isfinite(self.values).all(axis=0))

    @property
    def area_px(self) -> NDArray[np.float64]:
        """Native pixels per pixel of the frame."""
        _, _, xx, xy, yx, yy = self.values
        return np.asarray(np.abs(xx * yy - xy * yx))

    @property
    def lying(self) -> NDArray[np.bool_]:
        """Which frames have their rows along native columns rather than rows."""
        _, _, xx, xy, yx, yy = np.abs(self.values)
        return np.asarray(xy + yx > xx + yy)

    @property
    def whole(self) -> NDArray[np.bool_]:
        """Which frames consist of native pixels, in whatever order."""
        values = self.values
        _, _, xx, xy, yx, yy = np.abs(values)
        axes = (xx == yy) & (xy == yx) & (xx + xy == 1)
        return np.asarray(axes & (values == np.round(values)).all(axis=0))

    def straight(self, size_px: int) -> NDArray[np.bool_]:
        """Which frames have their rows along native rows."""
        return np.maximum(np.abs(self.xy), np.abs(self.yx)) * size_px / 2 < STRAIGHT_PX

    @property
    def transposed(self) -> Affine:
        """The same map for an image whose rows and columns are exchanged."""
        return Affine(self.row, self.column, self.yx, self.yy, self.xx, self.xy)

    def shifted(self, column: ArrayLike, row: ArrayLike) -> Affine:
        """The same map for a part of the image that begins at native `column`, `row`."""
        return Affine(np.subtract(self.column, column), np.subtract(self.row, row), self.xx, self.xy, self.yx, self.yy)

    def snapped(self, size_px: int) -> Affine:
        """The same map, moved onto native pixels by up to half of one where the frame has the image's own grid."""
        values, middle = self.values, (size_px - 1) / 2
        steps = np.round(values[2:])
        off = np.abs(values[2:] - steps) * middle
        start = np.round(values[:2] + (_sums(values[2:]) - _sums(steps)) * middle)
        grid = Affine(*start, *steps)
        own = (_sums(off) < NATIVE_PX).all(axis=0) & (np.abs(self.area_px - 1) < NATIVE_AREA) & grid.whole
        return Affine(*np.where(own, grid.values, values))

    def bounds(self, size_px: int) -> NDArray[np.intp]:
        """Native ``column0, row0, column1, row1`` (ends excluded) that frames of `size_px` need; shape (..., 4)."""
        column, row, *steps = self.values
        ends = np.array([-0.5, size_px - 0.5])
        x, y = (ends[[0, 0, 1, 1]], ends[[0, 1, 0, 1]])
        columns, rows = (
            start[..., None] + np.multiply.outer(by_x, x) + np.multiply.outer(by_y, y)
            for start, by_x, by_y in ((column, *steps[:2]), (row, *steps[2:]))
        )
        margin = np.where(self.whole, -0.5, MARGIN_PX)
        low = [np.floor(places.min(axis=-1) - margin) for places in (columns, rows)]
        high = [np.ceil(places.max(axis=-1) + margin) + 1 for places in (columns, rows)]
        return np.stack([*low, *high], axis=-1).astype(np.intp)


def laid(affine: Affine, size_px: int, resampling: Resampling) -> Affine:
    """Maps of frames as a preparation wants them laid on an image: where they are, or on its own pixels."""
    return affine.snapped(size_px) if resampling == "native" else affine


def _sums(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the steps of columns, and of those of rows."""
    return np.stack([steps[0] + steps[1], steps[2] + steps[3]])


def affine_maps(
    wcs: WCS,
    ra_deg: NDArray[np.floating],
    dec_deg: NDArray[np.floating],
    scale_arcsec: NDArray[np.floating],
    size_px: int,
) -> Affine:
    """Affine maps from the frames of N targets to an image's pixels.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        The image's: two celestial axes of any projection, frame and order.
    ra_deg, dec_deg : float, shape (N,)
        Targets, degrees ICRS.
    scale_arcsec : float, shape (N,)
        Pixel scales of the frames: tangent plane at the target, north up, east left.
    size_px : int
        Pixels on a side of the frames.

    Returns
    -------
    Affine
        Of shape (N,); not `known` where the WCS gives no finite pixel, e.g. on the other side of the sky.
    """
    offsets = np.radians(_REACH * size_px * np.asarray(scale_arcsec) / 3600)[:, None, None] * _STEPS
    ra, dec = _sky_of_tangent_plane(np.asarray(ra_deg), np.asarray(dec_deg), offsets)
    pixels = pixels_of_sky(wcs, ra.ravel(), dec.ravel()).reshape(len(offsets), len(_STEPS), 2)
    pixels[~np.isfinite(pixels).all(axis=(1, 2))] = np.nan
    centre = pixels.mean(axis=1)
    slopes = np.einsum("nkp,kd->dpn", pixels, _STEPS) / (_STEPS[:, 0] ** 2).sum() / (_REACH * size_px)
    by_x, by_y = -slopes[0], slopes[1]
    start = centre.T - (by_x + by_y) * ((size_px - 1) / 2)
    return Affine(start[0], start[1], by_x[0], by_y[0], by_x[1], by_y[1])


def pixels_of_sky(wcs: WCS, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zero-based column and row, shape (N, 2), of ICRS positions; NaN where there is none."""
    from astropy.coordinates import FK5, ICRS, SkyCoord
    from astropy.wcs.utils import wcs_to_celestial_frame

    frame = wcs_to_celestial_frame(wcs)
    longitude, latitude = ra_deg, dec_deg
    if not isinstance(frame, ICRS | FK5) or (isinstance(frame, FK5) and frame.equinox.jyear != 2000):
        there = SkyCoord(ra_deg, dec_deg, unit="deg").transform_to(frame).spherical
        longitude, latitude = there.lon.deg, there.lat.deg
    world = (longitude, latitude) if wcs.wcs.lng == 0 else (latitude, longitude)
    pixels: NDArray[np.float64] = np.stack(wcs.all_world2pix(*world, 0, quiet=True), axis=-1)
    return pixels


def _sky_of_tangent_plane(
    ra_deg: NDArray[np.floating], dec_deg: NDArray[np.floating], offsets: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Degrees of tangent plane `offsets` (N, K, 2), radians east and north of N positions."""
    ra0, dec0 = np.radians(ra_deg)[:, None], np.radians(dec_deg)[:, None]
    east, north = offsets[..., 0], offsets[..., 1]
    away = np.cos(dec0) - north * np.sin(dec0)
    ra = ra0 + np.arctan2(east, away)
    dec = np.arctan2(np.sin(dec0) + north * np.cos(dec0), np.hypot(east, away))
    return np.degrees(ra) % 360.0, np.degrees(dec)
