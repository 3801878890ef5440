"""Linear heads on stored embeddings: minutes for 50,000 labels, seconds for 100.

Letters: N galaxies, V views of each, D embedding, K classes, A answers.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gzsurvey.model.dirichlet import LOWEST, RANGE, answer_table, dirichlet_multinomial_nll
from gzsurvey.progress import Progress
from gzsurvey.training.metrics import cross_entropy, vote_metrics
from gzsurvey.votes.tree import DecisionTree

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation per galaxy-weighted feature: from nearly constant to nearly free."""
FOLDS = 5
ONE_FOLD_FROM = 2000
"""Galaxies from which one fold says enough about the regularisation."""
ONE_FOLD_OF_VOTES_FROM = 300
"""The same for votes, of which every galaxy has many."""
RIDGES = tuple(10.0**power for power in range(-2, 6))
"""Penalties of a number's slope along standardised features, in units of one galaxy."""
LEAST_SHARE = 1e-3
"""Of galaxies that have a class, and that lack it, where the training labels know one of the two only."""
FIRST_BIAS = -3.0
"""Where the fit of votes starts: concentrations of 5.7, unsure of everything."""
MOST_STEPS, TRIAL_STEPS = 500, 60
"""Of the fit of votes, and of one of its trials, which goes on from the trial before."""


