from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from gzsurvey.evaluation import classes
from gzsurvey.outputs.prevalence import estimate_prevalence

RNG = np.random.default_rng(4)


def two_normals(n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw scores: N(2, 1) of the class, N(0, 1) of the others."""
    target = (RNG.random(n) < share).astype(np.int64)
    return RNG.normal(2.0 * target), target


def three_classes(n: int) -> tuple[np.ndarray, np.ndarray]:
    target = RNG.integers(3, size=n)
    logits = RNG.normal(size=(n, 3)) + 1.5 * np.eye(3)[target]
    probability = np.exp(logits)
    return probability / probability.sum(axis=1, keepdims=True), target


def test_confusion_and_metrics_are_scikit_learns() -> None:
    probability, target = three_classes(200)
    guess = probability.argmax(axis=1)
    np.testing.assert_array_equal(classes.confusion(probability, target), confusion_matrix(target, guess))
    found = classes.class_measure(probability, target)(np.ones((1, 200)))[0]
    assert found == pytest.approx([
        accuracy_score(target, guess),
        balanced_accuracy_score(target, guess),
        roc_auc_score(target, probability, multi_class="ovr"),
        log_loss(target, probability),
    ])  # fmt: skip


def test_purity_and_completeness_are_scikit_learns_with_weights() -> None:
    probability, target = three_classes(150)
    probability = probability.round(2)
    prevalence = np.array([0.7, 0.25, 0.05])
    found = classes.curve(probability[:, 2], target, 2, prevalence, np.ones((1, 150)))
    weight = (prevalence / np.bincount(target))[target]
    for place in range(0, len(found.threshold), 7):
        chosen = probability[:, 2] >= found.threshold[place]
        assert found.purity[0, place] == pytest.approx(precision_score(target == 2, chosen, sample_weight=weight))
        assert found.completeness[0, place] == pytest.approx(recall_score(target == 2, chosen))
    false_share, true_share, _ = roc_curve(
        target == 2, probability[:, 2], sample_weight=weight, drop_intermediate=False
    )
    np.testing.assert_allclose(found.contamination[0], false_share[1:])
    np.testing.assert_allclose(found.completeness[0], true_share[1:])


def test_purity_at_a_prevalence_is_the_closed_form() -> None:
    score, target = two_normals(200_000, 0.5)
    prevalence = np.array([0.95, 0.05])
    found = classes.threshold_measure(score, target, 1, prevalence, 2.0)(np.ones((1, len(score))))[0]
    mine, others = 0.05 * norm.sf(0.0), 0.95 * norm.sf(2.0)
    assert found == pytest.approx([mine / (mine + others), 0.5], abs=0.01)


def test_the_cut_is_the_lowest_that_is_pure_enough() -> None:
    score, target = two_normals(3000, 0.4)
    prevalence = np.array([0.6, 0.4])
    threshold, purity, completeness = classes.cut_measure(score, target, 1, prevalence, 0.9)(np.ones((1, 3000)))[0]
    weight = (prevalence / np.bincount(target))[target]
    assert purity == pytest.approx(precision_score(target, score >= threshold, sample_weight=weight))
    assert purity >= 0.9
    assert completeness == pytest.approx(recall_score(target, score >= threshold))
    lower = np.sort(score[score < threshold])[::-1]
    assert all(precision_score(target, score >= s, sample_weight=weight) < 0.9 for s in lower[:: len(lower) // 40])


def test_a_purity_that_is_not_reached_has_no_threshold() -> None:
    score, target = RNG.random(100), np.append(RNG.integers(2, size=98), [0, 1])
    score[98:] = [2.0, 0.0]
    threshold, purity, completeness = classes.cut_measure(score, target, 1, np.array([0.99, 0.01]), 0.9)(
        np.ones((1, 100))
    )[0]
    assert np.isnan([threshold, purity]).all()
    assert completeness == 0.0


def test_in_a_resample_without_a_class_nothing_is_known() -> None:
    """And nothing is warned of: resamples of ten rare classes often lack one."""
    target = np.tile([0, 1, 2], 4)
    weight = np.stack([np.ones(12), np.where(target == 2, 0.0, 1.0)])
    found = classes.curve(RNG.random(12), target, 0, np.full(3, 1 / 3), weight)
    assert np.isfinite(found.purity[0]).all()
    assert np.isnan(found.purity[1]).all()


def test_without_an_example_of_a_class_nothing_is_known() -> None:
    score, target = RNG.random(50), RNG.integers(2, size=50)
    found = classes.curve(score, target, 1, np.array([0.5, 0.3, 0.2]), np.ones((1, 50)))
    assert np.isnan(found.purity).all()


@pytest.mark.parametrize("prevalence", [0.1, 0.35, 0.8])
def test_the_prevalence_is_found_again(prevalence: float) -> None:
    """Scores of two normals have a known posterior: log odds 2 x - 2 at equal shares."""
    score, _ = two_normals(40_000, prevalence)
    member = expit(2.0 * score - 2.0)
    found = estimate_prevalence(np.column_stack([1 - member, member]), np.array([0.5, 0.5]))
    assert found == pytest.approx([1 - prevalence, prevalence], abs=0.015)
    assert abs(member.mean() - prevalence) > 0.02
