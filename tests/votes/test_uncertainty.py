from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gzsurvey.votes.fractions import expected_fractions
from gzsurvey.votes.ranks import STEPS, RankMaps
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
EVEN, EVEN_TWO = RankMaps.even(1, TREE.n_answers), RankMaps.even(2, TREE.n_answers)


def test_one_member_is_the_dirichlet_itself() -> None:
    one = TWO[:, :1]
    np.testing.assert_allclose(mixture_fractions(one, TREE), expected_fractions(one[:, 0], TREE))
    a = one[:, 0, FIRST]
    expected = stats.beta.interval(0.68, a, a.sum(axis=1, keepdims=True) - a)
    found = mixture_interval(one, TREE, EVEN, 0.68)
    np.testing.assert_allclose([end[:, FIRST] for end in found], expected, atol=1e-6)
    assert (disagreement(one, TREE) == 0).all()


def test_the_interval_of_several_members_is_that_of_draws_from_all_of_them() -> None:
    lower, upper = mixture_interval(TWO, TREE, EVEN_TWO, 0.9)
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
    for values in (*mixture_interval(some, TREE, EVEN_TWO), mixture_fractions(some, TREE), disagreement(some, TREE)):
        assert np.isnan(values[0]).all()
        assert np.isfinite(values[1:]).all()


def test_truths_drawn_from_the_model_rank_evenly() -> None:
    alpha = np.tile(TWO[:1, :1], (20_000, 1, 1))
    truth = np.full((20_000, TREE.n_answers), np.nan)
    truth[:, FIRST] = np.random.default_rng(5).dirichlet(alpha[0, 0, FIRST], 20_000)
    ranks = credible_rank(truth, alpha, TREE, EVEN)
    assert stats.kstest(ranks[:, FIRST.start], "uniform").pvalue > 1e-3
    assert np.isnan(ranks[:, FIRST.stop]).all()


def test_votes_drawn_from_the_model_rank_evenly_and_others_do_not() -> None:
    rng = np.random.default_rng(7)
    member = rng.integers(0, 2, 20_000)
    alpha = np.tile(TWO[:1], (20_000, 1, 1))
    probability = np.stack([rng.dirichlet(alpha[0, m, FIRST]) for m in member])
    votes = np.zeros((20_000, TREE.n_answers), dtype=np.int32)
    votes[:, FIRST] = rng.multinomial(rng.integers(1, 60, 20_000), probability)
    ranks = predictive_rank(votes, alpha, TREE, EVEN_TWO, seed=1)
    for column in range(FIRST.start, FIRST.stop):
        assert stats.kstest(ranks[:, column], "uniform").pvalue > 1e-3
    assert np.isnan(ranks[:, FIRST.stop :]).all()
    narrow = predictive_rank(votes, alpha * 10, TREE, EVEN_TWO, seed=1)
    assert stats.kstest(narrow[:, FIRST.start], "uniform").pvalue < 1e-6


def test_ranks_of_votes_are_those_of_scipy() -> None:
    votes = np.zeros((1, TREE.n_answers), dtype=np.int32)
    votes[0, FIRST] = [4, 9, 1][: FIRST.stop - FIRST.start]
    found = predictive_rank(votes, TWO[:1, :1], TREE, EVEN, seed=2)[0, FIRST.start]
    alpha = TWO[0, 0, FIRST]
    law = stats.betabinom(votes[0, FIRST].sum(), alpha[0], alpha.sum() - alpha[0])
    assert law.cdf(3) < found < law.cdf(4)


def drawn_by_ranks(alpha: np.ndarray, maps: RankMaps, rng: np.random.Generator) -> np.ndarray:
    """True fractions of the first answer: a member by chance, then a step by its shares, then a rank within."""
    fractions = np.empty(len(alpha))
    for i, members in enumerate(alpha[:, :, FIRST]):
        m = rng.integers(len(members))
        rank = (rng.choice(STEPS, p=maps.shares[m, FIRST.start]) + rng.random()) / STEPS
        fractions[i] = stats.beta.ppf(rank, members[m, 0], members[m, 1:].sum())
    return fractions


@pytest.mark.parametrize("members", [1, 2])
def test_mapped_intervals_and_ranks_are_those_of_fractions_drawn_so(members: int) -> None:
    rng = np.random.default_rng(11)
    shares = np.full((members, TREE.n_answers, STEPS), 1 / STEPS)
    shares[:, FIRST.start] = rng.dirichlet(np.full(STEPS, 0.3), members)
    shares[:, FIRST.start, 30:] *= 0.2
    shares /= shares.sum(axis=2, keepdims=True)
    maps = RankMaps(shares)
    alpha = np.tile(TWO[:200, :members], (40, 1, 1))
    truth = np.full((len(alpha), TREE.n_answers), np.nan)
    truth[:, FIRST.start] = drawn_by_ranks(alpha, maps, rng)
    assert stats.kstest(credible_rank(truth, alpha, TREE, maps)[:, FIRST.start], "uniform").pvalue > 1e-3
    plain = RankMaps.even(members, TREE.n_answers)
    assert stats.kstest(credible_rank(truth, alpha, TREE, plain)[:, FIRST.start], "uniform").pvalue < 1e-9
    lower, upper = (ends[:, FIRST.start] for ends in mixture_interval(alpha, TREE, maps, 0.9))
    known = truth[:, FIRST.start]
    assert [(known < lower).mean(), (known > upper).mean()] == pytest.approx([0.05, 0.05], abs=0.01)
    votes = np.zeros((len(alpha), TREE.n_answers), dtype=np.int32)
    votes[:, FIRST.start] = rng.binomial(40, known)
    votes[:, FIRST.start + 1] = 40 - votes[:, FIRST.start]
    ranks = predictive_rank(votes, alpha, TREE, maps, seed=1)[:, FIRST.start]
    assert stats.kstest(ranks, "uniform").pvalue > 1e-3


def test_ranks_by_steps_are_those_of_the_beta_binomial_distribution() -> None:
    """Shares that are even but for a breath are integrated over steps, even ones are not."""
    rng = np.random.default_rng(12)
    alpha = TWO[:, :1]
    votes = np.zeros((len(alpha), TREE.n_answers), dtype=np.int32)
    votes[:, FIRST] = rng.multinomial(40, [0.5, 0.4, 0.1], len(alpha))
    nearly = np.full((1, TREE.n_answers, STEPS), 1 / STEPS)
    nearly[..., 0] += 1e-6
    nearly[..., 1] -= 1e-6
    exact, summed = (predictive_rank(votes, alpha, TREE, maps, seed=3)[:, FIRST] for maps in (EVEN, RankMaps(nearly)))
    np.testing.assert_allclose(summed, exact, atol=1e-3)


@pytest.mark.parametrize("scatter", [0.0, 1e-4, 1e-2])
def test_members_that_nearly_agree_have_nearly_the_interval_of_one(scatter: float) -> None:
    rng = np.random.default_rng(13)
    shares = rng.dirichlet(np.full(STEPS, 0.05), (1, TREE.n_answers))
    one, three = RankMaps(shares), RankMaps(np.repeat(shares, 3, axis=0))
    alpha = np.repeat(TWO[:, :1], 3, axis=1)
    alpha = alpha * np.exp(rng.normal(0, scatter, alpha.shape))
    single, several = mixture_interval(alpha[:, :1], TREE, one), mixture_interval(alpha, TREE, three)
    np.testing.assert_allclose(several, single, atol=1e-3 + 2 * scatter)
