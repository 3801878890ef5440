"""Bootstrap intervals: what a number would have been with other galaxies.

Letters: N galaxies, K classes, R resamples, V values measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
_AT_A_TIME = 4_000_000
"""Numbers of resamples times galaxies held at once."""

Floats = NDArray[np.float64]
Measure = Callable[[Floats], Floats]
"""From how often each galaxy counts, (R, N), to values of each resample, (R, V)."""


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn."""

    resamples: int = 500
    level: float = LEVEL
    seed: int = 69

    def estimate(self, measure: Measure, n: int) -> Estimates:
        """Measure `n` galaxies, and resamples of them with replacement.

        Parameters
        ----------
        measure : callable
            NaN where a value is not defined: such resamples are left out of its interval.
        n : int
            Galaxies. Equal numbers are resampled equally, so that two measures of the same galaxies are paired.
        """
        value = measure(np.ones((1, n)))[0]
        rng, drawn, step = np.random.default_rng([self.seed, n]), [], max(1, _AT_A_TIME // n)
        for start in range(0, self.resamples, step):
            size = min(step, self.resamples - start)
            drawn.append(measure(rng.multinomial(n, np.full(n, 1.0 / n), size=size).astype(np.float64)))
        low, high = interval(np.concatenate(drawn), self.level)
        return Estimates(value, np.where(np.isfinite(value), low, np.nan), np.where(np.isfinite(value), high, np.nan))


@dataclass(frozen=True)
class Estimates:
    """Values with their intervals, each float64, shape (V,)."""

    value: Floats
    low: Floats
    high: Floats

    def named(self, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
        """Return ``{name: {value, low, high}}``, as it stands in ``evaluation.json``."""
        rows = zip(names, self.value.tolist(), self.low.tolist(), self.high.tolist(), strict=True)
        return {name: {"value": value, "low": low, "high": high} for name, value, low, high in rows}


def interval(values: Floats, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Return the central part of resampled values (R, ...), without NaN; NaN where all are."""
    known = np.isfinite(values).any(axis=0)
    filled = np.where(known, values, 0.0)
    low, high = np.nanquantile(filled, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], axis=0)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


def weighted_mean(values: Floats, weight: Floats) -> Floats:
    """Mean over galaxies, (N, V) and (R, N) to (R, V); NaN values count for nothing."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((weight @ np.where(known, values, 0.0)) / (weight @ known))


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
        ``accuracy``, ``balanced_accuracy``, ``roc_auc``. ROC-AUC of more than two classes: mean over
        classes, each against the rest.
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
