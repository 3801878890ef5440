"""What a checkpoint should know of the galaxies it was trained on.

Letters: N galaxies, D embedding, S pixels on a side.
"""

from __future__ import annotations

import base64
import io
import platform
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gzsurvey.card import EmbeddingReference, TrainingRange
from gzsurvey.dataset.store import ROWS_AT_A_TIME, Store
from gzsurvey.images.prepare import shown
from gzsurvey.model.network import Network
from gzsurvey.outliers import fit_reference
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.sky.healpix import NO_CELL, cells
from gzsurvey.training.data import as_input, read_ahead

THUMBNAILS = 64
REFERENCE_GALAXIES = 20_000
"""More do not change 32 principal components and 101 quantiles."""
MAX_CELLS = 1_000_000
CELL_ORDER = 18
AT_A_TIME = 256


def embed(network: Network, images: Iterable[NDArray[Any]], device: torch.device) -> NDArray[np.float32]:
    """Embed images as they are, without augmentation.

    Parameters
    ----------
    network : Network
        Left in evaluation mode.
    images : iterable of uint8, or float32 flux, shape (n, S, S, 3)
        Parts of one collection.
    device : torch.device
        Where the network is.

    Returns
    -------
    float32, shape (N, D)
    """
    network.eval()
    parts = []
    with torch.inference_mode():
        for part in read_ahead(images):
            parts.append(network.encoder(as_input(torch.from_numpy(part).to(device))).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.empty((0, network.embedding_size), np.float32)


def in_parts(store: Store, rows: NDArray[np.int64]) -> Iterable[NDArray[Any]]:
    """Yield the images of `rows`, a few hundred at a time."""
    return (store.images(rows[start : start + AT_A_TIME]) for start in range(0, len(rows), AT_A_TIME))


def embedding_reference(training: NDArray[np.float32], held_out: NDArray[np.float32]) -> EmbeddingReference | None:
    """Describe where training galaxies lie in the embedding.

    Parameters
    ----------
    training, held_out : float32, shape (N, D)
        Embeddings; the held-out galaxies trained nothing.

    Returns
    -------
    EmbeddingReference or None
        None where there are fewer than 20 of either.
    """
    return fit_reference(training, held_out) if min(len(training), len(held_out)) >= 20 else None


def thumbnails(images: NDArray[Any], preparation: Preparation) -> tuple[str, ...]:
    """Write prepared images (N, S, S, 3), as people would see them, as base64 PNG."""
    return tuple(as_png(shown(image, preparation)) for image in images)


def as_png(image: NDArray[np.uint8]) -> str:
    """Write one picture (S, S, 3) as base64 PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def most_voted_campaign(store: Store, voted: NDArray[np.int64]) -> str | None:
    """Name of the campaign that gave most of the votes of these galaxies; None where there are none."""
    totals = dict.fromkeys(store.tree.campaigns, 0)
    answers = sum(store.vote_counts(part).sum(axis=0) for part in np.array_split(voted, len(voted) // 65_536 + 1))
    for question in store.tree.questions:
        totals[question.campaign] += int(np.asarray(answers)[question.columns].sum())
    best = max(totals, key=lambda name: totals[name])
    return best if totals[best] else None


def training_ranges(store: Store, voted: NDArray[np.int64]) -> dict[str, TrainingRange]:
    """Smallest and largest half-light radius and magnitude of the galaxies whose votes were used."""
    ranges = {}
    for column in ("r50", "mag"):
        values = store.numbers(column, voted)
        known = values[np.isfinite(values)]
        if len(known):
            ranges[column] = TrainingRange(low=float(known.min()), high=float(known.max()))
    return ranges


def training_cells(
    store: Store, voted: NDArray[np.int64], seen: NDArray[np.int64]
) -> dict[str, tuple[int, ...]] | None:
    """Order-18 cells of the training galaxies.

    Returns
    -------
    dict or None
        ``voted`` and ``seen`` (without votes); None where a galaxy has no position, or where
        there are more than a million cells.
    """
    groups = {"voted": voted, "seen": seen}
    return known_cells({name: cells_of(*_positions(store, rows)) for name, rows in groups.items()})


def _positions(store: Store, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return store.numbers("ra", rows), store.numbers("dec", rows)


def cells_of(ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the order-18 cells of positions, each once, `NO_CELL` among them where one is NaN."""
    found = np.empty(len(ra_deg), np.int64)
    for start in range(0, len(ra_deg), ROWS_AT_A_TIME):
        piece = slice(start, start + ROWS_AT_A_TIME)
        found[piece] = cells(ra_deg[piece], dec_deg[piece], CELL_ORDER)
    # In place: np.unique of millions of integers builds a table of several times their size.
    found.sort()
    first: NDArray[np.bool_] = np.append(True, found[1:] != found[:-1])[: len(found)]
    return np.compress(first, found)


def known_cells(groups: dict[str, NDArray[np.int64]]) -> dict[str, tuple[int, ...]] | None:
    """Return the groups' cells; None where a position is unknown or there are too many."""
    if any((part == NO_CELL).any() for part in groups.values()) or sum(map(len, groups.values())) > MAX_CELLS:
        return None
    return {name: tuple(part.tolist()) for name, part in groups.items()}


def versions() -> dict[str, str]:
    """Versions of what decides about the weights."""
    packages = ("gzsurvey", "torch", "timm", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def provenance(store: Store) -> dict[str, Any]:
    """Return what a checkpoint inherits from its store."""
    info = store.info
    return {"credits": info.credits, "simulated": info.simulated, "dataset_sha256": info.content_sha256}


def some(rows: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Return at most `n` of `rows`, drawn by `seed`, in ascending order."""
    if len(rows) <= n:
        return rows
    return np.sort(np.random.default_rng([seed, n]).choice(rows, n, replace=False))
