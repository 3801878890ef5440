"""How well volunteers' votes are predicted, question by question.

Letters: N galaxies, M members of the mixture, A answers of one question, Q questions, R resamples, L levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp, xlog1py, xlogy
from scipy.stats import dirichlet_multinomial

from gzsurvey.evaluation.intervals import Floats, Measure, weighted_mean
from gzsurvey.votes.fractions import expected_fractions, proportion_asked
from gzsurvey.votes.ranks import RankMaps
from gzsurvey.votes.tree import DecisionTree, Question
from gzsurvey.votes.uncertainty import credible_rank, disagreement, mixture_fractions, predictive_rank

CONCENTRATIONS = (1.0, 101.0)
"""Between these a vote head answers."""
MANY = 1000.0
"""Volunteers above which their number says no more than that the model is as good as can be measured."""
QUESTION_MEASURES = (
    "mae", "mae_floor", "rmse", "rmse_floor", "volunteers", "fresh_volunteers",
    "accuracy", "accuracy_confident", "commonest", "log_likelihood", "disagreement",
)  # fmt: skip
ANSWER_MEASURES = ("mae", "rmse", "rmse_floor", "bias", "spread")


@dataclass(frozen=True)
class Members:
    """What the members of a mixture say of some galaxies, with how the ranks of true fractions are spread."""

    concentration: NDArray[np.floating]
    """Shape (N, M, A)."""
    maps: Mapping[int, RankMaps]
    """By fold."""
    fold: NDArray[np.int64]
    """By whose networks each galaxy was predicted, shape (N,)."""

    def taken(self, rows: NDArray[np.int64], columns: NDArray[np.int64] | slice = slice(None)) -> Members:
        """Return those of some galaxies and answers, float64."""
        members = np.arange(self.concentration.shape[1])
        answers = np.arange(self.concentration.shape[2])[columns]
        chosen = np.asarray(self.concentration[np.ix_(rows, members, answers)], dtype=np.float64)
        maps = {number: own.taken(answers) for number, own in self.maps.items()}
        return Members(chosen, maps, self.fold[rows])

    def ranks(
        self, rank: Callable[[NDArray[np.int64], NDArray[np.floating], RankMaps], NDArray[np.floating]]
    ) -> Floats:
        """Rank something of each galaxy by its own fold's maps, shape (N, A)."""
        found = np.full((len(self.fold), self.concentration.shape[2]), np.nan)
        for number, maps in self.maps.items():
            rows = np.flatnonzero(self.fold == number)
            if len(rows):
                found[rows] = rank(rows, self.concentration[rows], maps)
        return found


@dataclass(frozen=True)
class Answered:
    """One question, and the galaxies on which the model is judged by it."""

    question: Question
    rows: NDArray[np.int64]
    """Which of the evaluated galaxies, shape (N,)."""
    votes: NDArray[np.int64]
    """Shape (N, A)."""
    counted: NDArray[np.bool_]
    """False: made from published fractions and an assumed number of volunteers, shape (N,)."""
    members: Members

    @property
    def concentration(self) -> NDArray[np.floating]:
        """Of each member, shape (N, M, A)."""
        return self.members.concentration

    @cached_property
    def tree(self) -> DecisionTree:
        """The question by itself."""
        return alone(self.question)

    @cached_property
    def observed(self) -> Floats:
        """Fractions of the volunteers, shape (N, A)."""
        return np.asarray(expected_fractions(self.votes.astype(np.float64), self.tree), dtype=np.float64)

    @cached_property
    def predicted(self) -> Floats:
        """Fractions that the mixture expects, shape (N, A)."""
        return np.asarray(mixture_fractions(self.concentration, self.tree), dtype=np.float64)

    @cached_property
    def squared_error(self) -> Floats:
        """Mean over answers of the squared error, shape (N,)."""
        return np.asarray(((self.predicted - self.observed) ** 2).mean(axis=1))

    @cached_property
    def sampling(self) -> Floats:
        """`sampling_variance`, mean over answers, shape (N,); NaN where votes are assumed."""
        return np.where(self.counted, sampling_variance(self.votes).mean(axis=1), np.nan)

    @cached_property
    def variance(self) -> Floats:
        """Of the fractions as the mixture has them, mean over answers, shape (N,): how uncertain it is."""
        total = self.concentration.sum(axis=2, keepdims=True)
        share = self.concentration / total
        within = (share * (1.0 - share) / (total + 1.0)).mean(axis=1)
        return np.asarray((within + share.var(axis=1)).mean(axis=1))


