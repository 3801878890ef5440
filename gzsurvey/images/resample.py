"""Resampling of native pixels onto frames, with surface brightness kept.

The kernel is the same whatever the pixel scales: a native pixel is a square of constant
surface brightness, and an output pixel takes its mean over a box as wide as the output
pixel, but never narrower than a native one. Between equal scales that is bilinear
interpolation; towards coarser pixels it is the exact mean over the area.

The map from frame to native pixels is taken as affine over one cutout. Frames that consist
of native pixels are copied. Unrotated images are averaged by one matrix product per axis.
Rotated ones take two passes of one-dimensional means, along native rows and then along
native columns; they are the same kernel where the rotation is nothing, and keep flux and
centroid at any angle.

Letters: N cutouts, C planes, (h, w) native pixels, S pixels on a side of the frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gzsurvey.images.affine import Affine

VALID_WEIGHT = 0.5
"""An output pixel with less than this share of its box on data has no data."""
BILINEAR_PX = 1.001
"""Boxes up to this wide, in native pixels, are as wide as one: distorted images vary by as much."""

Planes = NDArray[np.float32]
Real = TypeVar("Real", np.float32, np.float64)
Means = Callable[[NDArray[np.generic], Affine, int], Planes]


def resample(native: NDArray[np.floating], affine: Affine, size_px: int) -> Planes:
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
    planes: Planes = resample_all(native[None], affine[None], size_px)[0]
    return planes


def resample_all(native: NDArray[np.floating], affine: Affine, size_px: int) -> Planes:
    """Put the native pixels of N cutouts on their frames.

    Parameters
    ----------
    native : float, shape (N, C, h, w)
        As for `resample`.
    affine : Affine
        Of shape (N,).
    size_px : int
        Pixels on a side of the frames.

    Returns
    -------
    float32, shape (N, C, S, S)
    """
    lying, whole = affine.lying, affine.whole
    straight = np.where(lying, affine.transposed.straight(size_px), affine.straight(size_px)) & ~whole
    ways: tuple[tuple[NDArray[np.bool_], Means], ...] = (
        (whole, _own_pixels),
        (straight, _matrix_means),
        (~straight & ~whole, _two_pass_means),
    )
    out = np.empty((*native.shape[:2], size_px, size_px), dtype=np.float32)
    for picked, means in ways:
        for across in (False, True):
            chosen = picked & (lying == across)
            if chosen.any():
                rows: slice | NDArray[np.bool_] = slice(None) if chosen.all() else chosen
                planes, maps = native[rows], affine[rows]
                turned = (planes.swapaxes(2, 3), maps.transposed) if across else (planes, maps)
                out[rows] = _of_data(*turned, size_px, means)
    return out


def _of_data(native: NDArray[np.floating], affine: Affine, size_px: int, means: Means) -> Planes:
    """Means of what is data; shape (N, C, S, S)."""
    with np.errstate(invalid="ignore", over="ignore"):
        clean = np.isfinite(native.sum(axis=(1, 2, 3))) & _inside(native.shape, affine, size_px)
    if clean.all():
        return means(native, affine, size_px)
    finite = np.isfinite(native)
    out = np.empty((*native.shape[:2], size_px, size_px), dtype=np.float32)
    good, holed = np.flatnonzero(clean), np.flatnonzero(~clean)
    if good.size:
        out[good] = means(native[good], affine[good], size_px)
    flux = means(np.where(finite[holed], native[holed], 0), affine[holed], size_px)
    weight = means(finite[holed], affine[holed], size_px)
    with np.errstate(invalid="ignore", divide="ignore"):
        out[holed] = np.where(weight >= VALID_WEIGHT, flux / weight, np.nan)
    return out


def _inside(shape: tuple[int, ...], affine: Affine, size_px: int) -> NDArray[np.bool_]:
    """Which frames see nothing outside their planes."""
    low_column, low_row, high_column, high_row = affine.bounds(size_px).T
    spare = np.where(affine.whole, 0, 1)
    low, high = np.minimum(low_column, low_row), np.maximum(high_column - shape[3], high_row - shape[2])
    return np.asarray((low >= -spare) & (high <= spare))


def _own_pixels(native: NDArray[np.generic], affine: Affine, size_px: int) -> NDArray[np.float32]:
    """Native pixels in the frames' order, 0 outside."""
    column, row, xx, _, _, yy = values = affine.values.astype(np.intp)
    if native.shape[2:] == (size_px, size_px) and (values.T == (0, 0, 1, 0, 0, 1)).all():
        return native.astype(np.float32, copy=False)
    out = np.zeros((*native.shape[:2], size_px, size_px), dtype=np.float32)
    for number, planes in enumerate(native):
        to_rows, rows = _overlap(row[number], yy[number], size_px, native.shape[2])
        to_columns, columns = _overlap(column[number], xx[number], size_px, native.shape[3])
        out[number, :, to_rows, to_columns] = planes[:, rows, columns]
    return out


