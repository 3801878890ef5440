from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import optimize, special, stats

from gzsurvey.model.calibration import ClassesCalibrator, LabelsCalibrator, NumberCalibrator, VotesCalibrator
from gzsurvey.training.calibrate import (
    calibrate_classes,
    calibrate_labels,
    calibrate_number,
    calibrate_votes,
)
from gzsurvey.votes.fractions import expected_fractions
from gzsurvey.votes.ranks import STEPS, RankMaps
from gzsurvey.votes.tree import DecisionTree
from gzsurvey.votes.uncertainty import credible_rank, predictive_rank

TREE = DecisionTree.load("gz2")
FIRST = TREE.questions[0].columns
LAST = TREE.questions[-1].columns
EVEN = RankMaps.even(1, TREE.n_answers)


def drawn_votes(alpha: np.ndarray, seed: int) -> np.ndarray:
    """Votes on the first question as the model of `alpha` says."""
    rng = np.random.default_rng(seed)
    gamma = rng.gamma(alpha[:, FIRST])
    votes = np.zeros(alpha.shape, dtype=np.int32)
    votes[:, FIRST] = rng.multinomial(rng.integers(10, 50, len(alpha)), gamma / gamma.sum(axis=1, keepdims=True))
    return votes


def overconfident(alpha: np.ndarray) -> np.ndarray:
    """What a network says that is six times too sure, and leans to one answer."""
    given = alpha * 6
    given[:, FIRST.start] *= 1.5
    return given


@pytest.fixture(scope="module")
def alpha() -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 12, (4000, TREE.n_answers))


def test_votes_are_calibrated_on_other_galaxies(alpha: np.ndarray) -> None:
    given, votes = overconfident(alpha), drawn_votes(alpha, 1)
    fitted = calibrate_votes(given[:2000], votes[:2000], TREE)
    assert fitted is not None
    layer = VotesCalibrator(TREE, fitted)
    found = layer(torch.from_numpy(given[2000:]).float()).numpy().astype(float)
    np.testing.assert_allclose(expected_fractions(found, TREE)[:, FIRST],
                               expected_fractions(alpha[2000:], TREE)[:, FIRST], atol=0.03)  # fmt: skip
    certainty = found[:, FIRST].sum(axis=1) / alpha[2000:, FIRST].sum(axis=1)
    assert np.median(certainty) == pytest.approx(1, abs=0.1)
    before, after = (
        predictive_rank(votes[2000:], a[:, None], TREE, EVEN, 1)[:, FIRST.start] for a in (given[2000:], found)
    )
    assert stats.kstest(before, "uniform").pvalue < 1e-9
    assert stats.kstest(after, "uniform").pvalue > 1e-3
    assert fitted.loss_after < fitted.loss_before - 0.1
    # Nobody was asked the last question: it stays as it was.
    np.testing.assert_allclose(found[:, LAST], given[2000:, LAST], rtol=1e-5)


def test_a_calibrated_network_is_left_alone(alpha: np.ndarray) -> None:
    fitted = calibrate_votes(alpha, drawn_votes(alpha, 2), TREE)
    assert fitted is not None
    layer = VotesCalibrator(TREE, fitted)
    found = layer(torch.from_numpy(alpha).float()).numpy()
    np.testing.assert_allclose(expected_fractions(found, TREE), expected_fractions(alpha, TREE), atol=0.02)
    np.testing.assert_allclose(found[:, FIRST].sum(axis=1), alpha[:, FIRST].sum(axis=1), rtol=0.2)


def test_ranks_of_true_fractions_are_learnt_from_votes() -> None:
    """Most galaxies have one true fraction, others any: no Dirichlet distribution of one answer says so."""
    rng = np.random.default_rng(8)
    n = 6000
    fraction = np.where(rng.random(n) < 0.7, 0.1, rng.random(n))
    truth = np.full((n, TREE.n_answers), np.nan)
    truth[:, FIRST] = np.stack([fraction, 0.7 * (1 - fraction), 0.3 * (1 - fraction)], axis=1)
    votes = np.zeros((n, TREE.n_answers), dtype=np.int32)
    votes[:, FIRST] = rng.multinomial(40, truth[:, FIRST])
    given = np.full((n, TREE.n_answers), 3.0)
    half = n // 2
    fitted = calibrate_votes(given[:half], votes[:half], TREE)
    assert fitted is not None
    found = VotesCalibrator(TREE, fitted)(torch.from_numpy(given[half:]).float()).numpy().astype(float)[:, None]
    covered = []
    for maps in (EVEN, RankMaps.of_members([fitted.ranks], TREE.n_answers)):
        ranks = credible_rank(truth[half:], found, TREE, maps)[:, FIRST.start]
        covered.append([(np.abs(ranks - 0.5) <= level / 2).mean() for level in (0.5, 0.68, 0.9)])
    assert np.abs(np.subtract(covered[0], (0.5, 0.68, 0.9))).max() > 0.1
    # Where most galaxies share one fraction, a level falls on it or beside it.
    assert (
        np.abs(np.subtract(covered[1], (0.5, 0.68, 0.9))).max()
        < np.abs(np.subtract(covered[0], (0.5, 0.68, 0.9))).max()
    )
    assert all(len(fitted.ranks[column]) == STEPS for column in range(FIRST.start, FIRST.stop))
    assert fitted.ranks[LAST.start] == ()


