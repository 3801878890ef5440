"""How good predictions are: of classes, labels, numbers, votes.

Letters: N galaxies, K classes, A answers.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gzsurvey.model.dirichlet import answer_table, dirichlet_multinomial_nll
from gzsurvey.votes.fractions import expected_fractions
from gzsurvey.votes.tree import DecisionTree


def class_metrics(
    probability: NDArray[np.floating], target: NDArray[np.int64], weight: NDArray[np.float64] | None = None
) -> dict[str, float]:
    """Measure predicted classes against labels.

    Parameters
    ----------
    probability : float, shape (N, K)
        Rows add up to 1.
    target : int64, shape (N,)
        The labels.
    weight : float64, shape (N,), optional
        Of each label in the loss.

    Returns
    -------
    dict of str to float
        ``accuracy``, ``balanced_accuracy`` (mean over classes present), ``loss`` (cross
        entropy), and ``roc_auc`` where every class is present (several classes: mean over
        classes, each against the rest).
    """
    predicted = probability.argmax(axis=1)
    right = predicted == target
    present = np.unique(target)
    measured = {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean([right[target == k].mean() for k in present])),
        "loss": cross_entropy(probability, target, weight),
    }
    if len(present) == probability.shape[1]:
        measured["roc_auc"] = _roc_auc(probability, target)
    return measured


def cross_entropy(
    probability: NDArray[np.floating], target: NDArray[np.int64], weight: NDArray[np.float64] | None = None
) -> float:
    """Weighted mean of minus the logarithm of the probability of the true class."""
    chosen = probability[np.arange(len(target)), target]
    return float(np.average(-np.log(np.clip(chosen, 1e-12, 1.0)), weights=weight))


def label_metrics(
    probability: NDArray[np.floating], target: NDArray[np.float64], weight: NDArray[np.float64]
) -> dict[str, float]:
    """Measure predicted classes that do not exclude each other.

    Parameters
    ----------
    probability : float, shape (N, K)
        Each by itself.
    target : float64, shape (N, K)
        1 or 0, NaN where not known.
    weight : float64, shape (N,)
        Of each galaxy in the loss.

    Returns
    -------
    dict of str to float
        ``loss`` (binary cross entropy, summed over the known classes of a galaxy), and means of
        ``roc_auc`` and ``average_precision`` over classes that some galaxies have and others lack.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    known = np.isfinite(target)
    chosen = np.clip(np.where(target == 1, probability, 1.0 - probability), 1e-12, 1.0)
    measured = {"loss": float(np.average((-np.log(chosen) * known).sum(axis=1), weights=weight))}
    told = [k for k in range(target.shape[1]) if len(np.unique(target[known[:, k], k])) == 2]
    for name, score in (("roc_auc", roc_auc_score), ("average_precision", average_precision_score)):
        if told:
            of_each = [score(target[known[:, k], k], probability[known[:, k], k]) for k in told]
            measured[name] = float(np.mean(of_each))
    return measured


def number_metrics(
    moments: NDArray[np.floating], target: NDArray[np.float64], weight: NDArray[np.float64]
) -> dict[str, float]:
    """Measure a predicted number.

    Parameters
    ----------
    moments : float, shape (N, 2)
        Means and standard deviations.
    target : float64, shape (N,)
        The numbers.
    weight : float64, shape (N,)
        Of each in the loss.

    Returns
    -------
    dict of str to float
        ``root_mean_square_error`` and ``mean_absolute_error``, in the number's unit; ``explained``,
        the share of the variance (1 at best, 0 for the mean of these numbers; left out where they
        are all the same); ``within_one_deviation``, the share of errors below the predicted
        standard deviation (0.68 if it is right); ``loss``, minus the logarithm of the normal density.
    """
    mean, deviation = np.asarray(moments, dtype=np.float64).T
    error = target - mean
    measured = {
        "root_mean_square_error": float(np.sqrt(np.mean(error**2))),
        "mean_absolute_error": float(np.mean(np.abs(error))),
        "within_one_deviation": float(np.mean(np.abs(error) < deviation)),
    }
    density = 0.5 * (error / deviation) ** 2 + np.log(deviation) + 0.5 * np.log(2.0 * np.pi)
    measured["loss"] = float(np.average(density, weights=weight))
    if np.ptp(target) > 0:
        measured["explained"] = float(1.0 - np.mean(error**2) / np.var(target))
    return measured


def vote_metrics(
    concentration: NDArray[np.floating], votes: NDArray[np.integer], weight: NDArray[np.float64], tree: DecisionTree
) -> dict[str, float]:
    """Measure predicted concentrations against votes.

    Parameters
    ----------
    concentration : float, shape (N, A)
        Of the Dirichlet distributions.
    votes : int, shape (N, A)
        Volunteers who gave each answer; every galaxy has some.
    weight : float64, shape (N,)
        Of each galaxy in the loss.
    tree : DecisionTree
        Says which columns belong together.

    Returns
    -------
    dict of str to float
        ``loss`` (Dirichlet-Multinomial, summed over questions), and ``fraction_error``, the mean
        absolute error of vote fractions, each counted as often as its question was answered.
    """
    given = torch.from_numpy(np.asarray(concentration, dtype=np.float64))
    by_question = dirichlet_multinomial_nll(torch.from_numpy(np.asarray(votes)), given, answer_table(tree))
    asked = np.add.reduceat(votes, [q.start for q in tree.questions], axis=1)[:, tree.question_of_answer]
    found = expected_fractions(votes.astype(np.float64), tree)
    error = np.where(asked > 0, np.abs(expected_fractions(concentration, tree) - found), 0.0)
    return {
        "loss": float(np.average(by_question.sum(dim=1).numpy(), weights=weight)),
        "fraction_error": float((error * asked).sum() / asked.sum()),
    }


def _roc_auc(probability: NDArray[np.floating], target: NDArray[np.int64]) -> float:
    from sklearn.metrics import roc_auc_score

    if probability.shape[1] == 2:
        return float(roc_auc_score(target, probability[:, 1]))
    return float(np.mean([roc_auc_score(target == k, probability[:, k]) for k in range(probability.shape[1])]))
