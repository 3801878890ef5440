from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import median_abs_deviation, norm
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from gzsurvey.evaluation.numbers import NUMBER_MEASURES, number_measure, number_ranks, weighted_median
from gzsurvey.evaluation.votes import coverage_measure, inside

RNG = np.random.default_rng(6)


def test_numbers_are_measured_as_scipy_and_scikit_learn_do() -> None:
    truth = RNG.normal(size=300)
    mean = truth + RNG.normal(0.1, 0.3, 300)
    mean[:6] += 10.0
    moments = np.stack([mean, np.full(300, 0.4)], axis=1)[:, None]
    found = dict(zip(NUMBER_MEASURES, number_measure(moments, truth, 3.0)(np.ones((1, 300)))[0], strict=True))
    error = mean - truth
    scatter = median_abs_deviation(error, scale="normal")
    assert found["rmse"] == pytest.approx(root_mean_squared_error(truth, mean))
    assert found["mae"] == pytest.approx(mean_absolute_error(truth, mean))
    assert found["bias"] == pytest.approx(error.mean())
    assert found["scatter"] == pytest.approx(scatter)
    assert found["outliers"] == pytest.approx(np.mean(np.abs(error - np.median(error)) > 3 * scatter))
    assert found["log_likelihood"] == pytest.approx(norm.logpdf(truth, mean, 0.4).mean())


def test_a_weighted_median_counts_repeatedly() -> None:
    values, weight = RNG.normal(size=31), RNG.integers(0, 4, (5, 31))
    expected = [np.median(np.repeat(values, w)) for w in weight]
    np.testing.assert_allclose(weighted_median(values, weight.astype(float)), expected)


def test_normal_intervals_cover_what_they_say_unless_they_are_too_narrow() -> None:
    moments = np.stack([RNG.normal(size=4000), RNG.uniform(0.5, 2.0, 4000)], axis=1)[:, None]
    truth = RNG.normal(moments[:, 0, 0], moments[:, 0, 1])
    levels, everybody = (0.5, 0.9), np.ones((1, 4000))
    assert coverage_measure(inside(number_ranks(moments, truth), levels))(everybody)[0] == pytest.approx(
        levels, abs=0.025
    )
    narrow = moments * [1.0, 0.5]
    assert (coverage_measure(inside(number_ranks(narrow, truth), levels))(everybody)[0] < [0.4, 0.7]).all()
