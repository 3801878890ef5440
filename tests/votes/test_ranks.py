from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from gzsurvey.votes.ranks import STEPS, RankMaps, step_probability

RNG = np.random.default_rng(4)
SHARES = RNG.dirichlet(np.full(STEPS, 0.5), (2, 3))
MAPS = RankMaps(SHARES)


def test_ranks_are_mapped_there_and_back() -> None:
    for probability in (0.05, 0.3, 0.95):
        ranks = MAPS.at(probability)
        back = MAPS.below(ranks[np.newaxis])[0]
        # Ranks are rounded to a fiftieth of their logit: by a hundredth at most, in the steepest step.
        error = SHARES.max(axis=2) * STEPS * 0.01 * ranks * (1 - ranks)
        assert (np.abs(back - probability) <= error + 1e-9).all()


def test_each_answer_of_each_member_has_its_own_map() -> None:
    rank = np.full((1, 2, 3), 0.4)
    expected = SHARES[:, :, : int(0.4 * STEPS)].sum(axis=2)
    np.testing.assert_allclose(MAPS.below(rank)[0], expected)
    np.testing.assert_allclose(MAPS.taken(np.array([2])).below(rank[..., :1])[0], expected[:, 2:])


def test_even_maps_change_nothing() -> None:
    maps = RankMaps.even(2, 3)
    ranks = RNG.random((50, 2, 3))
    ranks[0, 0, 0], ranks[1, 1, 1], ranks[2, 0, 1] = 0.0, 1.0, np.nan
    np.testing.assert_allclose(maps.below(ranks), ranks)
    assert (maps.at(0.05) == 0.05).all()
    assert maps.is_even.all()


def test_members_and_answers_without_shares_are_even() -> None:
    maps = RankMaps.of_members([(), ((), SHARES[0, 1] * 7)], 2)
    assert maps.is_even.tolist() == [[True, True], [True, False]]
    np.testing.assert_allclose(maps.shares[1, 1], SHARES[0, 1])


def test_steps_are_as_probable_as_among_galaxies_with_these_votes() -> None:
    fraction = RNG.beta(4.0, 9.0, 2_000_000)
    same = RNG.binomial(20, fraction) == 7
    step = np.floor(stats.beta.cdf(fraction[same], 4.0, 9.0) * STEPS).astype(int)
    expected = np.bincount(step, minlength=STEPS) / same.sum()
    found = step_probability(np.array([7, 0]), np.array([20, 0]), np.array([4.0, 4.0]), np.array([9.0, 9.0]))
    np.testing.assert_allclose(found[0], expected, atol=2e-3)
    np.testing.assert_allclose(found[1], 1 / STEPS, atol=1e-5)
    assert found.sum(axis=1) == pytest.approx([1, 1])
