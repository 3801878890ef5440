from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gzsurvey.votes.fractions import expected_fractions
from gzsurvey.votes.tree import DecisionTree
from gzsurvey.votes.uncertainty import (
    credible_rank,
    disagreement,
    mixture_fractions,
    mixture_interval,
    predictive_rank,
)

TREE = DecisionTree.load("gz2")
RNG = np.random.default_rng(3)
TWO = RNG.uniform(1, 60, (40, 2, TREE.n_answers))
FIRST = TREE.questions[0].columns


def test_one_member_is_the_dirichlet_itself() -> None:
    one = TWO[:, :1]
    np.testing.assert_allclose(mixture_fractions(one, TREE), expected_fractions(one[:, 0], TREE))
    a = one[:, 0, FIRST]
    expected = stats.beta.interval(0.68, a, a.sum(axis=1, keepdims=True) - a)
    found = mixture_interval(one, TREE, 0.68)
    np.testing.assert_allclose([end[:, FIRST] for end in found], expected, atol=2e-7)
    assert (disagreement(one, TREE) == 0).all()


def test_the_interval_of_several_members_is_that_of_draws_from_all_of_them() -> None:
    lower, upper = mixture_interval(TWO, TREE, 0.9)
    for galaxy in range(3):
        draws = np.concatenate([np.random.default_rng(1).dirichlet(TWO[galaxy, m, FIRST], 200_000) for m in (0, 1)])
        np.testing.assert_allclose(lower[galaxy, FIRST], np.quantile(draws, 0.05, axis=0), atol=2e-3)
        np.testing.assert_allclose(upper[galaxy, FIRST], np.quantile(draws, 0.95, axis=0), atol=2e-3)


def test_members_that_are_sure_of_different_answers_disagree_most() -> None:
    sure = np.full((1, 2, TREE.n_answers), 1e-9)
    sure[0, 0, FIRST.start], sure[0, 1, FIRST.start + 1] = 100, 100
    found = disagreement(sure, TREE)[0]
    assert found[0] == pytest.approx(0.5, abs=1e-6)
    np.testing.assert_allclose(found[1:], 0, atol=1e-6)


def test_missing_predictions_stay_missing() -> None:
    some = TWO.copy()
    some[0, 1] = np.nan
    for values in (*mixture_interval(some, TREE), mixture_fractions(some, TREE), disagreement(some, TREE)):
        assert np.isnan(values[0]).all()
        assert np.isfinite(values[1:]).all()


def test_truths_drawn_from_the_model_rank_evenly() -> None:
    alpha = np.tile(TWO[:1, :1], (20_000, 1, 1))
    truth = np.full((20_000, TREE.n_answers), np.nan)
    truth[:, FIRST] = np.random.default_rng(5).dirichlet(alpha[0, 0, FIRST], 20_000)
    ranks = credible_rank(truth, alpha, TREE)
    assert stats.kstest(ranks[:, FIRST.start], "uniform").pvalue > 1e-3
    assert np.isnan(ranks[:, FIRST.stop]).all()


def test_votes_drawn_from_the_model_rank_evenly_and_others_do_not() -> None:
    rng = np.random.default_rng(7)
    member = rng.integers(0, 2, 20_000)
    alpha = np.tile(TWO[:1], (20_000, 1, 1))
    probability = np.stack([rng.dirichlet(alpha[0, m, FIRST]) for m in member])
    votes = np.zeros((20_000, TREE.n_answers), dtype=np.int32)
    votes[:, FIRST] = rng.multinomial(rng.integers(1, 60, 20_000), probability)
    ranks = predictive_rank(votes, alpha, TREE, seed=1)
    for column in range(FIRST.start, FIRST.stop):
        assert stats.kstest(ranks[:, column], "uniform").pvalue > 1e-3
    assert np.isnan(ranks[:, FIRST.stop :]).all()
    narrow = predictive_rank(votes, alpha * 10, TREE, seed=1)
    assert stats.kstest(narrow[:, FIRST.start], "uniform").pvalue < 1e-6


def test_ranks_of_votes_are_those_of_scipy() -> None:
    votes = np.zeros((1, TREE.n_answers), dtype=np.int32)
    votes[0, FIRST] = [4, 9, 1][: FIRST.stop - FIRST.start]
    found = predictive_rank(votes, TWO[:1, :1], TREE, seed=2)[0, FIRST.start]
    alpha = TWO[0, 0, FIRST]
    law = stats.betabinom(votes[0, FIRST].sum(), alpha[0], alpha.sum() - alpha[0])
    assert law.cdf(3) < found < law.cdf(4)
