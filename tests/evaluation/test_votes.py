from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import betabinom, binom
from sklearn.metrics import accuracy_score, mean_absolute_error, root_mean_squared_error

from gzsurvey.evaluation import votes as measures
from gzsurvey.evaluation.votes import Answered, Members, coverage_measure, inside
from gzsurvey.model.dirichlet import LOWEST, RANGE
from gzsurvey.votes.ranks import STEPS, RankMaps
from gzsurvey.votes.tree import DecisionTree
from gzsurvey.votes.uncertainty import credible_rank

TREE = DecisionTree.load("gz2")
THREE, TWO = TREE.questions[0], TREE.questions[1]
RNG = np.random.default_rng(2)
LEVELS = (0.5, 0.9)


def evenly(concentration: np.ndarray) -> Members:
    n, m, a = concentration.shape
    return Members(concentration, {0: RankMaps.even(m, a)}, np.zeros(n, np.int64))


def answered(n: int, members: int = 1, sure: float = 1.0, volunteers: int = 40) -> Answered:
    """Draw votes out of the very distribution that concentrations mean, then sharpen the latter by `sure`."""
    concentration = RNG.uniform(1, 30, (n, 1, 3))
    fractions = np.stack([RNG.dirichlet(a[0]) for a in concentration])
    votes = RNG.multinomial(volunteers, fractions).astype(np.int64)
    given = np.repeat(concentration * sure, members, axis=1)
    return Answered(THREE, np.arange(n), votes, np.ones(n, bool), evenly(given))


def measured(question: Answered) -> dict[str, float]:
    weight = np.ones((1, len(question.rows)))
    row = measures.question_measure(question, confident=0.6)(weight)[0]
    return dict(zip(measures.QUESTION_MEASURES, row, strict=True))


@pytest.mark.parametrize(("n", "f"), [(20, 0.35), (5, 0.9), (31, 0.02)])
def test_sampling_variance_is_right_on_average(n: int, f: float) -> None:
    k = np.arange(n + 1)
    found = measures.sampling_variance(np.column_stack([k, n - k]))
    assert (binom.pmf(k, n, f) @ found)[0] == pytest.approx(f * (1 - f) / n)


@pytest.mark.parametrize(("k", "n"), [(7, 20), (1, 30), (0, 5), (8, 8)])
def test_sampling_deviation_is_the_sum_over_all_outcomes(k: int, n: int) -> None:
    outcomes = np.arange(n + 1)
    expected = binom.pmf(outcomes, n, k / n) @ np.abs(outcomes / n - k / n)
    assert measures.sampling_deviation(np.array([[k, n - k]])) == pytest.approx(np.full((1, 2), expected))


def test_likelihood_of_two_answers_is_a_mixture_of_beta_binomials() -> None:
    votes = RNG.integers(0, 20, (6, 2))
    concentration = RNG.uniform(1, 50, (6, 3, 2))
    each = betabinom.logpmf(
        votes[:, :1], votes.sum(axis=1, keepdims=True), concentration[..., 0], concentration[..., 1]
    )
    expected = logsumexp(each, axis=1) - np.log(3)
    np.testing.assert_allclose(measures.log_likelihood(votes, concentration), expected)


def test_errors_and_accuracy_are_scikit_learns() -> None:
    question = answered(200)
    found = measured(question)
    assert found["mae"] == pytest.approx(mean_absolute_error(question.observed, question.predicted))
    assert found["rmse"] == pytest.approx(
        root_mean_squared_error(question.observed.ravel(), question.predicted.ravel())
    )
    clear = np.sort(question.votes, axis=1)
    clear = clear[:, -1] > clear[:, -2]
    only = Answered(THREE, question.rows[clear], question.votes[clear], question.counted[clear],
                    question.members.taken(np.flatnonzero(clear)))  # fmt: skip
    right = accuracy_score(only.observed.argmax(axis=1), only.predicted.argmax(axis=1))
    assert measured(only)["accuracy"] == pytest.approx(right)
    surely = only.observed.max(axis=1) > 0.6
    expected = accuracy_score(only.observed[surely].argmax(axis=1), only.predicted[surely].argmax(axis=1))
    assert measured(only)["accuracy_confident"] == pytest.approx(expected)
    most = np.bincount(only.observed.argmax(axis=1)).max() / clear.sum()
    assert measured(only)["commonest"] == pytest.approx(most)


def test_so_many_own_volunteers_err_as_the_model_does() -> None:
    question = answered(300, volunteers=40)
    found = measured(question)
    for number in (int(found["volunteers"]), int(found["volunteers"]) + 1):
        drawn = np.stack([
            [RNG.multivariate_hypergeometric(votes, number) / number for votes in question.votes] for _ in range(40)
        ])  # fmt: skip
        error = np.sqrt(np.mean((drawn - question.observed) ** 2))
        assert (error > found["rmse"]) == (number <= found["volunteers"])


def test_fresh_volunteers_are_counted_against_the_truth() -> None:
    """The expected error of a Dirichlet's mean is its variance, which asks for S + 1 volunteers."""
    concentration = np.tile([6.0, 3.0, 2.0], (20_000, 1, 1))
    votes = RNG.multinomial(60, RNG.dirichlet([6.0, 3.0, 2.0], 20_000))
    found = measured(Answered(THREE, np.arange(20_000), votes, np.ones(20_000, bool), evenly(concentration)))
    assert found["fresh_volunteers"] == pytest.approx(11.0, rel=0.03)


def test_a_perfect_model_asks_for_many_volunteers() -> None:
    votes = RNG.multinomial(50, [0.5, 0.3, 0.2], 100)
    found = measured(Answered(THREE, np.arange(100), votes, np.ones(100, bool), evenly(votes[:, None] * 100.0 + 1e-9)))
    assert found["fresh_volunteers"] == measures.MANY


