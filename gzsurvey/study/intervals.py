"""Metrics of many bootstrap resamples at once, paired between arms.

Letters: N test galaxies, K classes, R resamples, S runs (each a pretraining and a seed of subset and finetuning).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gzsurvey.evaluation.intervals import weighted_metrics

METRICS = ("accuracy", "balanced_accuracy", "roc_auc")

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
