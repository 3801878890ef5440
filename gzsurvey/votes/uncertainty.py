"""How sure the model is of each answer, of one network or of several: intervals, ranks, disagreement.

Several networks, or several passes of one, are an equal mixture of Dirichlet distributions.

Letters: N galaxies, M members of the mixture, A answers (columns of a `DecisionTree`), Q questions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import NDArray

from gzsurvey.votes.beta import beta_quantile
from gzsurvey.votes.fractions import expected_fractions
from gzsurvey.votes.ranks import NODES, RankMaps, fractions_at
from gzsurvey.votes.tree import DecisionTree

Floats = NDArray[np.floating]

_FINE = 1e-8
"""Of the bracket in which a quantile lies: finer than the float32 it is stored in."""
_AT_A_TIME = 4096


def mixture_fractions(concentrations: Floats, tree: DecisionTree) -> Floats:
    """Expected fraction of each answer: the mean over members, float64, (N, M, A) to (N, A)."""
    n, m, a = concentrations.shape
    by_member = expected_fractions(concentrations.reshape(n * m, a), tree)
    return np.asarray(by_member.reshape(n, m, a).mean(axis=1))


def mixture_interval(
    concentrations: Floats, tree: DecisionTree, maps: RankMaps, level: float = 0.9
) -> tuple[Floats, Floats]:
    """Central credible interval of each answer's fraction among very many volunteers.

    Parameters
    ----------
    concentrations : float, shape (N, M, A)
        Dirichlet concentrations of each member, > 0; NaN gives NaN.
    tree : DecisionTree
        Says which columns belong together.
    maps : RankMaps
        Of the members' ranks.
    level : float
        Probability inside the interval.

    Returns
    -------
    lower, upper : float64, shape (N, A)
        Quantiles of the equal mixture of the members' beta distributions with their ranks mapped: the
        marginal of a Dirichlet is ``Beta(a_i, sum a - a_i)``.
    """
    a, b = _marginals(concentrations, tree)
    tail = (1.0 - level) / 2.0
    return _mixture_quantile(a, b, maps, tail), _mixture_quantile(a, b, maps, 1.0 - tail)


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

    def below(value: Floats, *members: Floats) -> Floats:
        standard = [(value - m) / d for m, d in zip(members[::2], members[1::2], strict=True)]
        return np.asarray(np.mean([scipy.special.ndtr(z) for z in standard], axis=0))

    members = [moment for pair in zip(mean.T, deviation.T, strict=True) for moment in pair]
    quantiles = [mean + scipy.special.ndtri(p) * deviation for p in (tail, 1.0 - tail)]
    lower, upper = (_inverted(below, own, p, *members) for own, p in zip(quantiles, (tail, 1.0 - tail), strict=True))
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


def credible_rank(truth: Floats, concentrations: Floats, tree: DecisionTree, maps: RankMaps) -> Floats:
    """Rank of true fractions in the distribution that the model gives them.

    Parameters
    ----------
    truth : float, shape (N, A)
        Fractions of very many volunteers, known of simulated galaxies only; NaN: unknown.
    concentrations : float, shape (N, M, A)
        Of each member.
    tree : DecisionTree
        Says which columns belong together.
    maps : RankMaps
        Of the members' ranks.

    Returns
    -------
    float64, shape (N, A)
        Probability that the model gives to a smaller fraction: uniform between 0 and 1 if the
        model is calibrated, so that a central interval of level L holds the ranks from
        (1 - L) / 2 to (1 + L) / 2.
    """
    a, b = _marginals(concentrations, tree)
    ranks = scipy.special.betainc(a, b, np.asarray(truth, dtype=np.float64)[:, np.newaxis])
    return np.asarray(np.mean(maps.below(ranks), axis=1))


def predictive_rank(
    votes: NDArray[np.integer], concentrations: Floats, tree: DecisionTree, maps: RankMaps, seed: int
) -> Floats:
    """Rank of observed votes in the distribution that the model gives them.

    Parameters
    ----------
    votes : int, shape (N, A)
        Volunteers who chose each answer.
    concentrations : float, shape (N, M, A)
        Of each member.
    tree : DecisionTree
        Says which columns belong together.
    maps : RankMaps
        Of the members' ranks.
    seed : int
        Votes are whole numbers: the rank is drawn evenly from the step that an observed
        number takes (the randomised probability integral transform).

    Returns
    -------
    float64, shape (N, A)
        Uniform between 0 and 1 if the model is calibrated; NaN where nobody was asked. Each
        answer by itself follows a beta-binomial distribution, or one that is mapped.
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
            below, at = np.mean(
                [
                    _beta_binomial(k, n, a[known, m, column], b[known, m, column]) if maps.is_even[m, column]
                    else _mapped_binomial(k, n, a[known, m, column], b[known, m, column], maps.node_weights(m, column))
                    for m in range(a.shape[1])
                ],
                axis=0,
            )  # fmt: skip
            ranks[start + known, column] = below + drawn[rows, column][known] * at
    return ranks


