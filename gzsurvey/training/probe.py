"""A linear classifier on stored embeddings: minutes for 50,000 labels, seconds for 100.

Letters: N galaxies, V views of each, D embedding, K classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gzsurvey.training.metrics import cross_entropy

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation per galaxy-weighted feature: from nearly constant to nearly free."""
FOLDS = 5
ONE_FOLD_FROM = 2000
"""Galaxies from which one fold says enough about the regularisation."""


@dataclass(frozen=True)
class LinearClassifier:
    """Logits are ``embedding @ weight.T + bias``."""

    weight: NDArray[np.float64]
    """Shape (K, D)."""
    bias: NDArray[np.float64]
    """Shape (K,)."""
    strength: float
    """The inverse regularisation that was chosen."""

    def probability(self, embedding: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities (N, K) of embeddings (N, D)."""
        from scipy.special import softmax

        return np.asarray(softmax(embedding @ self.weight.T + self.bias, axis=1), dtype=np.float64)


def fit_probe(
    views: NDArray[np.float32], target: NDArray[np.int64], weight: NDArray[np.float64], classes: int, seed: int
) -> LinearClassifier:
    """Fit logistic regression, its regularisation chosen by cross-validation among training galaxies.

    Parameters
    ----------
    views : float32, shape (V, N, D)
        Embeddings of training galaxies: the image itself first, then augmented copies. All
        views of a galaxy stay in one fold.
    target : int64, shape (N,)
        Classes.
    weight : float64, shape (N,)
        Of each galaxy in the loss.
    classes : int
        K.
    seed : int
        Of the folds.
    """
    mean, scale = views[0].mean(axis=0, dtype=np.float64), views[0].std(axis=0, dtype=np.float64)
    scale = np.where(scale > 1e-6 * max(float(scale.max()), 1e-12), scale, np.inf)
    standard = ((views - mean) / scale).astype(np.float64)
    strength = _choose_strength(standard, target, weight, classes, seed)
    coefficients, intercepts = _fit(standard, target, weight, classes, strength)
    slope = coefficients / scale
    return LinearClassifier(slope, intercepts - slope @ mean, strength)


def _choose_strength(
    views: NDArray[np.float64], target: NDArray[np.int64], weight: NDArray[np.float64], classes: int, seed: int
) -> float:
    folds = _folds(target, seed)
    if folds.max() < 1:
        return STRENGTHS[2]
    trials = range(1 if len(target) > ONE_FOLD_FROM else int(folds.max()) + 1)
    losses = [
        np.mean([_held_out_loss(views, target, weight, classes, (folds == fold, s)) for fold in trials])
        for s in STRENGTHS
    ]
    return STRENGTHS[int(np.argmin(losses))]


def _held_out_loss(
    views: NDArray[np.float64],
    target: NDArray[np.int64],
    weight: NDArray[np.float64],
    classes: int,
    trial: tuple[NDArray[np.bool_], float],
) -> float:
    held_out, strength = trial
    rest = ~held_out
    slope, intercepts = _fit(views[:, rest], target[rest], weight[rest], classes, strength)
    fitted = LinearClassifier(slope, intercepts, strength)
    return cross_entropy(fitted.probability(views[0, held_out]), target[held_out], weight[held_out])


def _folds(target: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Give each galaxy a fold, class by class; as many folds as the rarest class has galaxies, at most 5."""
    number = min(FOLDS, int(np.bincount(target)[np.unique(target)].min()))
    folds = np.zeros(len(target), dtype=np.int64)
    for value in np.unique(target):
        rows = np.random.default_rng([seed, int(value), FOLDS]).permutation(np.flatnonzero(target == value))
        folds[rows] = np.arange(len(rows)) % number
    return folds


def _fit(
    views: NDArray[np.float64], target: NDArray[np.int64], weight: NDArray[np.float64], classes: int, strength: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coefficients (K, D) and intercepts (K,) on all views together."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    v, _, d = views.shape
    # scikit-learn's C multiplies the summed loss: divided by V, views do not count as more galaxies.
    model = LogisticRegression(C=strength, max_iter=500)
    with warnings.catch_warnings():
        # An unfinished fit of a nearly unregularised trial only means that it is not chosen.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(views.reshape(-1, d), np.tile(target, v), sample_weight=np.tile(weight, v) / v)
    coefficients, intercepts = np.zeros((classes, d)), np.full(classes, -30.0)
    if len(model.classes_) == 2:
        # One logit between two classes becomes half of it for one and against the other.
        both = np.array([-0.5, 0.5])
        coefficients[model.classes_] = np.outer(both, model.coef_[0])
        intercepts[model.classes_] = both * model.intercept_
    else:
        coefficients[model.classes_], intercepts[model.classes_] = model.coef_, model.intercept_
    return coefficients, intercepts
