"""How good predicted classes are.

Letters: N galaxies, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def class_metrics(
    probability: NDArray[np.floating], target: NDArray[np.int64], weight: NDArray[np.float64] | None = None
) -> dict[str, float]:
    """Measure predicted classes against labels.

    Parameters
    ----------
    probability : float, shape (N, K)
        Rows add up to 1.
    target : int64, shape (N,)
        The labels.
    weight : float64, shape (N,), optional
        Of each label in the loss.

    Returns
    -------
    dict of str to float
        ``accuracy``, ``balanced_accuracy`` (mean over classes present), ``loss`` (cross
        entropy), and ``roc_auc`` where every class is present (several classes: mean over
        classes, each against the rest).
    """
    predicted = probability.argmax(axis=1)
    right = predicted == target
    present = np.unique(target)
    measured = {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean([right[target == k].mean() for k in present])),
        "loss": cross_entropy(probability, target, weight),
    }
    if len(present) == probability.shape[1]:
        measured["roc_auc"] = _roc_auc(probability, target)
    return measured


def cross_entropy(
    probability: NDArray[np.floating], target: NDArray[np.int64], weight: NDArray[np.float64] | None = None
) -> float:
    """Weighted mean of minus the logarithm of the probability of the true class."""
    chosen = probability[np.arange(len(target)), target]
    return float(np.average(-np.log(np.clip(chosen, 1e-12, 1.0)), weights=weight))


def _roc_auc(probability: NDArray[np.floating], target: NDArray[np.int64]) -> float:
    from sklearn.metrics import roc_auc_score

    if probability.shape[1] == 2:
        return float(roc_auc_score(target, probability[:, 1]))
    return float(np.mean([roc_auc_score(target == k, probability[:, k]) for k in range(probability.shape[1])]))
