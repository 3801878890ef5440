"""Images on which an exported file is quantised and compared with torch.

Letters: N galaxies, S pixels on a side of the model's input.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gzsurvey.card import Precision
from gzsurvey.dataset.store import Store
from gzsurvey.export.graph import LARGEST_PIXEL
from gzsurvey.inference.predict import to_model_input
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.training.describe import some

SEED = 20
"""Of the choice of galaxies."""
RANGED, COMPARED = 512, 256
"""Galaxies of a store: more do not move the ranges of activations, or a mean difference."""


@dataclass(frozen=True)
class Pictures:
    """Galaxies that an export is made with, as uint8 or float32 flux."""

    ranged: NDArray[Any]
    """On which ranges of activations are measured, shape (N, 3, S, S)."""
    compared: NDArray[Any]
    """On which the file is compared with torch, shape (N, 3, S, S); N at least 1."""


def travelling_pictures(thumbnails: Sequence[str], size: int, precision: Precision) -> Pictures:
    """Return the training galaxies that travel with a model, else invented ones.

    Parameters
    ----------
    thumbnails : sequence of str
        Base64 PNG, as in checkpoints and cards.
    size : int
        S.
    precision : {"fp32", "fp16", "int8"}
        For ``int8`` every second galaxy sets ranges, and the others are compared on.
    """
    images = decode_thumbnails(thumbnails, size) if len(thumbnails) > 1 else invented_images(size)
    return Pictures(images[::2], images[1::2]) if precision == "int8" else Pictures(images, images)


def stored_pictures(store: Store) -> Pictures:
    """Return training galaxies of a store to set ranges, and validation galaxies to compare on."""
    training = some(store.rows("train"), RANGED, SEED)
    held_out = some(store.rows("validation"), COMPARED, SEED)
    rows = held_out if len(held_out) else training
    return Pictures(to_model_input(store.images(training)), to_model_input(store.images(rows)))


def decode_thumbnails(thumbnails: Sequence[str], size: int) -> NDArray[np.uint8]:
    """Read thumbnails at the model's size.

    Returns
    -------
    uint8, shape (N, 3, S, S)
        S = `size`; a thumbnail of this size is left as it is.
    """
    return to_model_input(np.stack([_decode(text, size) for text in thumbnails]))


def invented_images(size: int, count: int = 32) -> NDArray[np.uint8]:
    """Draw blurred spots on noise, for a checkpoint with which no galaxy travels.

    Returns
    -------
    uint8, shape (`count`, 3, `size`, `size`)
    """
    rng = np.random.default_rng(SEED)
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) / size
    widths = rng.uniform(0.02, 0.2, (count, 1, 1, 1))
    colours = rng.uniform(60, 230, (count, 3, 1, 1))
    spots = colours * np.exp(-(x**2 + (y * rng.uniform(1, 3, (count, 1, 1, 1))) ** 2) / (2 * widths**2))
    noise = rng.normal(12, 6, (count, 3, size, size))
    return np.asarray(np.clip(spots + noise, 0, 255).astype(np.uint8))


def invented_flux(preparation: Preparation) -> Pictures:
    """Return invented images as flux, from what the model takes for black to what it takes for white."""
    stretch = preparation.stretch
    black, white = np.arcsinh(stretch.black), np.arcsinh(stretch.white)
    shades = invented_images(preparation.image_size) / LARGEST_PIXEL
    flux = np.sinh(black + (white - black) * shades) * np.array(stretch.scales)[:, None, None]
    return Pictures(flux.astype(np.float32), flux.astype(np.float32))


def _decode(text: str, size: int) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)