def alone(question: Question) -> DecisionTree:
    """Return a question as a tree of its own."""
    return DecisionTree((replace(question, start=0),))


def judged(votes: NDArray[np.integer], tree: DecisionTree, enough: int, asked_of: float) -> NDArray[np.bool_]:
    """Say by which questions each galaxy is judged.

    Parameters
    ----------
    votes : int, shape (N, A)
        Of all questions.
    tree : DecisionTree
        Its A answers.
    enough : int
        Volunteers who must have answered.
    asked_of : float
        Share of the campaign's volunteers who must have been asked.

    Returns
    -------
    bool, shape (N, Q)
    """
    asked = np.add.reduceat(votes, [q.start for q in tree.questions], axis=1)
    first = np.zeros_like(asked)
    for campaign in tree.campaigns:
        own = [i for i, q in enumerate(tree.questions) if q.campaign == campaign]
        everybody = [i for i in own if not tree.questions[i].asked_after_any] or own
        first[:, own] = asked[:, everybody].max(axis=1, keepdims=True)
    return np.asarray((asked >= enough) & (asked >= asked_of * first))


def sampling_variance(votes: NDArray[np.integer]) -> Floats:
    """Variance of observed fractions from the few who were asked, without bias: float64, (N, A) to (N, A).

    With k of n votes it is ``k (n - k) / (n^2 (n - 1))``; n is 2 or more.
    """
    k = votes.astype(np.float64)
    n = k.sum(axis=1, keepdims=True)
    return np.asarray(k * (n - k) / (n**2 * (n - 1.0)))


def sampling_deviation(votes: NDArray[np.integer]) -> Floats:
    """Mean absolute error of the fractions of n volunteers, were the observed ones true: float64, (N, A).

    De Moivre's formula for a binomial distribution: ``2 k C(n, k) f^k (1 - f)^(n - k + 1) / n``, with f = k / n.
    """
    k = votes.astype(np.float64)
    n = k.sum(axis=1, keepdims=True)
    f = k / n
    ways = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
    return np.asarray(2.0 * k / n * np.exp(ways + xlogy(k, f) + xlog1py(n - k + 1.0, -np.minimum(f, 1.0))))


def log_likelihood(votes: NDArray[np.integer], concentration: NDArray[np.floating]) -> Floats:
    """Logarithm of the probability of the votes, (N, A) and (N, M, A) to (N,), float64.

    Members are Dirichlet-Multinomial distributions, equally mixed; the multinomial coefficient is included.
    """
    asked = votes.sum(axis=1)
    members = [dirichlet_multinomial.logpmf(votes, alpha, asked) for alpha in np.moveaxis(concentration, 1, 0)]
    return np.asarray(logsumexp(members, axis=0) - np.log(len(members)))


def question_measure(answered: Answered, confident: float) -> Measure:
    """Return what gives `QUESTION_MEASURES` of resampled galaxies, (R, N) to (R, 11).

    Let e be the mean squared error against the observed fractions, s the mean `sampling_variance` of these, and v
    the mean variance of one volunteer's vote (s of each galaxy times its n). The fractions of m of a galaxy's own
    volunteers, drawn without replacement, err by ``v / m - s`` against all of them, those of m fresh volunteers by
    ``v / m`` against the true fractions, against which the model errs by ``e - s``. So
    ``volunteers = v / (e + s)`` and ``fresh_volunteers = v / (e - s)``, at most `MANY`.
    """
    votes, observed = answered.votes, answered.observed
    most = votes.max(axis=1)
    leads = votes == most[:, np.newaxis]
    right = leads[np.arange(len(votes)), answered.predicted.argmax(axis=1)].astype(np.float64)
    surely = observed.max(axis=1) > confident
    known = answered.counted
    per_galaxy = np.column_stack([
        np.abs(answered.predicted - observed).mean(axis=1),
        np.where(known, sampling_deviation(votes).mean(axis=1), np.nan),
        answered.squared_error,
        answered.sampling,
        answered.sampling * votes.sum(axis=1),
        right,
        np.where(surely, right, np.nan),
        _where(known, log_likelihood(votes[known], answered.concentration[known])),
        disagreement(answered.concentration, answered.tree)[:, 0],
        leads,
    ])  # fmt: skip
    paired = np.where(known, answered.squared_error, np.nan)

    def measure(weight: Floats) -> Floats:
        mae, mae_floor, e, s, v, right, confidently, likelihood, apart, *leading = weighted_mean(per_galaxy, weight).T
        e_counted = weighted_mean(paired[:, np.newaxis], weight)[:, 0]
        fresh = v / np.maximum(e_counted - s, v / MANY)
        return np.column_stack([
            mae, mae_floor, np.sqrt(e), np.sqrt(s), v / (e_counted + s), fresh,
            right, confidently, np.max(leading, axis=0), likelihood, apart,
        ])  # fmt: skip

    return measure


