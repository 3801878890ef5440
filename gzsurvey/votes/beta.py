"""Quantiles of beta distributions, many at once: read from a table, ten times faster than solved one by one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.floating]

_LEAST, _MOST = 0.25, 4096.0
"""Parameters that the table holds; others are solved for."""
_STEP = 1 / 10
"""Between nodes, in the natural logarithm of a parameter."""
_MARGIN = 8
"""Nodes beyond the limits, so that the spline does not feel its ends."""
_START = float(np.log(_LEAST)) - _MARGIN * _STEP


def beta_quantile(a: Floats, b: Floats, probability: float) -> NDArray[np.float64]:
    """Return quantiles of ``Beta(a, b)``.

    Parameters
    ----------
    a, b : float, one shape
        Parameters, > 0; NaN gives NaN.
    probability : float
        That of a smaller value.

    Returns
    -------
    float64, shape of `a`
        Within 1e-6 of the exact quantiles: a cubic spline of their logit over the logarithms of `a` and `b`.
        Exact where a parameter is below 0.25 or above 4096.
    """
    if probability > 0.5:
        return np.asarray(1.0 - beta_quantile(b, a, 1.0 - probability))
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    inside = (np.minimum(a, b) >= _LEAST) & (np.maximum(a, b) <= _MOST)
    found = np.full(a.shape, np.nan)
    places = [(np.log(values[inside]) - _START) / _STEP for values in (a, b)]
    found[inside] = scipy.special.expit(scipy.ndimage.map_coordinates(_spline(probability), places, prefilter=False))
    outside = ~inside & ~np.isnan(a + b)
    found[outside] = scipy.special.betaincinv(a[outside], b[outside], probability)
    return found


@lru_cache(maxsize=512)
def _spline(probability: float) -> NDArray[np.float64]:
    """Coefficients of the cubic spline of the logit of the quantile, by the logarithms of both parameters."""
    nodes = int(np.ceil(np.log(_MOST / _LEAST) / _STEP)) + 2 * _MARGIN + 1
    values = np.exp(_START + _STEP * np.arange(nodes))
    table = scipy.special.logit(scipy.special.betaincinv(values[:, np.newaxis], values, probability))
    return np.asarray(scipy.ndimage.spline_filter(table))
