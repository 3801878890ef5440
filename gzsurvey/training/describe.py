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
from gzsurvey.dataset.store import Store
from gzsurvey.inference.outliers import fit_reference
from gzsurvey.model.network import Network
from gzsurvey.sky.healpix import NO_CELL, cells
from gzsurvey.training.data import as_input, read_ahead

THUMBNAILS = 64
REFERENCE_GALAXIES = 20_000
"""More do not change 32 principal components and 101 quantiles."""
MAX_CELLS = 1_000_000
CELL_ORDER = 18
AT_A_TIME = 256


def embed(network: Network, images: Iterable[NDArray[np.uint8]], device: torch.device) -> NDArray[np.float32]:
    """Embed pictures as they are, without augmentation.

    Parameters
    ----------
    network : Network
        Left in evaluation mode.
    images : iterable of uint8, shape (n, S, S, 3)
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


def in_parts(store: Store, rows: NDArray[np.int64]) -> Iterable[NDArray[np.uint8]]:
    """Yield the images of `rows`, a few hundred at a time."""
    return (store.images(rows[start : start + AT_A_TIME]) for start in range(0, len(rows), AT_A_TIME))


def embedding_reference(
    network: Network, store: Store, training: NDArray[np.int64], device: torch.device, seed: int
) -> EmbeddingReference | None:
    """Describe where the training galaxies lie in the embedding.

    Returns
    -------
    EmbeddingReference or None
        Quantiles are those of validation galaxies, which trained nothing; None where there are
        fewer than 20 of either.
    """
    held_out = _some(store.rows("validation"), REFERENCE_GALAXIES, seed)
    chosen = _some(training, REFERENCE_GALAXIES, seed)
    if min(len(chosen), len(held_out)) < 20:
        return None
    return fit_reference(
        embed(network, in_parts(store, chosen), device), embed(network, in_parts(store, held_out), device)
    )


def thumbnails(store: Store, rows: NDArray[np.int64], seed: int) -> tuple[str, ...]:
    """Return up to 64 galaxies as base64 PNG."""
    return tuple(as_png(image) for image in store.images(_some(rows, THUMBNAILS, seed)))


def as_png(image: NDArray[np.uint8]) -> str:
    """Write one picture (S, S, 3) as base64 PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def training_ranges(store: Store, voted: NDArray[np.int64]) -> dict[str, TrainingRange]:
    """Smallest and largest half-light radius and magnitude of the galaxies whose votes were used."""
    ranges = {}
    for column in ("r50", "mag"):
        values = store.galaxies[column].to_numpy(dtype=np.float64)[voted]
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
    found = {name: _cells(store, rows) for name, rows in groups.items()}
    if any((part == NO_CELL).any() for part in found.values()) or sum(map(len, found.values())) > MAX_CELLS:
        return None
    return {name: tuple(part.tolist()) for name, part in found.items()}


def versions() -> dict[str, str]:
    """Versions of what decides about the weights."""
    packages = ("gzsurvey", "torch", "timm", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def provenance(store: Store) -> dict[str, Any]:
    """Return what a checkpoint inherits from its store."""
    info = store.info
    return {"credits": info.credits, "simulated": info.simulated, "dataset_sha256": info.content_sha256}


def _cells(store: Store, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    table = store.galaxies
    ra, dec = (table[name].to_numpy(dtype=np.float64)[rows] for name in ("ra", "dec"))
    return np.unique(cells(ra, dec, CELL_ORDER))


def _some(rows: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Return at most `n` of `rows`, drawn by `seed`, in ascending order."""
    if len(rows) <= n:
        return rows
    return np.sort(np.random.default_rng([seed, n]).choice(rows, n, replace=False))