@dataclass(frozen=True)
class LinearClassifier:
    """Logits are ``embedding @ weight.T + bias``."""

    weight: NDArray[np.float64]
    """Shape (K, D)."""
    bias: NDArray[np.float64]
    """Shape (K,)."""
    strength: float
    """The inverse regularisation that was chosen."""

    def probability(self, embedding: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities (N, K) of embeddings (N, D)."""
        from scipy.special import softmax

        return np.asarray(softmax(embedding @ self.weight.T + self.bias, axis=1), dtype=np.float64)


def fit_probe(
    views: NDArray[np.float32], target: NDArray[np.int64], weight: NDArray[np.float64], classes: int, seed: int
) -> LinearClassifier:
    """Fit logistic regression, its regularisation chosen by cross-validation among training galaxies.

    Parameters
    ----------
    views : float32, shape (V, N, D)
        Embeddings of training galaxies: the image itself first, then augmented copies. All
        views of a galaxy stay in one fold.
    target : int64, shape (N,)
        Classes.
    weight : float64, shape (N,)
        Of each galaxy in the loss.
    classes : int
        K.
    seed : int
        Of the folds.
    """
    standard, mean, scale = _standardised(views)
    strength = _choose_strength(standard, target, weight, classes, seed)
    coefficients, intercepts = _fit(standard, target, weight, classes, strength)
    slope = coefficients / scale
    return LinearClassifier(slope, intercepts - slope @ mean, strength)


def fit_labels(
    views: NDArray[np.float32], target: NDArray[np.float64], weight: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit logistic regression class by class, each on the galaxies of which it is known.

    Parameters
    ----------
    views : float32, shape (V, N, D)
        As for `fit_probe`.
    target : float64, shape (N, K)
        1 or 0, NaN where not known.
    weight : float64, shape (N,)
        Of each galaxy in the loss.
    seed : int
        Of the folds.

    Returns
    -------
    weight, bias : float64, shapes (K, D) and (K,)
        Of the logits. A class that all galaxies have, or none, gets a constant.
    """
    slopes, biases = np.zeros((target.shape[1], views.shape[2])), np.zeros(target.shape[1])
    for k, values in enumerate(target.T):
        rows = np.flatnonzero(np.isfinite(values))
        having = values[rows].astype(np.int64)
        if len(np.unique(having)) < 2:
            share = np.clip(having.mean() if len(having) else 0.5, LEAST_SHARE, 1.0 - LEAST_SHARE)
            biases[k] = np.log(share / (1.0 - share))
            continue
        fitted = fit_probe(views[:, rows], having, weight[rows], 2, seed)
        slopes[k], biases[k] = np.diff(fitted.weight, axis=0)[0], np.diff(fitted.bias)[0]
    return slopes, biases


def fit_number(
    views: NDArray[np.float32],
    target: NDArray[np.float64],
    weight: NDArray[np.float64],
    strata: NDArray[np.int64],
    seed: int,
) -> tuple[NDArray[np.float64], float, float]:
    """Fit ridge regression, its penalty chosen by cross-validation among training galaxies.

    Parameters
    ----------
    views : float32, shape (V, N, D)
        As for `fit_probe`.
    target : float64, shape (N,)
        The numbers.
    weight : float64, shape (N,)
        Of each galaxy in the loss.
    strata : int64, shape (N,)
        Folds hold equal shares of each.
    seed : int
        Of the folds.

    Returns
    -------
    weight : float64, shape (D,)
    bias : float
    deviation : float
        Root mean square of the cross-validated errors.
    """
    from sklearn.linear_model import Ridge, RidgeCV

    v, n, d = views.shape
    standard, mean, scale = _standardised(views)
    features, numbers, weights = standard.reshape(-1, d), np.tile(target, v), np.tile(weight, v) / v
    number_of_fold = _folds(strata, seed)
    if number_of_fold.max() < 1:
        number_of_fold = _folds(np.zeros_like(strata), seed)
    # A fold is checked on images as they are, and no view of them is learnt from.
    folds = [
        (np.flatnonzero(np.tile(number_of_fold != fold, v)), np.flatnonzero(number_of_fold == fold))
        for fold in np.unique(number_of_fold)
    ]
    chosen = RidgeCV(RIDGES, cv=folds, scoring="neg_mean_squared_error").fit(features, numbers, sample_weight=weights)
    error = np.empty(n)
    for rest, held_out in folds:
        model = Ridge(chosen.alpha_).fit(features[rest], numbers[rest], sample_weight=weights[rest])
        error[held_out] = target[held_out] - model.predict(features[held_out])
    slope = chosen.coef_ / scale
    deviation = float(np.sqrt(np.average(error**2, weights=weight)))
    return slope, float(chosen.intercept_ - slope @ mean), deviation


def fit_votes(
    views: NDArray[np.float32], votes: NDArray[np.int32], weight: NDArray[np.float64], tree: DecisionTree, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit concentrations, the regularisation chosen by cross-validation among training galaxies.

    Parameters
    ----------
    views : float32, shape (V, N, D)
        As for `fit_probe`.
    votes : int32, shape (N, A)
        Volunteers who gave each answer.
    weight : float64, shape (N,)
        Of each galaxy in the loss.
    tree : DecisionTree
        Says which columns belong together.
    seed : int
        Of the folds.

    Returns
    -------
    weight, bias : float64, shapes (A, D) and (A,)
        Of what the `VotesLayer` turns into concentrations. Questions nobody was asked keep a constant.
    """
    standard, mean, scale = _standardised(views)
    asked = [place for place, question in enumerate(tree.questions) if votes[:, question.columns].any()]
    columns = np.flatnonzero(np.isin(tree.question_of_answer, asked))
    content = tree.to_json()
    tree, votes = DecisionTree.from_json([content[place] for place in asked]), votes[:, columns]
    strength = _choose_strength_of_votes(standard, votes, weight, tree, seed)
    coefficients, intercepts = votes_at(standard, votes, weight, tree, strength)
    slope = np.zeros((sum(len(item["answers"]) for item in content), views.shape[2]))
    bias = np.full(len(slope), FIRST_BIAS)
    slope[columns] = coefficients / scale
    bias[columns] = intercepts - slope[columns] @ mean
    return slope, bias


def _choose_strength_of_votes(
    views: NDArray[np.float64], votes: NDArray[np.int32], weight: NDArray[np.float64], tree: DecisionTree, seed: int
) -> float:
    folds = _folds(np.zeros(len(votes), dtype=np.int64), seed)
    if folds.max() < 1:
        return STRENGTHS[2]
    trials = range(1 if len(votes) > ONE_FOLD_OF_VOTES_FROM else int(folds.max()) + 1)
    losses = np.zeros(len(STRENGTHS))
    shown = Progress("fit votes", len(STRENGTHS) * len(trials), "trials")
    for fold in trials:
        rest, fitted = folds != fold, None
        for place, strength in enumerate(STRENGTHS):
            fitted = votes_at(views[:, rest], votes[rest], weight[rest], tree, strength, fitted, TRIAL_STEPS)
            predicted = _concentration(torch.from_numpy(views[0, ~rest]), *map(torch.from_numpy, fitted))
            losses[place] += vote_metrics(predicted.numpy(), votes[~rest], weight[~rest], tree)["loss"]
            shown.advance()
    shown.finish()
    return STRENGTHS[int(np.argmin(losses))]


def votes_at(
    views: NDArray[np.float64],
    votes: NDArray[np.int32],
    weight: NDArray[np.float64],
    tree: DecisionTree,
    strength: float,
    start: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    steps: int = MOST_STEPS,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minimise ``strength * loss + |weight|^2 / 2``.

    Parameters
    ----------
    views : float64, shape (V, N, D)
        Standardised; the loss is summed over galaxies and averaged over views.
    votes, weight, tree
        As for `fit_votes`.
    strength : float
        Inverse regularisation.
    start : tuple of float64 arrays, optional
        Weight and bias to start from.
    steps : int
        At most.

    Returns
    -------
    weight, bias : float64, shapes (A, D) and (A,)
    """
    v, n, d = views.shape
    features, table = torch.from_numpy(views.reshape(-1, d)), answer_table(tree)
    counts = torch.from_numpy(np.tile(votes, (v, 1)))
    weights = torch.from_numpy(np.tile(weight, v) / v)
    first = (np.zeros((tree.n_answers, d)), np.full(tree.n_answers, FIRST_BIAS)) if start is None else start
    slope, bias = (nn.Parameter(torch.tensor(values)) for values in first)
    optimiser = torch.optim.LBFGS(
        [slope, bias], max_iter=steps, history_size=20, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        losses = dirichlet_multinomial_nll(counts, _concentration(features, slope, bias), table).sum(dim=1)
        value: Tensor = ((losses * weights).sum() + (slope**2).sum() / (2.0 * strength)) / n
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return slope.detach().numpy(), bias.detach().numpy()


def _concentration(features: Tensor, slope: Tensor, bias: Tensor) -> Tensor:
    """Do what the `VotesLayer` does, in float64."""
    concentration: Tensor = torch.sigmoid(features @ slope.T + bias) * RANGE + LOWEST
    return concentration


def _standardised(
    views: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return standardised views (V, N, D), and the mean and spread (D,) of the first one; constants become 0."""
    mean, scale = views[0].mean(axis=0, dtype=np.float64), views[0].std(axis=0, dtype=np.float64)
    scale = np.where(scale > 1e-6 * max(float(scale.max()), 1e-12), scale, np.inf)
    return ((views - mean) / scale).astype(np.float64), mean, scale


def _choose_strength(
    views: NDArray[np.float64], target: NDArray[np.int64], weight: NDArray[np.float64], classes: int, seed: int
) -> float:
    folds = _folds(target, seed)
    if folds.max() < 1:
        return STRENGTHS[2]
    trials = range(1 if len(target) > ONE_FOLD_FROM else int(folds.max()) + 1)
    losses = [
        np.mean([_held_out_loss(views, target, weight, classes, (folds == fold, s)) for fold in trials])
        for s in STRENGTHS
    ]
    return STRENGTHS[int(np.argmin(losses))]


def _held_out_loss(
    views: NDArray[np.float64],
    target: NDArray[np.int64],
    weight: NDArray[np.float64],
    classes: int,
    trial: tuple[NDArray[np.bool_], float],
) -> float:
    held_out, strength = trial
    rest = ~held_out
    slope, intercepts = _fit(views[:, rest], target[rest], weight[rest], classes, strength)
    fitted = LinearClassifier(slope, intercepts, strength)
    return cross_entropy(fitted.probability(views[0, held_out]), target[held_out], weight[held_out])


def _folds(target: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Give each galaxy a fold, class by class; as many folds as the rarest class has galaxies, at most 5."""
    number = min(FOLDS, int(np.bincount(target)[np.unique(target)].min()))
    folds = np.zeros(len(target), dtype=np.int64)
    for value in np.unique(target):
        rows = np.random.default_rng([seed, int(value), FOLDS]).permutation(np.flatnonzero(target == value))
        folds[rows] = np.arange(len(rows)) % number
    return folds


def _fit(
    views: NDArray[np.float64], target: NDArray[np.int64], weight: NDArray[np.float64], classes: int, strength: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coefficients (K, D) and intercepts (K,) on all views together."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    v, _, d = views.shape
    # scikit-learn's C multiplies the summed loss: divided by V, views do not count as more galaxies.
    model = LogisticRegression(C=strength, max_iter=500)
    with warnings.catch_warnings():
        # An unfinished fit of a nearly unregularised trial only means that it is not chosen.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(views.reshape(-1, d), np.tile(target, v), sample_weight=np.tile(weight, v) / v)
    coefficients, intercepts = np.zeros((classes, d)), np.full(classes, -30.0)
    if len(model.classes_) == 2:
        # One logit between two classes becomes half of it for one and against the other.
        both = np.array([-0.5, 0.5])
        coefficients[model.classes_] = np.outer(both, model.coef_[0])
        intercepts[model.classes_] = both * model.intercept_
    else:
        coefficients[model.classes_], intercepts[model.classes_] = model.coef_, model.intercept_
    return coefficients, intercepts
