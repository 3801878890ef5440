from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import sem
from sklearn.calibration import calibration_curve

from gzsurvey.evaluation.bins import FEWEST, equal_bins, reliability

RNG = np.random.default_rng(9)


def test_bins_hold_equal_numbers_of_what_is_known() -> None:
    quantity = RNG.normal(size=103)
    quantity[:3] = np.nan
    found = equal_bins(quantity, 5)
    assert [len(rows) for rows in found] == [20] * 5
    assert sorted(np.concatenate(found).tolist()) == list(range(3, 103))
    assert all(quantity[a].max() < quantity[b].min() for a, b in pairwise(found))


def test_no_bin_is_too_small_and_equal_values_stay_together() -> None:
    assert len(equal_bins(RNG.normal(size=35), 8)) == 3
    assert equal_bins(np.full(FEWEST - 1, 2.0), 2) == []
    assert [len(rows) for rows in equal_bins(np.repeat([1.0, 2.0], [60, 40]), 4)] == [60, 40]


def test_reliability_is_scikit_learns() -> None:
    probability = RNG.random(400)
    true = (RNG.random(400) < probability).astype(float)
    observed, predicted = calibration_curve(true, probability, n_bins=8, strategy="quantile")
    rows = reliability(probability, true, 8)
    np.testing.assert_allclose([row["observed"] for row in rows], observed)
    np.testing.assert_allclose([row["predicted"] for row in rows], predicted)
    part = equal_bins(probability, 8)[3]
    assert rows[3]["error"] == pytest.approx(sem(true[part]))


def test_weights_bring_a_sample_to_a_prevalence() -> None:
    """Two classes with the same scores: what is observed is the prevalence, whatever the balance."""
    score, true = np.tile(RNG.random(50), 4), np.repeat([1.0, 0.0], [150, 50])
    weight = np.where(true == 1, 0.1 / 150, 0.9 / 50)
    (row,) = reliability(score, true, 1, weight)
    assert row["observed"] == pytest.approx(0.1)
