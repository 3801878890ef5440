"""Resampling of native pixels onto a frame, with surface brightness kept.

The kernel is the same whatever the pixel scales: a native pixel is a square of constant
surface brightness, and an output pixel takes its mean over a box as wide as the output
pixel, but never narrower than a native one. Between equal scales that is bilinear
interpolation; towards coarser pixels it is the exact mean over the area.

The map from frame to native pixels is taken as affine over one cutout. Unrotated images
are averaged by one matrix product per axis. Rotated ones take two passes of
one-dimensional means, along native rows and then along native columns; they are the same
kernel where the rotation is nothing, and keep flux and centroid at any angle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gzsurvey.images.frame import Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.wcs import WCS

VALID_WEIGHT = 0.5
"""An output pixel with less than this share of its box on data has no data."""

STRAIGHT_PX = 0.02
"""Images that leave a frame's rows by less than this, in native pixels, count as unrotated."""

_STEPS = np.array([(east, north) for north in (-1.0, 0.0, 1.0) for east in (-1.0, 0.0, 1.0)])
"""Points of the tangent plane on which the affine map is fitted, in units of 0.4 fields."""
_REACH = 0.4


@dataclass(frozen=True, slots=True)
class Affine:
    """Where the pixels of one frame fall among an image's own pixels.

    Native column and row (zero-based, integers at pixel centres) of the frame's pixel in
    column ``X`` and row ``Y`` are ``column + xx X + xy Y`` and ``row + yx X + yy Y``.
    """

    column: float
    row: float
    xx: float
    xy: float
    yx: float
    yy: float

    @property
    def area_px(self) -> float:
        """Native pixels per pixel of the frame."""
        return abs(self.xx * self.yy - self.xy * self.yx)

    @property
    def transposed(self) -> Affine:
        """The same map for an image whose rows and columns are exchanged."""
        return Affine(self.row, self.column, self.yx, self.yy, self.xx, self.xy)

    def shifted(self, column: int, row: int) -> Affine:
        """The same map for a part of the image that begins at native `column`, `row`."""
        return Affine(self.column - column, self.row - row, self.xx, self.xy, self.yx, self.yy)

    def bounds(self, size_px: int) -> tuple[int, int, int, int]:
        """Native ``column0, row0, column1, row1`` (ends excluded) that a frame of `size_px` needs."""
        low, high = -0.5, size_px - 0.5
        corners = np.array([(low, low), (low, high), (high, low), (high, high)])
        columns = self.column + corners @ (self.xx, self.xy)
        rows = self.row + corners @ (self.yx, self.yy)
        margin = 1.5
        return (
            int(np.floor(columns.min() - margin)),
            int(np.floor(rows.min() - margin)),
            int(np.ceil(columns.max() + margin)) + 1,
            int(np.ceil(rows.max() + margin)) + 1,
        )


def affine_maps(
    wcs: WCS, ra_deg: NDArray[np.floating], dec_deg: NDArray[np.floating], frames: Sequence[Frame]
) -> list[Affine | None]:
    """Affine maps from the frames of N targets to an image's pixels.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        The image's: two celestial axes of any projection, frame and order.
    ra_deg, dec_deg : float, shape (N,)
        Targets, degrees ICRS.
    frames : sequence of Frame
        One per target: tangent plane at the target, north up, east left.

    Returns
    -------
    list of Affine or None
        None where the WCS gives no finite pixel, e.g. on the other side of the sky.
    """
    if not len(frames):
        return []
    scale = np.array([frame.scale_arcsec for frame in frames])
    size = np.array([frame.size_px for frame in frames])
    reach_arcsec = _REACH * scale * size
    offsets = np.radians(reach_arcsec / 3600)[:, None, None] * _STEPS
    ra, dec = _sky_of_tangent_plane(np.asarray(ra_deg), np.asarray(dec_deg), offsets)
    pixels = _pixels_of_sky(wcs, ra.ravel(), dec.ravel()).reshape(len(frames), len(_STEPS), 2)
    centre = pixels.mean(axis=1)
    slopes = np.einsum("nkp,kd->npd", pixels, _STEPS) / (_STEPS[:, 0] ** 2).sum() / (_REACH * size)[:, None, None]
    by_x, by_y = -slopes[:, :, 0], slopes[:, :, 1]
    start = centre - (by_x + by_y) * ((size - 1) / 2)[:, None]
    good: list[bool] = [bool(np.isfinite(points).all()) for points in pixels]
    rows = np.concatenate([start, np.stack([by_x, by_y], axis=-1).reshape(-1, 4)], axis=1)
    return [Affine(*map(float, row)) if fine else None for row, fine in zip(rows, good, strict=True)]