def _overlap(start: int, step: int, size_px: int, length: int) -> tuple[slice, slice]:
    """Pixels of a frame that lie on a native axis, and the native pixels they are; `step` is 1 or -1."""
    before = max(-start if step > 0 else start - (length - 1), 0)
    after = min(length - start if step > 0 else start + 1, size_px)
    if after <= before:
        return slice(0, 0), slice(0, 0)
    first, last = start + step * before, start + step * (after - 1)
    return slice(before, after), slice(first, None if last + step < 0 else last + step, step)


def _matrix_means(native: NDArray[np.generic], affine: Affine, size_px: int) -> NDArray[np.float32]:
    """Means over boxes along the native axes."""
    column, row, xx, xy, yx, yy = affine.values[..., None]
    middle, steps = (size_px - 1) / 2, np.arange(size_px, dtype=np.float64)
    by_row = _box_weights(row + yx * middle + yy * steps, yy, native.shape[2])
    by_column = _box_weights(column + xy * middle + xx * steps, xx, native.shape[3])
    rows: NDArray[np.float32] = by_row[:, None] @ native.astype(np.float32, copy=False)
    means: NDArray[np.float32] = rows @ by_column[:, None].swapaxes(2, 3)
    return means


def _box_weights(centres: NDArray[np.float64], width_px: NDArray[np.float64], length: int) -> NDArray[np.float32]:
    """Share of each of `length` pixels in boxes around `centres` (N, S) of widths (N, 1); shape (N, S, length)."""
    width = np.maximum(np.abs(width_px), 1.0)[..., None].astype(np.float32)
    weights = np.abs(np.arange(length, dtype=np.float32) - centres[..., None].astype(np.float32))
    np.subtract((width + 1) / 2, weights, out=weights)
    np.clip(weights, 0, 1, out=weights)
    weights /= width
    return weights


def _two_pass_means(native: NDArray[np.generic], affine: Affine, size_px: int) -> NDArray[np.float32]:
    """Means along native rows, then along native columns."""
    steps, rows = np.arange(size_px, dtype=np.float64), np.arange(native.shape[2], dtype=np.float64)
    out = np.empty((*native.shape[:2], size_px, size_px), dtype=np.float32)
    for number, (planes, values) in enumerate(zip(native, affine.values.T, strict=True)):
        column, row, xx, xy, yx, yy = values
        across = xx - xy * yx / yy
        starts = column + xy / yy * (rows - row)
        half = _mean_along_last(planes, starts[:, None] + across * steps, across)
        starts = row + yx * steps
        full = _mean_along_last(half.transpose(0, 2, 1), starts[:, None] + yy * steps, yy)
        out[number] = full.transpose(0, 2, 1)
    return out


def _mean_along_last(lines: NDArray[np.generic], centres: NDArray[np.float64], width_px: float) -> NDArray[np.floating]:
    """Means of each line of (C, L, w) over boxes of `width_px` around `centres` (L, S)."""
    width = abs(width_px)
    if width <= BILINEAR_PX:
        framed = np.zeros((*lines.shape[:2], lines.shape[2] + 2), dtype=np.float32)
        framed[:, :, 1:-1] = lines
        return _between(framed, centres + 1)
    planes, count, length = lines.shape
    sums = np.zeros((planes, count, length + 1))
    np.cumsum(lines, axis=2, dtype=np.float64, out=sums[:, :, 1:])
    low, high = (_between(sums, centres + (0.5 + side * width / 2)) for side in (-1, 1))
    means: NDArray[np.floating] = (high - low) / width
    return means


def _between(lines: NDArray[Real], places: NDArray[np.float64]) -> NDArray[Real]:
    """Lines (C, L, w) linearly interpolated at `places` (L, S), those outside moved to the ends; shape (C, L, S)."""
    planes, count, length = lines.shape
    places = np.clip(places, 0, length - 1)
    whole = np.minimum(places.astype(np.intp), length - 2)
    share = (places - whole).astype(lines.dtype)
    flat, index = lines.reshape(planes, -1), whole + np.arange(count)[:, None] * length
    below = flat.take(index, axis=1)
    between: NDArray[Real] = flat.take(index + 1, axis=1)
    between -= below
    between *= share
    between += below
    return between
