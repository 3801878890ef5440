"""One function for training and survey: from pixels to a model's input."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gzsurvey.images.frame import Frame
from gzsurvey.images.stretch import to_rgb
from gzsurvey.recipes.preparation import Preparation, Stretch


def frame_of(preparation: Preparation, fov_arcsec: float) -> Frame:
    """Pixel grid to ask of a flux source, so that `prepare_cutout` has nothing left to crop.

    Parameters
    ----------
    preparation : Preparation
        Image size and crop.
    fov_arcsec : float
        Width of the whole field of view by the scale rule, before the crop.
    """
    return Frame(preparation.image_size, fov_arcsec * preparation.crop / preparation.image_size)


def prepare_cutout(pixels: NDArray[np.generic], preparation: Preparation) -> NDArray[Any]:
    """Turn the pixels of any source into a model's input.

    Parameters
    ----------
    pixels : float, shape (C, H, W), or uint8, shape (H, W, 3)
        Flux on the grid of `frame_of`, or a ready image.
    preparation : Preparation
        As pinned in the model's card.

    Returns
    -------
    uint8, shape (S, S, 3)
        A picture, row 0 in the north. With the stretch ``flux``: float32 nanomaggies in the stretch's unit, planes
        in the order of the preparation's bands, 0 where there is no data.

    Raises
    ------
    ValueError
        `pixels` are neither, or a picture where flux is needed.
    """
    if preparation.is_flux:
        return _prepared_flux(pixels, preparation)
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3:
        return prepare_picture(pixels.astype(np.uint8, copy=False), preparation)
    if np.issubdtype(pixels.dtype, np.floating) and pixels.ndim == 3:
        return _resized(to_rgb(pixels.astype(np.float32, copy=False), preparation), preparation.image_size)
    raise ValueError(f"pixels must be float (C, H, W) or uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")


def _prepared_flux(pixels: NDArray[np.generic], preparation: Preparation) -> NDArray[np.float32]:
    shape = (len(preparation.bands), preparation.image_size, preparation.image_size)
    if not np.issubdtype(pixels.dtype, np.floating) or pixels.shape != shape:
        raise ValueError(f"a flux model needs float pixels of shape {shape}, got {pixels.dtype} {pixels.shape}")
    cube = np.nan_to_num(pixels.astype(np.float32, copy=False), nan=0.0, posinf=0.0, neginf=0.0)
    return np.ascontiguousarray(np.moveaxis(cube[:, ::-1], 0, -1))


def shown(prepared: NDArray[Any], preparation: Preparation) -> NDArray[np.uint8]:
    """Return a prepared image as a picture for people, uint8, shape (S, S, 3): flux in the Galaxy Zoo DECaLS look."""
    if not preparation.is_flux:
        return prepared
    look = Stretch(reference_scale_arcsec=preparation.stretch.reference_scale_arcsec)
    planes = np.moveaxis(prepared, -1, 0)[:, ::-1]
    return to_rgb(planes, preparation.model_copy(update={"stretch": look}))


def prepare_picture(picture: NDArray[np.uint8], preparation: Preparation) -> NDArray[np.uint8]:
    """Crop a ready image around its centre and resize it without aliasing.

    Parameters
    ----------
    picture : uint8, shape (H, W, 3)
        Row 0 on top.
    preparation : Preparation
        Image size and crop; the crop is a share of the shorter side.

    Returns
    -------
    uint8, shape (S, S, 3)
    """
    height, width = picture.shape[:2]
    side = min(height, width) * preparation.crop
    left, top = (width - side) / 2, (height - side) / 2
    return _resized(picture, preparation.image_size, (left, top, left + side, top + side))


def _resized(
    picture: NDArray[np.uint8], size: int, box: tuple[float, float, float, float] | None = None
) -> NDArray[np.uint8]:
    if box is None and picture.shape[:2] == (size, size):
        return picture
    image = Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS, box=box)
    return np.asarray(image, dtype=np.uint8)
