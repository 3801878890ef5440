"""Metrics of many bootstrap resamples at once, paired between arms.

Letters: N test galaxies, K classes, R resamples, S runs (each a pretraining and a seed of subset and finetuning).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

METRICS = ("accuracy", "balanced_accuracy", "roc_auc")
LEVEL = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """Which galaxies and runs each resample holds; the same for every arm, so that differences are paired."""

    galaxies: Floats
    """How often each galaxy is drawn, shape (R, N)."""
    runs: NDArray[np.int64]
    """Which runs are averaged, shape (R, S)."""

    @staticmethod
    def of(n: int, pretrainings: int, seeds: int, resamples: int, seed: int) -> Draws:
        """Draw resamples with replacement: of `n` galaxies, of pretrainings, and of seeds of subset and finetuning.

        Galaxies and seeds are drawn alike whatever the number of pretrainings.
        """
        galaxies = np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1.0 / n), size=resamples)
        finetuned = np.random.default_rng([seed, seeds, 1]).integers(seeds, size=(resamples, 1, seeds))
        pretrained = np.random.default_rng([seed, 2]).integers(pretrainings, size=(resamples, pretrainings, 1))
        return Draws(galaxies.astype(np.float64), (pretrained * seeds + finetuned).reshape(resamples, -1))


def resampled(
    probability: list[NDArray[np.floating]], target: list[NDArray[np.int64]], draws: Draws
) -> dict[str, tuple[float, Floats]]:
    """Measure an arm on the whole test set and on every resample.

    Parameters
    ----------
    probability : list of S arrays, float, shape (N, K)
        One per run, all seeds of the first pretraining first.
    target : list of S arrays, int64, shape (N,)
        Classes of the same galaxies.
    draws : Draws
        As for the arm it is compared with.

    Returns
    -------
    dict of str to (float, float64 of shape (R,))
        By metric: mean over runs, and the same of each resample.
    """
    whole = np.ones((1, len(target[0])))
    points = [weighted_metrics(p, t, whole) for p, t in zip(probability, target, strict=True)]
    spread = [weighted_metrics(p, t, draws.galaxies) for p, t in zip(probability, target, strict=True)]
    return {
        name: (
            float(np.mean([point[name][0] for point in points])),
            np.take_along_axis(np.stack([s[name] for s in spread], axis=1), draws.runs, axis=1).mean(axis=1),
        )
        for name in METRICS
    }


def interval(values: Floats) -> tuple[float, float]:
    """Return the central 95 % of resampled values."""
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def weighted_metrics(probability: NDArray[np.floating], target: NDArray[np.int64], weight: Floats) -> dict[str, Floats]:
    """Measure classes where galaxies count several times or not at all.

    Parameters
    ----------
    probability : float, shape (N, K)
    target : int64, shape (N,)
    weight : float64, shape (R, N)
        How often each galaxy counts, in each of R resamples.

    Returns
    -------
    dict of str to float64, shape (R,)
        `METRICS`. ROC-AUC of more than two classes: mean over classes, each against the rest.
    """
    right = (probability.argmax(axis=1) == target).astype(np.float64)
    member = np.equal.outer(target, np.arange(probability.shape[1])).astype(np.float64)
    per_class = weight @ member
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = (weight @ (member * right[:, None])) / per_class
    columns = [1] if probability.shape[1] == 2 else range(probability.shape[1])
    areas = [weighted_auc(probability[:, k], member[:, k], weight) for k in columns]
    return {
        "accuracy": (weight @ right) / weight.sum(axis=1),
        "balanced_accuracy": _mean_of_known(recall),
        "roc_auc": _mean_of_known(np.stack(areas, axis=1)),
    }


def _mean_of_known(values: Floats) -> Floats:
    """Mean over the last axis without NaN, NaN where all are."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=-1) / known.sum(axis=-1))


def weighted_auc(score: NDArray[np.floating], positive: Floats, weight: Floats) -> Floats:
    """Area under the ROC curve, ties counted half, shape (R,); NaN where a class is absent.

    Parameters
    ----------
    score, positive : float, shape (N,)
        Positive is 1 or 0.
    weight : float64, shape (R, N)
    """
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf) > 0)
    ups = np.add.reduceat(weight[:, order] * positive[order], starts, axis=1)
    downs = np.add.reduceat(weight[:, order] * (1.0 - positive[order]), starts, axis=1)
    below = np.cumsum(downs, axis=1) - 0.5 * downs
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((ups * below).sum(axis=1) / (ups.sum(axis=1) * downs.sum(axis=1)))
