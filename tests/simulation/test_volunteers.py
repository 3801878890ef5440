from __future__ import annotations

import numpy as np
import pytest

from gzsurvey.recipes.simulation import load_simulation_recipe
from gzsurvey.simulation.population import population
from gzsurvey.simulation.volunteers import FEWEST, MOST, Sight, answer_probabilities, vote
from gzsurvey.votes import DecisionTree

RECIPE = load_simulation_recipe("simulate")


@pytest.mark.parametrize("campaign", sorted(RECIPE.campaigns))
def test_votes_follow_the_question_tree(campaign: str) -> None:
    galaxies = population(1, range(60))
    tree = DecisionTree.load(campaign)
    probabilities = answer_probabilities(Sight(galaxies, RECIPE.regions[0]), tree)
    sums = [probabilities[:, question.columns].sum(axis=1) for question in tree.questions]
    np.testing.assert_allclose(sums, 1.0)
    counts = vote(galaxies, probabilities, tree)
    for question in tree.questions:
        asked = counts[:, question.columns].sum(axis=1)
        parents = [column for _, column in tree.parents(question)]
        if parents:
            np.testing.assert_array_equal(asked, counts[:, parents].sum(axis=1))
        else:
            assert asked.min() >= FEWEST
            assert asked.max() <= MOST


def test_votes_of_a_galaxy_do_not_depend_on_the_others() -> None:
    galaxies = population(1, range(30))
    tree = DecisionTree.load("gz2")
    probabilities = answer_probabilities(Sight(galaxies, RECIPE.regions[0]), tree)
    np.testing.assert_array_equal(
        vote(galaxies, probabilities, tree)[9:11], vote(galaxies[9:11], probabilities[9:11], tree)
    )


def test_small_and_faint_galaxies_confuse_volunteers() -> None:
    galaxies = population(1, range(200))
    spirals = galaxies[(galaxies["arm_count"] > 0) & (galaxies["inclination"] < 50)].copy()
    tree = DecisionTree.load("gz_decals_dr8")
    column = tree.vote_columns.index("has-spiral-arms-dr8_yes")

    def arms_seen(size: float, magnitude: float) -> float:
        spirals["r50"], spirals["mag_r"] = size, magnitude
        return float(answer_probabilities(Sight(spirals, RECIPE.regions[0]), tree)[:, column].mean())

    assert arms_seen(6.0, 15.0) > arms_seen(1.3, 15.0) + 0.2
    assert arms_seen(3.0, 15.5) > arms_seen(3.0, 20.5) + 0.2


def test_worse_seeing_hides_features() -> None:
    galaxies = population(1, range(100))
    north, south = (Sight(galaxies, region).visible for region in RECIPE.regions)
    assert (south < north).all()


def test_distributions_are_those_of_a_survey() -> None:
    galaxies = population(2, range(2000))
    assert 2.0 < np.median(galaxies["r50"]) < 4.5
    assert 15.5 < np.median(galaxies["mag_r"]) < 17.5
    assert 0.3 < (galaxies["kind"] == "spiral").mean() < 0.6
    assert galaxies["handedness"][galaxies["handedness"] != 0].mean() == pytest.approx(0.0, abs=0.1)
    arms = galaxies["arm_count"][galaxies["arm_count"] > 0]
    assert set(arms) >= {1, 2, 3, 4, 5}
    early = galaxies[galaxies["kind"] == "elliptical"]
    late = galaxies[galaxies["kind"] == "irregular"]
    assert np.median(early["mag_g"] - early["mag_r"]) > np.median(late["mag_g"] - late["mag_r"]) + 0.3
