"""How well classes are predicted: confusion, purity and completeness at a prevalence, ROC.

Letters: N galaxies, K classes, R resamples, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gzsurvey.evaluation.intervals import Floats, Measure, weighted_mean, weighted_metrics

CLASS_MEASURES = ("accuracy", "balanced_accuracy", "roc_auc", "log_loss")
CUT_MEASURES = ("threshold", "purity", "completeness")
_LEAST = 1e-12


@dataclass(frozen=True)
class Curve:
    """What a cut at each threshold gives, the highest threshold first."""

    threshold: Floats
    """Shape (T,)."""
    purity: Floats
    """Share of the chosen that are of the class, shape (R, T); NaN where a class has no example."""
    completeness: Floats
    """Share of the class that is chosen, shape (R, T)."""
    contamination: Floats
    """Share of the others that is chosen, shape (R, T): the abscissa of a ROC."""


def confusion(probability: Floats, target: NDArray[np.int64]) -> NDArray[np.int64]:
    """Galaxies by true class (rows) and most probable class (columns), int64, shape (K, K)."""
    k = probability.shape[1]
    return np.bincount(target * k + probability.argmax(axis=1), minlength=k * k).reshape(k, k)


def class_measure(probability: Floats, target: NDArray[np.int64]) -> Measure:
    """Return what gives `CLASS_MEASURES` of resampled galaxies, (R, N) to (R, 4)."""
    loss = -np.log(np.clip(probability[np.arange(len(target)), target], _LEAST, 1.0))

    def measure(weight: Floats) -> Floats:
        found = weighted_metrics(probability, target, weight)
        return np.column_stack([*found.values(), weighted_mean(loss[:, np.newaxis], weight)[:, 0]])

    return measure


def curve(score: Floats, target: NDArray[np.int64], k: int, prevalence: Floats, weight: Floats) -> Curve:
    """Cut at every threshold.

    Of a class j, the share chosen at a threshold is measured among its labelled galaxies; with prevalences
    p, purity is ``p_k c_k / sum_j p_j c_j``, whatever the balance of the labels.

    Parameters
    ----------
    score : float, shape (N,)
        Of class `k`; galaxies of a score at least the threshold are chosen.
    target : int64, shape (N,)
        Classes.
    k : int
        The class that is chosen.
    prevalence : float, shape (K,)
        Shares of the classes in the survey.
    weight : float64, shape (R, N)
        How often each galaxy counts.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order]) < 0), len(score) - 1)
    member = np.equal.outer(target, np.arange(len(prevalence))).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        each = np.where(prevalence > 0, prevalence / (weight @ member), 0.0)
    each = np.where(np.isfinite(each), each, np.nan)
    share = np.take(each, target, axis=1) * weight
    mine = target[order] == k
    chosen = np.cumsum(share[:, order] * mine, axis=1)[:, ends]
    others = np.cumsum(share[:, order] * ~mine, axis=1)[:, ends]
    missing = ~np.isfinite(each).all(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        purity = np.where(missing, np.nan, chosen / (chosen + others))
        completeness = np.where(missing, np.nan, chosen / prevalence[k])
        contamination = np.where(missing, np.nan, others / (prevalence.sum() - prevalence[k]))
    return Curve(score[order][ends].astype(np.float64), purity, completeness, contamination)


def cut_measure(score: Floats, target: NDArray[np.int64], k: int, prevalence: Floats, purity: float) -> Measure:
    """Return what gives the lowest threshold of a purity, purity and completeness there, (R, N) to (R, 3).

    Parameters are those of `curve`. Where no threshold is that pure, threshold and purity are NaN and
    completeness is 0.
    """

    def measure(weight: Floats) -> Floats:
        found = curve(score, target, k, prevalence, weight)
        pure = found.purity >= purity
        # Thresholds fall, so the last pure one is the lowest.
        last = pure.shape[1] - 1 - pure[:, ::-1].argmax(axis=1)
        rows, reached = np.arange(len(weight)), pure.any(axis=1)
        unknown = ~np.isfinite(found.completeness[:, -1])
        return np.column_stack([
            np.where(reached, found.threshold[last], np.nan),
            np.where(reached, found.purity[rows, last], np.nan),
            np.where(reached, found.completeness[rows, last], np.where(unknown, np.nan, 0.0)),
        ])  # fmt: skip

    return measure


def threshold_measure(
    score: Floats, target: NDArray[np.int64], k: int, prevalence: Floats, threshold: float
) -> Measure:
    """Return what gives purity and completeness at a threshold that is given, (R, N) to (R, 2)."""

    def measure(weight: Floats) -> Floats:
        found = curve((score >= threshold).astype(np.float64), target, k, prevalence, weight)
        if found.threshold[0] < 1.0:
            nothing = np.full(len(weight), np.nan)
            return np.column_stack([nothing, np.zeros(len(weight))])
        return np.column_stack([found.purity[:, 0], found.completeness[:, 0]])

    return measure