def _marginals(concentrations: Floats, tree: DecisionTree) -> tuple[Floats, Floats]:
    """Parameters of each answer's beta distribution: ``a_i`` and ``sum a - a_i``, (N, M, A)."""
    a = np.asarray(concentrations, dtype=np.float64)
    totals = np.add.reduceat(a, [q.start for q in tree.questions], axis=2)[:, :, tree.question_of_answer]
    return a, totals - a


def _mixture_quantile(a: Floats, b: Floats, maps: RankMaps, probability: float) -> Floats:
    """Quantile of the equal mixture of the members' mapped beta distributions, (N, M, A) to (N, A)."""
    own, ranks = np.empty(a.shape), maps.at(probability)
    for rank in np.unique(ranks):
        alike = ranks == rank
        own[:, alike] = beta_quantile(a[:, alike], b[:, alike], float(rank))

    def below(fraction: Floats, column: NDArray[np.int64], *members: Floats) -> Floats:
        mapped = [maps.below_one(scipy.special.betainc(a, b, fraction), m, column)
                  for m, (a, b) in enumerate(zip(members[::2], members[1::2], strict=True))]  # fmt: skip
        return np.asarray(np.mean(mapped, axis=0))

    members = [parameter[:, m] for m in range(a.shape[1]) for parameter in (a, b)]
    return _inverted(below, own, probability, np.arange(a.shape[2]), *members)


def _inverted(below: Callable[..., Floats], own: Floats, probability: float, *given: NDArray[np.generic]) -> Floats:
    """Invert a mixture's distribution function between the quantiles (N, M, ...) of its members.

    `below` takes values and `given`, element by element. Members who agree to within what tables and rounded ranks
    are good for need not enclose the quantile: it is then the end where the distribution function comes closest.
    """
    if own.shape[1] == 1:
        return np.asarray(own[:, 0])
    from scipy.optimize.elementwise import find_root

    found = find_root(
        lambda value, *parameters: below(value, *parameters) - probability,
        (own.min(axis=1), own.max(axis=1)), args=given, tolerances={"xatol": 0.0, "xrtol": _FINE},
    )  # fmt: skip
    (low, high), (below_low, below_high) = found.bracket, found.f_bracket
    return np.where(found.success, found.x, np.where(np.abs(below_low) < np.abs(below_high), low, high))


def _beta_binomial(
    k: NDArray[np.integer], n: NDArray[np.integer], a: Floats, b: Floats
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probability of fewer than `k` of `n` votes, and of exactly `k`, of ``Beta(a, b)``; all (N,)."""
    steps = np.arange(int(k.max()) + 1)
    chosen = np.minimum(steps, n[:, np.newaxis]).astype(np.float64)
    rest = n[:, np.newaxis] - chosen
    gammaln = scipy.special.gammaln
    ways = gammaln(n + 1.0)[:, np.newaxis] - gammaln(chosen + 1.0) - gammaln(rest + 1.0)
    a, b = a[:, np.newaxis], b[:, np.newaxis]
    together = gammaln(chosen + a) + gammaln(rest + b) - gammaln(n[:, np.newaxis] + a + b)
    mass = np.exp(ways + together - (gammaln(a) + gammaln(b) - gammaln(a + b)))
    below = np.where(steps < k[:, np.newaxis], mass, 0.0).sum(axis=1)
    return below, mass[np.arange(len(k)), k]


def _mapped_binomial(
    k: NDArray[np.integer], n: NDArray[np.integer], a: Floats, b: Floats, weights: Floats
) -> tuple[Floats, Floats]:
    """Do the same for a distribution whose ranks are mapped, with the map's weights of `NODES`."""
    fractions, k, n = fractions_at(NODES, a, b), k[:, np.newaxis], n[:, np.newaxis]
    below = np.where(k > 0, scipy.special.bdtr(np.maximum(k - 1, 0), n, fractions), 0.0) @ weights
    return below, scipy.special.bdtr(k, n, fractions) @ weights - below
