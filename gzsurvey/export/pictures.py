"""Images on which an exported file is compared with torch.

Letters: N galaxies, S pixels on a side of the model's input.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gzsurvey.inference.predict import to_model_input

_SEED = 20


def comparison_images(thumbnails: Sequence[str], size: int) -> NDArray[np.uint8]:
    """Return the training galaxies that travel with a model, else invented ones.

    Parameters
    ----------
    thumbnails : sequence of str
        Base64 PNG, as in checkpoints and cards.
    size : int
        S.

    Returns
    -------
    uint8, shape (N, 3, S, S)
        N at least 1.
    """
    return decode_thumbnails(thumbnails, size) if thumbnails else invented_images(size)


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
    rng = np.random.default_rng(_SEED)
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) / size
    widths = rng.uniform(0.02, 0.2, (count, 1, 1, 1))
    colours = rng.uniform(60, 230, (count, 3, 1, 1))
    spots = colours * np.exp(-(x**2 + (y * rng.uniform(1, 3, (count, 1, 1, 1))) ** 2) / (2 * widths**2))
    noise = rng.normal(12, 6, (count, 3, size, size))
    return np.asarray(np.clip(spots + noise, 0, 255).astype(np.uint8))


def _decode(text: str, size: int) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)