def _pixels_of_sky(wcs: WCS, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> NDArray[np.float64]:
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


def resample(native: NDArray[np.floating], affine: Affine, size_px: int) -> NDArray[np.float32]:
    """Put native pixels on a frame, keeping surface brightness.

    Parameters
    ----------
    native : float, shape (C, h, w)
        Planes on one native grid; NaN where there is no data. What lies outside is no data.
    affine : Affine
        From the frame to `native`.
    size_px : int
        Pixels on a side of the frame.

    Returns
    -------
    float32, shape (C, S, S)
        NaN where less than half of an output pixel's weight lies on data.
    """
    if abs(affine.xy) + abs(affine.yx) > abs(affine.xx) + abs(affine.yy):
        return resample(native.transpose(0, 2, 1), affine.transposed, size_px)
    straight = max(abs(affine.xy), abs(affine.yx)) * size_px / 2 < STRAIGHT_PX
    means = _matrix_means if straight else _two_pass_means
    finite = np.isfinite(native)
    if finite.all() and _inside(native.shape, affine, size_px):
        return means(native, affine, size_px).astype(np.float32, copy=False)
    flux = means(np.where(finite, native, 0), affine, size_px)
    weight = means(finite, affine, size_px)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(weight >= VALID_WEIGHT, flux / weight, np.nan).astype(np.float32)


def _inside(shape: tuple[int, ...], affine: Affine, size_px: int) -> bool:
    column0, row0, column1, row1 = affine.bounds(size_px)
    return column0 >= -1 and row0 >= -1 and column1 <= shape[2] + 1 and row1 <= shape[1] + 1


def _matrix_means(native: NDArray[np.generic], affine: Affine, size_px: int) -> NDArray[np.float32]:
    """Means over boxes along the native axes; float32, shape (C, S, S)."""
    middle = (size_px - 1) / 2
    steps = np.arange(size_px, dtype=np.float64)
    columns = affine.column + affine.xy * middle + affine.xx * steps
    rows = affine.row + affine.yx * middle + affine.yy * steps
    by_row = _box_weights(rows, affine.yy, native.shape[1])
    by_column = _box_weights(columns, affine.xx, native.shape[2])
    means: NDArray[np.float32] = by_row @ native.astype(np.float32, copy=False) @ by_column.T
    return means


def _box_weights(centres: NDArray[np.float64], width_px: float, length: int) -> NDArray[np.float32]:
    """Share of each of `length` pixels in boxes around S `centres`; shape (S, length)."""
    width = max(abs(width_px), 1.0)
    edges = np.arange(length) - centres[:, None]
    overlap = np.minimum(edges + 0.5, width / 2) - np.maximum(edges - 0.5, -width / 2)
    weights: NDArray[np.float32] = (np.maximum(overlap, 0) / width).astype(np.float32)
    return weights


def _two_pass_means(native: NDArray[np.generic], affine: Affine, size_px: int) -> NDArray[np.float64]:
    """Means along native rows, then along native columns; float64, shape (C, S, S)."""
    steps = np.arange(size_px, dtype=np.float64)
    across = affine.xx - affine.xy * affine.yx / affine.yy
    rows = np.arange(native.shape[1], dtype=np.float64)
    starts = affine.column + affine.xy / affine.yy * (rows - affine.row)
    half = _mean_along_last(native, starts[:, None] + across * steps, across)
    starts = affine.row + affine.yx * steps
    full = _mean_along_last(half.transpose(0, 2, 1), starts[:, None] + affine.yy * steps, affine.yy)
    return full.transpose(0, 2, 1)


def _mean_along_last(lines: NDArray[np.generic], centres: NDArray[np.float64], width_px: float) -> NDArray[np.float64]:
    """Means of each line of (C, L, w) over boxes of `width_px` around `centres` (L, S)."""
    planes, count, length = lines.shape
    sums = np.zeros((planes, count, length + 1))
    np.cumsum(lines, axis=2, dtype=np.float64, out=sums[:, :, 1:])
    width = max(abs(width_px), 1.0)
    offset = np.arange(count)[:, None] * (length + 1)
    low, high = (_sum_up_to(sums, centres + (0.5 + side * width / 2), offset) for side in (-1, 1))
    means: NDArray[np.float64] = (high - low) / width
    return means


def _sum_up_to(sums: NDArray[np.float64], edges: NDArray[np.float64], offset: NDArray[np.intp]) -> NDArray[np.float64]:
    planes, _, length = sums.shape
    edges = np.clip(edges, 0, length - 1)
    whole = np.minimum(edges.astype(np.intp), length - 2)
    index = whole + offset
    flat = sums.reshape(planes, -1)
    below = flat.take(index, axis=1)
    above = flat.take(index + 1, axis=1)
    interpolated: NDArray[np.float64] = below + (edges - whole) * (above - below)
    return interpolated
