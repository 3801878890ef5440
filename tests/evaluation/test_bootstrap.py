from __future__ import annotations

import numpy as np
import pytest

from gzsurvey.evaluation.intervals import Bootstrap, weighted_mean

RNG = np.random.default_rng(8)


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = RNG.normal(3.0, 2.0, (400, 1))
    found = Bootstrap(2000).estimate(lambda weight: weighted_mean(values, weight), 400)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.value[0] == pytest.approx(values.mean())
    assert found.value[0] - found.low[0] == pytest.approx(half, rel=0.1)
    assert found.high[0] - found.value[0] == pytest.approx(half, rel=0.1)


def test_an_interval_does_not_depend_on_how_resamples_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.normal(size=(50, 2))
    whole = Bootstrap(30).estimate(lambda weight: weighted_mean(values, weight), 50)
    monkeypatch.setattr("gzsurvey.evaluation.intervals._AT_A_TIME", 200)
    parts = Bootstrap(30).estimate(lambda weight: weighted_mean(values, weight), 50)
    np.testing.assert_allclose(parts.low, whole.low)
    np.testing.assert_allclose(parts.high, whole.high)


def test_what_is_not_known_counts_for_nothing() -> None:
    values = np.column_stack([np.append(np.ones(9), np.nan), np.full(10, np.nan)])
    found = Bootstrap(20).estimate(lambda weight: weighted_mean(values, weight), 10).named(("some", "none"))
    assert found["some"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert all(np.isnan(value) for value in found["none"].values())
