"""How well a number is predicted.

Letters: N galaxies, M members of the mixture, R resamples.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm

from gzsurvey.evaluation.intervals import Floats, Measure, weighted_mean

NUMBER_MEASURES = ("rmse", "bias", "mae", "scatter", "outliers", "log_likelihood")
_MAD_TO_SIGMA = 1.482602218505602
"""Standard deviation of a normal distribution over its median absolute deviation."""


def number_measure(moments: Floats, truth: Floats, outlier: float) -> Measure:
    """Return what gives `NUMBER_MEASURES` of resampled galaxies, (R, N) to (R, 6).

    ``bias`` is the mean error, ``scatter`` 1.48 times the median absolute deviation of the errors from their
    median, and ``outliers`` the share of galaxies whose error lies further than `outlier` times the scatter
    of all galaxies from the median error.

    Parameters
    ----------
    moments : float, shape (N, M, 2)
        Mean and standard deviation of each member.
    truth : float, shape (N,)
        The numbers.
    outlier : float
        In units of the scatter.
    """
    error = moments[:, :, 0].mean(axis=1) - truth
    away = np.abs(error - np.median(error))
    far = away > outlier * _MAD_TO_SIGMA * np.median(away)
    likelihood = logsumexp(norm.logpdf(truth[:, np.newaxis], moments[:, :, 0], moments[:, :, 1]), axis=1)
    likelihood -= np.log(moments.shape[1])
    per_galaxy = np.column_stack([error**2, error, np.abs(error), far, likelihood])

    def measure(weight: Floats) -> Floats:
        squared, bias, mae, outliers, likelihood = weighted_mean(per_galaxy, weight).T
        middle = weighted_median(error, weight)
        scatter = [weighted_median(np.abs(error - m), w[np.newaxis])[0] for m, w in zip(middle, weight, strict=True)]
        return np.column_stack([np.sqrt(squared), bias, mae, _MAD_TO_SIGMA * np.array(scatter), outliers, likelihood])

    return measure


def weighted_median(values: Floats, weight: Floats) -> Floats:
    """Median of values (N,) that count as often as `weight` (R, N) says, shape (R,)."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weight[:, order], axis=1)
    half = below[:, -1:] / 2.0
    low = (below >= half).argmax(axis=1)
    high = (below > half).argmax(axis=1)
    return np.asarray((values[order][low] + values[order][high]) / 2.0)


def number_ranks(moments: Floats, truth: Floats) -> Floats:
    """Rank of each number in the mixture of normal distributions that it is given, float64, shape (N, 1)."""
    ranks = norm.cdf(truth[:, np.newaxis], moments[:, :, 0], moments[:, :, 1])
    return np.asarray(np.mean(ranks, axis=1, keepdims=True))
