"""Where true fractions lie in the beta distributions that a model gives them: a map of ranks for each answer.

A fraction at rank u of its beta distribution lies at rank G(u) of what is known of it, if G is the
distribution of the ranks of other galaxies' fractions (Kuleshov et al. 2018, arXiv:1807.00263).

Letters: N galaxies, M members of a mixture, A answers, K steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import scipy
from numpy.typing import NDArray

from gzsurvey.votes.beta import beta_quantile

Floats = NDArray[np.floating]

STEPS = 40
"""Equal steps of the rank, in each of which a map is straight."""
_LOGIT_STEP = 0.02
"""To which mapped ranks are rounded, so that few different quantiles are asked for: by 0.0025 at most."""
EDGES = np.linspace(0.0, 1.0, STEPS + 1)
_TAIL = EDGES[1] * 0.5 ** np.arange(1, 8)
NODES = np.sort(np.concatenate([EDGES, _TAIL, 1.0 - _TAIL]))
"""The edges of the steps, and more ranks in the first and the last one, where fractions change fast."""


@dataclass(frozen=True)
class RankMaps:
    """Maps of every answer, of every member of a mixture.

    Parameters
    ----------
    shares : float64, shape (M, A, K)
        Of the galaxies whose true fraction lies in each step; they add up to 1.
    """

    shares: Floats

    @classmethod
    def of_members(cls, members: Sequence[Sequence[Sequence[float]]], answers: int) -> Self:
        """Take what cards hold: for each member its answers' shares; none, of a member or an answer: all even."""
        shares = np.full((len(members), answers, STEPS), 1.0 / STEPS)
        for m, own in enumerate(members):
            for a, given in enumerate(own):
                if len(given):
                    shares[m, a] = np.asarray(given) / np.sum(given)
        return cls(shares)

    @classmethod
    def even(cls, members: int, answers: int) -> Self:
        """Return maps that change nothing."""
        return cls.of_members([()] * members, answers)

    def taken(self, columns: NDArray[np.integer] | slice) -> RankMaps:
        """Return those of some answers."""
        return RankMaps(self.shares[:, columns])

    @cached_property
    def is_even(self) -> NDArray[np.bool_]:
        """Which change nothing, shape (M, A)."""
        return np.asarray(np.isclose(self.shares, 1.0 / STEPS, rtol=0, atol=1e-9).all(axis=2))

    def below(self, rank: Floats) -> Floats:
        """Return G of ranks, float64, (N, M, A) to the same; NaN gives NaN."""
        columns = np.arange(rank.shape[2])
        return np.stack([self.below_one(rank[:, m], m, columns) for m in range(rank.shape[1])], axis=1)

    def below_one(self, rank: Floats, member: int, column: NDArray[np.integer]) -> Floats:
        """Return G of ranks by one member, for answers `column`; both of shapes that broadcast."""
        cumulative = self._cumulative[member]
        place = np.nan_to_num(rank) * STEPS
        step = np.minimum(place.astype(np.int64), STEPS - 1)
        low, high = cumulative[column, step], cumulative[column, step + 1]
        return np.where(np.isnan(rank), np.nan, low + (place - step) * (high - low))

    def at(self, probability: float) -> Floats:
        """Return the ranks with a probability of `probability` below them: the inverse of G, float64, shape (M, A)."""
        found = np.array([[np.interp(probability, row, EDGES) for row in member] for member in self._cumulative])
        nominal = scipy.special.logit(probability)
        steps = np.round((scipy.special.logit(found) - nominal) / _LOGIT_STEP)
        return np.where(self.is_even, probability, scipy.special.expit(nominal + steps * _LOGIT_STEP))

    def node_weights(self, member: int, column: int) -> Floats:
        """Return the weights of `NODES`, whose sum over a function of the fraction is its mean (trapezoidal rule)."""
        parts = np.diff(np.interp(NODES, EDGES, self._cumulative[member, column]))
        return np.asarray((np.append(parts, 0.0) + np.append(0.0, parts)) / 2.0)

    @cached_property
    def _cumulative(self) -> Floats:
        """G at the edges of the steps, shape (M, A, K + 1)."""
        first = np.zeros((*self.shares.shape[:2], 1))
        cumulative = np.concatenate([first, np.cumsum(self.shares, axis=2)], axis=2)
        cumulative[:, :, -1] = 1.0
        return cumulative


def fractions_at(ranks: Floats, a: Floats, b: Floats) -> NDArray[np.float64]:
    """Return the fractions at ascending ranks (K,), 0 to 1, of ``Beta(a, b)``: (N,) and (N,) to (N, K)."""
    inner = [beta_quantile(a, b, float(rank)) for rank in ranks[1:-1]]
    return np.stack([np.zeros_like(inner[0]), *inner, np.ones_like(inner[0])], axis=1)


def step_probability(k: NDArray[np.integer], n: NDArray[np.integer], a: Floats, b: Floats) -> NDArray[np.float64]:
    """Probability that the true fraction lies in each step of its beta distribution, once votes are seen.

    Parameters
    ----------
    k, n : int, shape (N,)
        Votes for the answer, and for any answer of its question.
    a, b : float, shape (N,)
        Parameters of its beta distribution before the votes.

    Returns
    -------
    float64, shape (N, K)
        Of ``Beta(a + k, b + n - k)``; rows add up to 1.
    """
    cumulative = scipy.special.betainc((a + k)[:, np.newaxis], (b + n - k)[:, np.newaxis], fractions_at(EDGES, a, b))
    return np.diff(cumulative, axis=1)
