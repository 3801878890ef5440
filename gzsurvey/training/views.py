"""Embeddings of galaxies as they are and of augmented copies, for classifiers on a frozen encoder.

Letters: N galaxies, V views, D embedding, S pixels on a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gzsurvey.model.network import Network
from gzsurvey.progress import Progress
from gzsurvey.recipes.training import FinetuneRecipe
from gzsurvey.training import describe
from gzsurvey.training.augment import augment, draw
from gzsurvey.training.data import as_input, as_stored, seed_of

MAX_EMBEDDED = 20_000
"""Augmented copies embedded in all: with many labels each needs fewer."""


def embedded_views(
    network: Network, images: NDArray[Any], rows: NDArray[np.int64], recipe: FinetuneRecipe, device: torch.device
) -> NDArray[np.float32]:
    """Embed some galaxies, then augmented copies of them.

    Parameters
    ----------
    network : Network
        Its encoder is used as it is.
    images : uint8, or float32 flux, shape (n, S, S, 3)
        May be mapped from disk.
    rows : int64, shape (N,)
        Which of them.
    recipe : FinetuneRecipe
        `views`, `augmentation` and `seed`.
    device : torch.device
        Where the network is.

    Returns
    -------
    float32, shape (V, N, D)
        The images as they are first.
    """
    views = 1 + min(recipe.views, MAX_EMBEDDED // len(rows))
    shown = Progress("embed", views * len(rows), "images")
    embedded = []
    for view in range(views):
        parts = (rows[start : start + describe.AT_A_TIME] for start in range(0, len(rows), describe.AT_A_TIME))
        embedded.append(describe.embed(network, _pixels(images, parts, recipe, view, device), device))
        shown.advance(len(rows))
    shown.finish()
    return np.stack(embedded)


def _pixels(
    images: NDArray[Any],
    parts: Iterator[NDArray[np.int64]],
    recipe: FinetuneRecipe,
    view: int,
    device: torch.device,
) -> Iterator[NDArray[Any]]:
    for part in parts:
        pixels = images[part]
        if view:
            stored = torch.from_numpy(pixels)
            seed = seed_of(recipe.seed, int(part[0]), view)
            drawn = augment(as_input(stored.to(device)), draw(recipe.augmentation, len(part), seed))
            pixels = as_stored(drawn, stored.dtype).cpu().numpy()
        yield pixels
