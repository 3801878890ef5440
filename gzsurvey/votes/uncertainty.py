"""How sure the model is of each answer, of one network or of several: intervals, ranks, disagreement.

Several networks, or several passes of one, are an equal mixture of Dirichlet distributions.

Letters: N galaxies, M members of the mixture, A answers (columns of a `DecisionTree`), Q questions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, gammaln, ndtr, ndtri

from gzsurvey.votes.beta import beta_quantile
from gzsurvey.votes.fractions import expected_fractions
from gzsurvey.votes.tree import DecisionTree

Floats = NDArray[np.floating]

_HALVINGS = 32
"""Of the bracket in which a quantile lies: below 1e-9 of it, finer than the float32 it is stored in."""
_AT_A_TIME = 4096


def mixture_fractions(concentrations: Floats, tree: DecisionTree) -> Floats:
    """Expected fraction of each answer: the mean over members, float64, (N, M, A) to (N, A)."""
    n, m, a = concentrations.shape
    by_member = expected_fractions(concentrations.reshape(n * m, a), tree)
    return np.asarray(by_member.reshape(n, m, a).mean(axis=1))


def mixture_interval(concentrations: Floats, tree: DecisionTree, level: float = 0.9) -> tuple[Floats, Floats]:
    """Central credible interval of each answer's fraction among very many volunteers.

    Parameters
    ----------
    concentrations : float, shape (N, M, A)
        Dirichlet concentrations of each member, > 0; NaN gives NaN.
    tree : DecisionTree
        Says which columns belong together.
    level : float
        Probability inside the interval.

    Returns
    -------
    lower, upper : float64, shape (N, A)
        Quantiles of the equal mixture of the members' beta distributions: the marginal of a
        Dirichlet is ``Beta(a_i, sum a - a_i)``.
    """
    a, b = _marginals(concentrations, tree)
    tail = (1.0 - level) / 2.0
    return _mixture_quantile(a, b, tail), _mixture_quantile(a, b, 1.0 - tail)


def normal_mixture_interval(mean: Floats, deviation: Floats, level: float = 0.9) -> tuple[Floats, Floats]:
    """Central interval of an equal mixture of normal distributions.

    Parameters
    ----------
    mean, deviation : float, shape (N, M)
        Of each member; NaN gives NaN.
    level : float
        Probability inside the interval.

    Returns
    -------
    lower, upper : float64, shape (N,)
    """
    tail = (1.0 - level) / 2.0

    def below(value: Floats) -> Floats:
        return np.asarray(ndtr((value[:, np.newaxis] - mean) / deviation).mean(axis=1))

    lower, upper = (_inverted(below, mean + ndtri(p) * deviation, p) for p in (tail, 1.0 - tail))
    return lower, upper


def disagreement(concentrations: Floats, tree: DecisionTree) -> Floats:
    """How far members part on each question, float64, (N, M, A) to (N, Q).

    The root mean square over members of the distance between their expected fractions and the
    mean, over the square root of 2: 0 where all agree, 0.5 where half of them is sure of one answer
    and half of another.
    """
    n, m, a = concentrations.shape
    by_member = expected_fractions(concentrations.reshape(n * m, a), tree).reshape(n, m, a)
    squared = np.mean((by_member - by_member.mean(axis=1, keepdims=True)) ** 2, axis=1)
    return np.sqrt(np.add.reduceat(squared, [q.start for q in tree.questions], axis=1) / 2.0)


def credible_rank(truth: Floats, concentrations: Floats, tree: DecisionTree) -> Floats:
    """Rank of true fractions in the distribution that the model gives them.

    Parameters
    ----------
    truth : float, shape (N, A)
        Fractions of very many volunteers, known of simulated galaxies only; NaN: unknown.
    concentrations : float, shape (N, M, A)
        Of each member.
    tree : DecisionTree
        Says which columns belong together.

    Returns
    -------
    float64, shape (N, A)
        Probability that the model gives to a smaller fraction: uniform between 0 and 1 if the
        model is calibrated, so that a central interval of level L holds the ranks from
        (1 - L) / 2 to (1 + L) / 2.
    """
    a, b = _marginals(concentrations, tree)
    return np.asarray(np.mean(betainc(a, b, np.asarray(truth, dtype=np.float64)[:, np.newaxis]), axis=1))


def predictive_rank(votes: NDArray[np.integer], concentrations: Floats, tree: DecisionTree, seed: int) -> Floats:
    """Rank of observed votes in the distribution that the model gives them.

    Parameters
    ----------
    votes : int, shape (N, A)
        Volunteers who chose each answer.
    concentrations : float, shape (N, M, A)
        Of each member.
    tree : DecisionTree
        Says which columns belong together.
    seed : int
        Votes are whole numbers: the rank is drawn evenly from the step that an observed
        number takes (the randomised probability integral transform).

    Returns
    -------
    float64, shape (N, A)
        Uniform between 0 and 1 if the model is calibrated; NaN where nobody was asked. Each
        answer by itself follows a beta-binomial distribution.
    """
    ranks = np.full(votes.shape, np.nan)
    asked = np.add.reduceat(votes, [q.start for q in tree.questions], axis=1)[:, tree.question_of_answer]
    drawn = np.random.default_rng(seed).random(votes.shape)
    for start in range(0, len(votes), _AT_A_TIME):
        rows = slice(start, start + _AT_A_TIME)
        a, b = _marginals(concentrations[rows], tree)
        for column in range(votes.shape[1]):
            known = np.flatnonzero(asked[rows, column] > 0)
            if not len(known):
                continue
            k, n = votes[rows, column][known], asked[rows, column][known]
            below, at = _beta_binomial(k, n, a[known, :, column], b[known, :, column])
            ranks[start + known, column] = below + drawn[rows, column][known] * at
    return ranks


def _marginals(concentrations: Floats, tree: DecisionTree) -> tuple[Floats, Floats]:
    """Parameters of each answer's beta distribution: ``a_i`` and ``sum a - a_i``, (N, M, A)."""
    a = np.asarray(concentrations, dtype=np.float64)
    totals = np.add.reduceat(a, [q.start for q in tree.questions], axis=2)[:, :, tree.question_of_answer]
    return a, totals - a