def test_assumed_votes_have_errors_only() -> None:
    question = answered(50)
    found = measured(Answered(THREE, question.rows, question.votes, np.zeros(50, bool), question.members))
    assert np.isfinite([found["mae"], found["rmse"], found["accuracy"]]).all()
    nothing = ("mae_floor", "rmse_floor", "volunteers", "fresh_volunteers", "log_likelihood")
    assert np.isnan([found[name] for name in nothing]).all()
    assumed = Answered(THREE, question.rows, question.votes, np.zeros(50, bool), question.members)
    assert np.isnan(measures.observed_ranks(assumed, 0)).all()


def test_an_answers_spread_is_the_error_of_its_mean() -> None:
    question = answered(100)
    row = measures.answer_measure(question, 1)(np.ones((1, 100)))[0]
    found = dict(zip(measures.ANSWER_MEASURES, row, strict=True))
    assert found["spread"] == pytest.approx(question.observed[:, 1].std())
    assert found["bias"] == pytest.approx((question.predicted - question.observed)[:, 1].mean())
    assert found["rmse_floor"] == pytest.approx(np.sqrt(measures.sampling_variance(question.votes)[:, 1].mean()))


@pytest.mark.parametrize("members", [1, 3])
def test_a_calibrated_model_covers_observed_votes_as_it_says(members: int) -> None:
    question = answered(3000, members)
    found = coverage_measure(inside(measures.observed_ranks(question, 1), LEVELS))(np.ones((1, 3000)))[0]
    assert found == pytest.approx(LEVELS, abs=0.02)


def test_a_model_that_is_too_sure_covers_less() -> None:
    found = coverage_measure(inside(measures.observed_ranks(answered(2000, sure=4.0), 1), LEVELS))(np.ones((1, 2000)))[
        0
    ]
    assert (found < np.array(LEVELS) - 0.05).all()


def test_credible_intervals_cover_the_truth_as_they_say() -> None:
    concentration = RNG.uniform(1, 101, (3000, 1, 3))
    truth = np.stack([RNG.dirichlet(a[0]) for a in concentration])
    ranks = credible_rank(truth, concentration, measures.alone(THREE), RankMaps.even(1, 3))
    assert coverage_measure(inside(ranks, LEVELS))(np.ones((1, 3000)))[0] == pytest.approx(LEVELS, abs=0.02)


def test_truths_beyond_reach_are_counted_apart() -> None:
    lowest, highest = measures.reach(3)
    truth = np.array([[0.0, 0.5, 0.5], [0.3, 0.3, 0.4], [0.99, 0.005, 0.005], [np.nan, np.nan, np.nan]])
    ranks, beyond = measures.true_ranks(truth, evenly(np.full((4, 1, 3), 20.0)), THREE)
    assert beyond.tolist() == [[True, False, False], [False] * 3, [True, False, False], [False] * 3]
    assert np.isnan(ranks).tolist() == [[True, False, False], [False] * 3, [True, False, False], [True] * 3]
    assert (lowest, highest) == pytest.approx((1 / 203, 101 / 103))


def test_concentrations_reach_as_far_as_the_heads() -> None:
    assert measures.CONCENTRATIONS == (LOWEST, LOWEST + RANGE)


def test_who_is_judged_by_what() -> None:
    votes = np.zeros((4, TREE.n_answers), int)
    votes[:, THREE.columns] = [[10, 30, 0], [30, 10, 0], [5, 15, 0], [4, 15, 0]]
    votes[:, TWO.columns] = [[5, 25], [5, 5], [10, 5], [0, 15]]
    found = measures.judged(votes, TREE, enough=15, asked_of=0.5)
    assert found[:, 0].all()
    assert found[:, 1].tolist() == [True, False, True, True]
    assert not found[:, 2:].any()
    assert measures.judged(votes, TREE, enough=20, asked_of=0.5)[:, 0].tolist() == [True, True, True, False]


def test_the_simulator_asks_by_the_tree() -> None:
    truth = np.full((3, TREE.n_answers), 0.5)
    truth[:, THREE.columns] = [[0.3, 0.7, 0.0], [0.7, 0.3, 0.0], [np.nan] * 3]
    asked = measures.truly_asked(truth, TREE, 0.5)
    assert asked[:, :2].tolist() == [[True, True], [True, False], [False, False]]


def test_each_galaxy_is_ranked_by_the_maps_of_its_own_fold() -> None:
    concentration = np.full((6, 1, 3), 20.0)
    shares = np.full((1, 3, STEPS), 1e-9)
    shares[:, :, STEPS // 2] = 1.0
    maps = {0: RankMaps.even(1, 3), 1: RankMaps(shares / shares.sum(axis=2, keepdims=True))}
    members = Members(concentration, maps, np.array([0, 1, 1, 0, 1, -1]))
    truth = np.tile([0.25, 0.35, 0.4], (6, 1))
    ranks, _ = measures.true_ranks(truth, members, THREE)
    even = credible_rank(truth[:1], concentration[:1], measures.alone(THREE), maps[0])[0]
    mapped = credible_rank(truth[:1], concentration[:1], measures.alone(THREE), maps[1])[0]
    assert np.abs(even - mapped).max() > 0.1
    np.testing.assert_array_equal(ranks, [even, mapped, mapped, even, mapped, [np.nan] * 3])
    np.testing.assert_array_equal(
        measures.true_ranks(truth[:2], members.taken(np.array([3, 4])), THREE)[0], [even, mapped]
    )