def test_few_galaxies_change_nothing(alpha: np.ndarray) -> None:
    assert calibrate_votes(alpha[:19], drawn_votes(alpha[:19], 1), TREE) is None
    assert calibrate_classes(np.full((19, 2), 0.5), np.zeros(19, int), np.ones(19)) is None
    assert calibrate_labels(np.full((19, 2), 0.5), np.zeros((19, 2)), np.ones(19)) is None
    assert calibrate_number(np.ones((19, 2)), np.zeros(19), np.ones(19)) is None


def test_classes_are_fitted_as_scipy_does() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 2, (500, 3))
    target = np.array([rng.choice(3, p=special.softmax(0.5 * row + [0.4, 0, -0.4])) for row in logits])
    given, weight = special.softmax(logits, axis=1), rng.uniform(0.5, 1.5, 500)

    def loss(free: np.ndarray) -> float:
        p = special.softmax(np.exp(free[0]) * np.log(given) + free[1:], axis=1)
        return -(weight * np.log(p[np.arange(500), target])).sum() + (free**2).sum()

    expected = optimize.minimize(loss, np.zeros(4), method="BFGS").x
    fitted = calibrate_classes(given, target, weight)
    assert fitted is not None
    assert fitted.sharpness == pytest.approx(np.exp(expected[0]), rel=1e-3)
    np.testing.assert_allclose(fitted.shift, expected[1:], atol=1e-3)
    found = ClassesCalibrator(fitted)(torch.from_numpy(given).float()).numpy()
    np.testing.assert_allclose(
        found, special.softmax(np.exp(expected[0]) * np.log(given) + expected[1:], axis=1), atol=1e-3
    )


def test_each_label_is_fitted_as_scipy_does_and_unknown_ones_do_not_count() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, (600, 2))
    target = (rng.random((600, 2)) < special.expit(0.6 * logits + [0.5, -1])).astype(float)
    target[:150, 1] = np.nan
    fitted = calibrate_labels(special.expit(logits), target, np.ones(600))
    assert fitted is not None

    def loss(free: np.ndarray, k: int) -> float:
        known = np.isfinite(target[:, k])
        z = np.exp(free[0]) * logits[known, k] + free[1]
        y = target[known, k]
        return -(y * special.log_expit(z) + (1 - y) * special.log_expit(-z)).sum() + (free**2).sum()

    for k in (0, 1):
        expected = optimize.minimize(loss, np.zeros(2), args=(k,), method="Nelder-Mead").x
        assert fitted.sharpness[k] == pytest.approx(np.exp(expected[0]), rel=1e-3)
        assert fitted.shift[k] == pytest.approx(expected[1], abs=1e-3)
    found = LabelsCalibrator(fitted)(torch.from_numpy(special.expit(logits)).float()).numpy()
    np.testing.assert_allclose(found, special.expit(np.array(fitted.sharpness) * logits + fitted.shift), atol=1e-5)


def test_a_numbers_deviation_is_scaled_to_its_errors() -> None:
    rng = np.random.default_rng(6)
    deviation = rng.uniform(0.5, 2, 3000)
    moments = np.stack([np.zeros(3000), deviation], axis=1)
    fitted = calibrate_number(moments, rng.normal(0, 3 * deviation), np.ones(3000))
    assert fitted is not None
    assert fitted.scale == pytest.approx(3, rel=0.05)
    found = NumberCalibrator(fitted.scale)(torch.from_numpy(moments).float()).numpy()
    np.testing.assert_allclose(found[:, 1], fitted.scale * deviation, rtol=1e-5)
    assert fitted.loss_after < fitted.loss_before
