"""How far a galaxy lies from the training galaxies, in the embedding.

Letters: N galaxies, D features of the embedding, K principal components.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import EmbeddingReference

_MAX_COMPONENTS = 32
_EXPLAINED = 0.99
_MIN_GALAXIES = 20


def embedding_distance(
    embedding: NDArray[np.floating], reference: EmbeddingReference
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distance from the training galaxies, and its rank among held-out training galaxies.

    Parameters
    ----------
    embedding : float, shape (N, D)
        NaN where there is no prediction.
    reference : EmbeddingReference
        The card's.

    Returns
    -------
    distance : float32, shape (N,)
        Root mean square of the standardised coordinates along the principal components and of
        what they leave over: about 1 for a typical training galaxy.
    score : float32, shape (N,)
        Share of held-out training galaxies that lie nearer, 0 to 1.
    """
    return distance_of_coordinates(principal_coordinates(embedding, reference), reference)


def principal_coordinates(embedding: NDArray[np.floating], reference: EmbeddingReference) -> NDArray[np.float64]:
    """Coordinates along the principal components of the training galaxies.

    Parameters
    ----------
    embedding : float, shape (N, D)
        NaN where there is no prediction.
    reference : EmbeddingReference
        The card's.

    Returns
    -------
    float64, shape (N, K + 1)
        Distances from the mean along each component; last the length of what these leave over.
    """
    return _coordinates(embedding, np.asarray(reference.mean), np.asarray(reference.components))


def distance_of_coordinates(
    coordinates: NDArray[np.floating], reference: EmbeddingReference
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the same as `embedding_distance` of galaxies whose `principal_coordinates`, (N, K + 1), are known."""
    distance = _lengths(coordinates, np.asarray(reference.scales))
    quantiles = np.asarray(reference.quantiles)
    score = np.interp(distance, quantiles, np.linspace(0.0, 1.0, len(quantiles)))
    return distance.astype(np.float32), score.astype(np.float32)


def fit_reference(training: NDArray[np.floating], held_out: NDArray[np.floating]) -> EmbeddingReference:
    """Describe where training galaxies lie in the embedding.

    Parameters
    ----------
    training : float, shape (N, D)
        Embeddings of at least 20 training galaxies: mean, components, scales. As many components
        are kept as explain 99 % of the variance, at most 32.
    held_out : float, shape (M, D)
        Embeddings of other galaxies of the same kind: the quantiles of their distances.

    Raises
    ------
    ValueError
        Fewer than 20 galaxies on either side, or all embeddings are equal.
    """
    if min(len(training), len(held_out)) < _MIN_GALAXIES:
        raise ValueError(f"needs {_MIN_GALAXIES} training and held-out galaxies, got {len(training)}, {len(held_out)}")
    training = np.asarray(training, dtype=np.float64)
    mean = training.mean(axis=0)
    _, singular, directions = np.linalg.svd(training - mean, full_matrices=False)
    variance = singular**2 / len(training)
    if not variance.sum() > 0:
        raise ValueError("all embeddings are equal")
    explained = np.cumsum(variance) / variance.sum()
    k = min(int(np.searchsorted(explained, _EXPLAINED)) + 1, _MAX_COMPONENTS)
    components = _upright(directions[:k])
    residual = np.sqrt(max(variance[k:].sum(), 1e-6 * variance.sum()))
    scales = np.append(np.sqrt(variance[:k]), residual)
    distances = _lengths(_coordinates(held_out, mean, components), scales)
    return EmbeddingReference(
        mean=tuple(map(float, mean)),
        components=tuple(tuple(map(float, row)) for row in components),
        scales=tuple(map(float, scales)),
        quantiles=tuple(map(float, np.quantile(distances, np.linspace(0.0, 1.0, 101)))),
    )


def _coordinates(
    embedding: NDArray[np.floating], mean: NDArray[np.float64], components: NDArray[np.float64]
) -> NDArray[np.float64]:
    centred = np.asarray(embedding, dtype=np.float64) - mean
    # One product per galaxy, all of one shape: the same bits whatever N.
    along = (centred[:, np.newaxis, :] @ components.T)[:, 0]
    rest = np.sum(centred**2, axis=1) - np.sum(along**2, axis=1)
    left_over = np.sqrt(np.where(rest < 0, 0.0, rest))
    return np.column_stack([along, left_over])


def _lengths(coordinates: NDArray[np.floating], scales: NDArray[np.float64]) -> NDArray[np.float64]:
    standardised = np.asarray(coordinates, dtype=np.float64) / scales
    return np.asarray(np.sqrt(np.mean(standardised**2, axis=1)))


def _upright(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Choose the sign of each direction so that its largest part is positive."""
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    return np.asarray(directions * signs[:, np.newaxis])
