from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from gzsurvey.evaluation.intervals import interval, weighted_auc, weighted_metrics
from gzsurvey.study.intervals import Draws, resampled
from gzsurvey.training.metrics import class_metrics

RNG = np.random.default_rng(3)


def predictions(n: int, classes: int, skill: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    target = RNG.integers(classes, size=n)
    logits = RNG.normal(size=(n, classes)) + skill * np.eye(classes)[target]
    probability = np.exp(logits)
    return probability / probability.sum(axis=1, keepdims=True), target


def test_weighted_area_is_scikit_learns_ties_included() -> None:
    score, positive = RNG.integers(0, 6, 80).astype(float), RNG.integers(0, 2, 80).astype(float)
    weight = RNG.integers(0, 4, (5, 80)).astype(float)
    expected = [roc_auc_score(positive, score, sample_weight=w) for w in weight]
    assert weighted_auc(score, positive, weight) == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 4])
def test_weights_of_one_give_the_plain_metrics(classes: int) -> None:
    probability, target = predictions(60, classes)
    measured = weighted_metrics(probability, target, np.ones((1, 60)))
    plain = class_metrics(probability, target)
    assert {name: value[0] for name, value in measured.items()} == pytest.approx(
        {name: plain[name] for name in ("accuracy", "balanced_accuracy", "roc_auc")}
    )


def test_weights_count_galaxies_as_often() -> None:
    probability, target = predictions(40, 3)
    weight = RNG.multinomial(40, np.full(40, 1 / 40), size=3).astype(float)
    for row, w in enumerate(weight.astype(int)):
        again = np.repeat(np.arange(40), w)
        expected = balanced_accuracy_score(target[again], probability[again].argmax(axis=1))
        assert weighted_metrics(probability, target, weight)["balanced_accuracy"][row] == pytest.approx(expected)


def test_differences_are_paired() -> None:
    """An arm that is right wherever another is, and once more, leads in every resample or ties."""
    probability, target = predictions(50, 2, skill=0.5)
    wrong = np.flatnonzero(probability.argmax(axis=1) != target)[0]
    better = probability.copy()
    better[wrong] = better[wrong, ::-1]
    draws = Draws.of(50, 1, 3, 400, seed=1)
    one, other = (resampled([p] * 3, [target] * 3, draws)["accuracy"] for p in (better, probability))
    assert one[0] - other[0] == pytest.approx(1 / 50)
    assert (one[1] - other[1]).min() >= 0
    assert interval(one[1])[1] - interval(one[1])[0] > 0.1


def test_the_same_galaxies_are_drawn_however_many_pretrainings() -> None:
    few, many = Draws.of(30, 1, 5, 100, seed=2), Draws.of(30, 3, 5, 100, seed=2)
    assert np.array_equal(few.galaxies, many.galaxies)
    assert np.array_equal(few.runs, (many.runs % 5)[:, :5])
    assert (few.galaxies.sum(axis=1) == 30).all()
    assert set(many.runs.ravel()) == set(range(15))


def test_intervals_cover() -> None:
    """Of many test sets of known accuracy, 95 % intervals hold it in about 95 %."""
    hits = []
    for trial in range(200):
        right = np.random.default_rng([trial, 1]).random(120) < 0.7
        probability = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
        draws = Draws.of(120, 1, 1, 300, seed=trial)
        low, high = interval(resampled([probability], [np.zeros(120, int)], draws)["accuracy"][1])
        hits.append(low <= 0.7 <= high)
    assert 0.89 <= np.mean(hits) <= 0.99
