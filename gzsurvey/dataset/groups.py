"""Which galaxies are the same one, and which part of the store each falls in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from gzsurvey.recipes.dataset import Splits

SAME_GALAXY_ARCSEC = 5.0
"""Images centred closer than this show the same galaxy."""
_RANK = {"": -1, "train": 0, "validation": 1, "test": 2}
_NAMES = np.array(["train", "validation", "test"])

Floats = NDArray[np.float64]


def unit_vectors(ra_deg: Floats, dec_deg: Floats) -> Floats:
    """Return points on the unit sphere, float64, shape (N, 3)."""
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.column_stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def chord(arcsec: float) -> float:
    """Return the straight distance on the unit sphere that an angle spans."""
    return float(2.0 * np.sin(np.radians(arcsec / 3600.0) / 2.0))


def near(ra_deg: Floats, dec_deg: Floats, others: tuple[Floats, Floats], arcsec: float) -> NDArray[np.bool_]:
    """Say which positions lie within `arcsec` of any of `others`.

    Parameters
    ----------
    ra_deg, dec_deg : float64, shape (N,)
        NaN: not known, near nothing.
    others : tuple of two float64 arrays
        Right ascensions and declinations, degrees.

    Returns
    -------
    bool, shape (N,)
    """
    found = np.zeros(len(ra_deg), dtype=np.bool_)
    known, theirs = np.isfinite(ra_deg), np.isfinite(others[0])
    if known.any() and theirs.any():
        tree = cKDTree(unit_vectors(others[0][theirs], others[1][theirs]))
        distance, _ = tree.query(unit_vectors(ra_deg[known], dec_deg[known]), distance_upper_bound=chord(arcsec))
        found[known] = np.isfinite(distance)
    return found


def group_heads(ra_deg: Floats, dec_deg: Floats, hashes: Sequence[str]) -> NDArray[np.int64]:
    """Group rows that show the same galaxy: near on the sky, or of identical pixels.

    Parameters
    ----------
    ra_deg, dec_deg : float64, shape (N,)
        Degrees ICRS, NaN where not known.
    hashes : sequence of str, length N
        Of the pixels.

    Returns
    -------
    int64, shape (N,)
        The first row of each row's group.
    """
    n = len(ra_deg)
    known = np.flatnonzero(np.isfinite(ra_deg))
    pairs = np.empty((0, 2), dtype=np.int64)
    if len(known) > 1:
        tree = cKDTree(unit_vectors(ra_deg[known], dec_deg[known]))
        pairs = known[tree.query_pairs(chord(SAME_GALAXY_ARCSEC), output_type="ndarray").reshape(-1, 2)]
    codes = pd.factorize(np.asarray(hashes, dtype=object))[0]
    first = np.full(codes.max(initial=-1) + 1, n, dtype=np.int64)
    np.minimum.at(first, codes, np.arange(n))
    pairs = np.vstack([pairs, np.column_stack([first[codes], np.arange(n)])])
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    count, labels = connected_components(graph, directed=False)
    heads = np.full(count, n, dtype=np.int64)
    np.minimum.at(heads, labels, np.arange(n))
    return heads[labels]


def assign_splits(galaxies: pd.DataFrame, splits: Splits, seed: int) -> NDArray[np.str_]:
    """Put every galaxy into train, validation or test, a group as a whole.

    A group's part depends on the seed and on its first galaxy alone, so another source
    at the end of a recipe moves no galaxy. A published split holds for its whole group;
    where a group has several, test wins over validation over train.

    Parameters
    ----------
    galaxies : DataFrame
        Columns source, id, ra, dec, image_sha256, published.
    splits : Splits
        Shares.
    seed : int
        Of the recipe.

    Returns
    -------
    str, shape (N,)
    """
    heads = group_heads(galaxies["ra"].to_numpy(), galaxies["dec"].to_numpy(), galaxies["image_sha256"].tolist())
    keys = (galaxies["source"] + "/" + galaxies["id"]).to_numpy()
    unique, group = np.unique(heads, return_inverse=True)
    draw = np.array([_uniform(f"{seed}:split:{keys[head]}") for head in unique])
    part = np.searchsorted(np.cumsum([splits.train, splits.validation]), draw, side="right")
    published = np.full(len(unique), -1)
    np.maximum.at(published, group, galaxies["published"].map(_RANK).to_numpy(dtype=np.int64))
    again = np.array([_uniform(f"{seed}:validation:{keys[head]}") for head in unique])
    published[(published == 0) & (again < splits.validation_from_train)] = 1
    names: NDArray[np.str_] = _NAMES[np.where(published >= 0, published, part)[group]]
    return names


def _uniform(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
