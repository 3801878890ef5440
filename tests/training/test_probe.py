from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from gzsurvey.training.metrics import class_metrics
from gzsurvey.training.probe import fit_probe


def clouds(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = np.arange(n) % classes
    centres = np.random.default_rng(0).normal(size=(classes, 12))
    return (centres[target] + rng.normal(size=(n, 12))).astype(np.float32) * 3 + 100, target


@pytest.mark.parametrize("classes", [2, 4])
def test_it_separates_held_out_galaxies_with_calibrated_probabilities(classes: int) -> None:
    train, target = clouds(300, classes, 1)
    test, truth = clouds(600, classes, 2)
    fitted = fit_probe(train[None], target, np.ones(300), classes, seed=0)
    probability = fitted.probability(test)
    assert np.allclose(probability.sum(axis=1), 1)
    assert (probability.argmax(axis=1) == truth).mean() > 0.85
    assert abs(probability.max(axis=1).mean() - (probability.argmax(axis=1) == truth).mean()) < 0.05


def test_labels_without_information_get_a_flat_answer() -> None:
    rng = np.random.default_rng(3)
    views, target = rng.normal(size=(1, 60, 40)).astype(np.float32), rng.integers(0, 2, 60)
    probability = fit_probe(views, target, np.ones(60), 2, seed=0).probability(rng.normal(size=(200, 40)))
    assert np.abs(probability - target.mean()).max() < 0.75


def test_repeated_views_count_once() -> None:
    train, target = clouds(60, 2, 1)
    one = fit_probe(train[None], target, np.ones(60), 2, seed=0)
    four = fit_probe(np.repeat(train[None], 4, axis=0), target, np.ones(60), 2, seed=0)
    assert one.strength == four.strength
    assert np.allclose(one.probability(train), four.probability(train), atol=1e-3)


def test_a_feature_that_never_changes_is_harmless() -> None:
    train, target = clouds(60, 2, 1)
    dead = np.concatenate([train, np.full((60, 1), 7.0, np.float32)], axis=1)
    fitted = fit_probe(dead[None], target, np.ones(60), 2, seed=0)
    assert np.isfinite(fitted.bias).all()
    assert (fitted.weight[:, -1] == 0).all()


def test_two_examples_are_enough_to_fit() -> None:
    train, target = clouds(2, 2, 1)
    assert np.isfinite(fit_probe(train[None], target, np.ones(2), 2, seed=0).probability(train)).all()


def test_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    probability, target = rng.dirichlet(np.ones(2), 200), rng.integers(0, 2, 200)
    measured = class_metrics(probability, target)
    assert measured["roc_auc"] == pytest.approx(roc_auc_score(target, probability[:, 1]))
    assert measured["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(target, probability.argmax(axis=1)))
    assert measured["loss"] == pytest.approx(log_loss(target, probability))
    assert "roc_auc" not in class_metrics(probability, np.zeros(200, np.int64))
