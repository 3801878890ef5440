from __future__ import annotations

import numpy as np
import pytest
from scipy.special import betaincinv

from gzsurvey.votes.beta import beta_quantile


@pytest.mark.parametrize("probability", [0.005, 0.05, 0.5, 0.95])
def test_quantiles_are_those_that_scipy_solves_for(probability: float) -> None:
    a, b = np.exp(np.random.default_rng(1).uniform(np.log(0.1), np.log(10_000), (2, 20_000)))
    exact = betaincinv(a, b, probability)
    found = beta_quantile(a, b, probability)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)
    beyond = (np.minimum(a, b) < 0.25) | (np.maximum(a, b) > 4096)
    assert 0 < beyond.sum() < len(a)


def test_shapes_and_unknown_values_stay() -> None:
    a = np.array([[2.0, np.nan], [3.0, 200.0]])
    found = beta_quantile(a, np.full((2, 2), 4.0), 0.05)
    assert np.isnan(found).tolist() == [[False, True], [False, False]]
