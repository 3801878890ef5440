"""Bins of equal numbers of galaxies: reliability, and errors along size, magnitude and so on.

Letters: N galaxies, n galaxies of one bin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gzsurvey.evaluation.intervals import Floats

FEWEST = 10
"""Galaxies below which nothing is stated."""


def equal_bins(quantity: Floats, bins: int) -> list[NDArray[np.int64]]:
    """Divide galaxies into bins of nearly equal numbers, at least `FEWEST` in each.

    Parameters
    ----------
    quantity : float, shape (N,)
        NaN: in no bin. Equal values stay together.
    bins : int
        At most.

    Returns
    -------
    list of int64, shape (n,)
        Rows of each bin, lowest quantity first.
    """
    known = np.flatnonzero(np.isfinite(quantity))
    if len(known) < FEWEST:
        return []
    number = min(bins, len(known) // FEWEST)
    edges = np.unique(np.quantile(quantity[known], np.linspace(0, 1, number + 1)[1:-1]))
    place = np.searchsorted(edges, quantity[known], side="right")
    found = [known[place == i] for i in range(len(edges) + 1)]
    return [rows for rows in found if len(rows) >= FEWEST]


def reliability(predicted: Floats, observed: Floats, bins: int, weight: Floats | None = None) -> list[dict[str, float]]:
    """Compare predicted and observed shares in bins of the predicted one.

    Parameters
    ----------
    predicted, observed : float, shape (N,)
        A fraction and the volunteers', or a probability and whether it is true (1 or 0).
    bins : int
        At most.
    weight : float, shape (N,), optional
        Of each galaxy.

    Returns
    -------
    list of dict
        ``predicted`` and ``observed`` (means), ``error`` (standard error of the latter), ``galaxies``.
    """
    weight = np.ones(len(predicted)) if weight is None else weight
    rows = []
    for part in equal_bins(predicted, bins):
        w = weight[part] / weight[part].sum()
        mean = float(w @ observed[part])
        error = np.sqrt(w**2 @ (observed[part] - mean) ** 2 * len(part) / (len(part) - 1))
        rows.append({
            "predicted": float(w @ predicted[part]), "observed": mean, "error": float(error), "galaxies": len(part),
        })  # fmt: skip
    return rows