def answer_measure(answered: Answered, column: int) -> Measure:
    """Return what gives `ANSWER_MEASURES` of one answer for resampled galaxies, (R, N) to (R, 5).

    ``spread`` is the error if every galaxy were given the mean fraction: what a model has to beat.
    """
    observed = answered.observed[:, column]
    error = answered.predicted[:, column] - observed
    floor = np.where(answered.counted, sampling_variance(answered.votes)[:, column], np.nan)
    per_galaxy = np.column_stack([np.abs(error), error**2, floor, error, observed, observed**2])

    def measure(weight: Floats) -> Floats:
        mae, squared, floor, bias, mean, mean_square = weighted_mean(per_galaxy, weight).T
        spread = np.sqrt(np.maximum(mean_square - mean**2, 0.0))
        return np.column_stack([mae, np.sqrt(squared), np.sqrt(floor), bias, spread])

    return measure


def error_measure(answered: Answered) -> Measure:
    """Return what gives root mean square error and floor of resampled galaxies, (R, N) to (R, 2)."""
    per_galaxy = np.column_stack([answered.squared_error, answered.sampling])
    return lambda weight: np.sqrt(weighted_mean(per_galaxy, weight))


def inside(ranks: Floats, levels: Sequence[float]) -> Floats:
    """Count the answers of each galaxy that lie inside central intervals of each level, and all that are known.

    Parameters
    ----------
    ranks : float, shape (N, A)
        Between 0 and 1, as `gzsurvey.votes.uncertainty` gives them; NaN: not known.
    levels : sequence of float
        Nominal.

    Returns
    -------
    float64, shape (N, L + 1)
    """
    held = np.abs(ranks[:, :, np.newaxis] - 0.5) <= np.asarray(levels) / 2.0
    return np.column_stack([held.sum(axis=1), np.isfinite(ranks).sum(axis=1)]).astype(np.float64)


def coverage_measure(counts: Floats) -> Measure:
    """Return what gives the share of answers inside central intervals of each level, (R, N) to (R, L).

    Parameters
    ----------
    counts : float64, shape (N, L + 1)
        As `inside` returns them, of one question or summed over several.
    """

    def measure(weight: Floats) -> Floats:
        summed = weight @ counts
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(summed[:, :-1] / summed[:, -1:])

    return measure


def observed_ranks(answered: Answered, seed: int) -> Floats:
    """Ranks of observed votes, (N, A); NaN where votes are assumed."""
    ranks = answered.members.ranks(
        lambda rows, given, maps: predictive_rank(answered.votes[rows], given, answered.tree, maps, seed)
    )
    return np.where(answered.counted[:, np.newaxis], ranks, np.nan)


def reach(answers: int) -> tuple[float, float]:
    """Smallest and largest fraction that concentrations between 1 and 101 can expect, of so many answers."""
    low, high = CONCENTRATIONS
    return low / (low + high * (answers - 1)), high / (high + low * (answers - 1))


def true_ranks(truth: Floats, members: Members, question: Question) -> tuple[Floats, NDArray[np.bool_]]:
    """Ranks of the simulator's true fractions.

    Parameters
    ----------
    truth : float, shape (N, A)
        Of one question, NaN where not known.
    members : Members
        What they say of the question.
    question : Question
        The question.

    Returns
    -------
    ranks : float64, shape (N, A)
        NaN where unknown, or beyond what a vote head can reach.
    beyond : bool, shape (N, A)
        The latter.
    """
    low, high = reach(len(question.answers))
    beyond = (truth < low) | (truth > high)
    tree = alone(question)
    ranks = members.ranks(lambda rows, given, maps: credible_rank(truth[rows], given, tree, maps))
    return np.where(beyond, np.nan, ranks), beyond


def truly_asked(truth: Floats, tree: DecisionTree, asked_of: float) -> NDArray[np.bool_]:
    """Say of which galaxies the simulator asks each question of at least a share of volunteers, (N, A) to (N, Q)."""
    known = np.logical_and.reduceat(np.isfinite(truth), [q.start for q in tree.questions], axis=1)
    asked = proportion_asked(np.nan_to_num(truth), tree)
    return np.asarray(known & (asked >= asked_of))


def _where(known: NDArray[np.bool_], values: Floats) -> Floats:
    out = np.full(len(known), np.nan)
    out[known] = values
    return out