def _mixture_quantile(a: Floats, b: Floats, probability: float) -> Floats:
    """Quantile of the equal mixture of the members' beta distributions, (N, M, A) to (N, A)."""

    def below(fraction: Floats) -> Floats:
        return np.asarray(betainc(a, b, fraction[:, np.newaxis]).mean(axis=1))

    return _inverted(below, beta_quantile(a, b, probability), probability)


def _inverted(below: Callable[[Floats], Floats], own: Floats, probability: float) -> Floats:
    """Invert a mixture's distribution function by halving, between the quantiles (N, M, ...) of its members."""
    low, high = own.min(axis=1), own.max(axis=1)
    if own.shape[1] == 1:
        return np.asarray(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        too_low = below(middle) < probability
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    return np.where(np.isfinite(own).all(axis=1), (low + high) / 2.0, np.nan)


def _beta_binomial(
    k: NDArray[np.integer], n: NDArray[np.integer], a: Floats, b: Floats
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probability of fewer than `k` of `n` votes, and of exactly `k`, mixed over members (N, M)."""
    steps = np.arange(int(k.max()) + 1)
    chosen = np.minimum(steps, n[:, np.newaxis]).astype(np.float64)
    rest = n[:, np.newaxis] - chosen
    ways = gammaln(n + 1.0)[:, np.newaxis] - gammaln(chosen + 1.0) - gammaln(rest + 1.0)
    a, b = a[:, :, np.newaxis], b[:, :, np.newaxis]
    together = (
        gammaln(chosen[:, np.newaxis] + a) + gammaln(rest[:, np.newaxis] + b)
        - gammaln(n[:, np.newaxis, np.newaxis] + a + b)
    )  # fmt: skip
    alone = gammaln(a) + gammaln(b) - gammaln(a + b)
    mass = np.exp(ways[:, np.newaxis] + together - alone).mean(axis=1)
    below = np.where(steps < k[:, np.newaxis], mass, 0.0).sum(axis=1)
    return below, mass[np.arange(len(k)), k]
