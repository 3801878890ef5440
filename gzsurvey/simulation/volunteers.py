"""Volunteers: what they would answer about a galaxy as it looks, and their votes.

How well a galaxy's features can be seen depends on its size against the PSF and on its
surface brightness against the noise; what cannot be seen is confused. Letters: N
galaxies, A answers.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from gzsurvey.recipes.simulation import Region
from gzsurvey.simulation.draw import Galaxies
from gzsurvey.simulation.field import Conditions
from gzsurvey.simulation.structure import SHARE
from gzsurvey.votes import DecisionTree, Question

Values = NDArray[np.float64]
FEWEST, MOST = 5, 45
"""Volunteers per galaxy and campaign."""
CARELESS = 0.02
"""Share of clicks that have nothing to do with the galaxy."""
_TASTES = 8

CENTRES: dict[str, tuple[str, dict[str, float], float]] = {
    "how-rounded": (
        "axis_ratio",
        {"round": 0.92, "completely": 0.92, "in-between": 0.64, "cigar-shaped": 0.28, "cigar": 0.28},
        0.13,
    ),
    "spiral-winding": ("arm_pitch", {"tight": 10.0, "medium": 19.0, "loose": 30.0}, 6.0),
    "bulge-size": (
        "bulge_share",
        {"none": 0.0, "no": 0.0, "small": 0.10, "just-noticeable": 0.10, "moderate": 0.24, "obvious": 0.33,
         "large": 0.45, "dominant": 0.72},
        0.11,
    ),
    "clump-count": ("clumps", {"1": 2.0, "2": 4.0, "3": 6.0, "4": 8.0, "5-plus": 13.0}, 3.0),
}  # fmt: skip
"""Questions about an amount: which one, where each answer lies on its scale, and how far
volunteers scatter."""

Weights = dict[str, Values]


class Sight:
    """What can be seen of N galaxies in one region's images.

    Parameters
    ----------
    galaxies : structured array of dtype `population.GALAXY`, shape (N,)
        The truth.
    region : Region
        PSF and depth.
    """

    def __init__(self, galaxies: Galaxies, region: Region) -> None:
        self.galaxies = galaxies
        share = galaxies["share"]
        self.bulge_share = share[:, SHARE["bulge"]]
        self.young_share = share[:, SHARE["young"]] + share[:, SHARE["points"]]
        self.visible = _visible(galaxies, region)
        """0: a blur; 1: every feature is plain."""
        self.taste = np.stack([_rng(g, 6).normal(0, 0.45, _TASTES) for g in galaxies])
        """Per galaxy, what no parameter explains; shape (N, 8)."""
        self.face_on = np.clip(1.25 * galaxies["axis_ratio"], 0.15, 1.0)

    def amount(self, name: str) -> Values:
        """A parameter of the galaxies, or one of this object's attributes."""
        source = getattr(self, name, None)
        values: Values = np.asarray(self.galaxies[name] if source is None else source, dtype=np.float64)
        return values


def _visible(galaxies: Galaxies, region: Region) -> Values:
    sharpness = np.log2(galaxies["r50"] / region.psf_fwhm_arcsec[1])
    strength = np.log10(signal_to_noise(galaxies, region))
    return _logistic(1.7 * (sharpness - 0.5)) * _logistic((strength - 1.9) / 0.22)


def signal_to_noise(galaxies: Galaxies, region: Region) -> Values:
    """Half of a galaxy's r-band light over the sky noise inside its half-light radius, shape (N,)."""
    sky = float(Conditions.of(region).sky[1]) / region.pixel_scale_arcsec
    half_light = 0.5 * 10 ** (-0.4 * (galaxies["mag_r"] - 22.5))
    return np.asarray(half_light / (sky * np.sqrt(np.pi) * galaxies["r50"]), dtype=np.float64)


def _logistic(value: Values) -> Values:
    result: Values = 1.0 / (1.0 + np.exp(-value))
    return result


def _rng(galaxy: np.void, *purpose: int) -> np.random.Generator:
    return np.random.default_rng([int(galaxy["texture_seed"]), *purpose])


def _smooth_or_featured(sight: Sight) -> Weights:
    g = sight.galaxies
    arms = (g["arm_count"] > 0) * np.sqrt(g["arm_strength"]) * np.sqrt(sight.young_share / 0.4)
    evidence = (
        4.4 * arms * sight.face_on
        + 1.8 * (g["ring_radius"] > 0)
        + 1.3 * (g["bar_length"] > 0)
        + 3.0 * (g["kind"] == "irregular")
        + 2.2 * (g["disturbance"] >= 2)
        + 0.8 * (g["kind"] == "spiral")
    )
    side = _edge_on(sight)
    odd = np.isin(g["kind"], ("star", "artifact"))
    featured = _logistic(-2.5 + sight.visible * evidence + 4.5 * side + 1.2 * sight.taste[:, 0])
    artifact = np.where(odd, np.where(g["kind"] == "star", 0.6, 0.85), 0.015 + 0.02 * (1 - sight.visible))
    featured = np.where(odd, 0.1, featured) * (1 - artifact)
    return {
        "smooth": 1 - featured - artifact,
        "featured-or-disk": featured,
        "features": featured,
        "artifact": artifact,
    }


def _edge_on(sight: Sight) -> Values:
    disk = sight.galaxies["inclination"] > 0
    thin = _logistic((0.30 - sight.galaxies["axis_ratio"]) / 0.03)
    return np.where(disk, thin, 0.4 * thin)


def _yes_no(yes: Values) -> Weights:
    return {"yes": yes, "no": 1 - yes}


def _disk_edge_on(sight: Sight) -> Weights:
    return _yes_no(np.clip(_edge_on(sight), 0.01, 0.97))


def _has_spiral_arms(sight: Sight) -> Weights:
    g = sight.galaxies
    strength = (g["arm_count"] > 0) * np.sqrt(g["arm_strength"]) + 0.4 * (g["kind"] == "spiral")
    return _yes_no(_logistic(-1.8 + 5.0 * sight.visible * strength * sight.face_on + sight.taste[:, 1]))


def _bar(sight: Sight) -> Weights:
    share = sight.galaxies["share"][:, SHARE["bar"]]
    length = sight.galaxies["bar_length"]
    seen = _logistic(-2.4 + sight.visible * sight.face_on * (length > 0) * (2.5 + 14 * share) + sight.taste[:, 2])
    strong = seen * _logistic(4.0 * (length - 0.75) + 10 * (share - 0.12))
    return {"strong": strong, "weak": seen - strong, "no": 1 - seen, "yes": seen}


def _edge_on_bulge(sight: Sight) -> Weights:
    seen = _logistic(14.0 * (sight.bulge_share - 0.12) + sight.taste[:, 3])
    boxy = seen * np.where(sight.galaxies["bulge_power"] > 2.5, 0.15 + 0.55 * sight.visible, 0.08)
    return {
        "boxy": boxy, "none": 1 - seen, "no-bulge": 1 - seen, "rounded": seen - boxy, "round": seen - boxy,
        "yes": seen, "no": 1 - seen,
    }  # fmt: skip


def _spiral_arm_count(sight: Sight) -> Weights:
    arms = sight.galaxies["arm_count"].astype(np.float64)
    scatter = 0.45 + 0.9 * (1 - sight.visible)
    places = {"1": 1.0, "2": 2.0, "3": 3.0, "4": 4.0, "more-than-4": 5.5, "5-plus": 5.5}
    weights = {name: np.exp(-0.5 * ((arms - place) / scatter) ** 2) + 1e-3 for name, place in places.items()}
    known = sum(weights[name] for name in ("1", "2", "3", "4", "more-than-4"))
    lost = 0.08 + 0.6 * (1 - sight.visible) + 0.5 * (arms == 0)
    return {name: weight / known * (1 - lost / 1.3) for name, weight in weights.items()} | {"cant-tell": lost / 1.3}


def _merging(sight: Sight) -> Weights:
    level = sight.galaxies["disturbance"].astype(np.float64)
    seen = 0.35 + 0.65 * sight.visible
    scatter = 0.55
    near = [np.exp(-0.5 * ((level * seen - place) / scatter) ** 2) for place in range(4)]
    names = (
        ("none", "neither"),
        ("minor-disturbance", "tidal-debris"),
        ("major-disturbance", "both"),
        ("merger",),
    )
    return {name: weight + 0.01 for group, weight in zip(names, near, strict=True) for name in group}


def _clumpy(sight: Sight) -> Weights:
    g = sight.galaxies
    clumps = 0.25 * g["clumps"] * (g["kind"] == "irregular") + 0.06 * g["clumps"]
    return _yes_no(_logistic(-2.3 + 1.6 * sight.visible * clumps + sight.taste[:, 4]))


def _symmetrical(sight: Sight) -> Weights:
    return _yes_no(_logistic(1.5 - 7.0 * sight.visible * sight.galaxies["lopsidedness"] + sight.taste[:, 5]))


def _embedded(sight: Sight) -> Weights:
    return _yes_no(_logistic(1.1 + sight.taste[:, 6]))


def _odd(sight: Sight) -> Weights:
    g = sight.galaxies
    oddity = 1.5 * g["disturbance"] + 1.6 * (g["ring_radius"] > 0) + 1.0 * (g["kind"] == "irregular")
    return _yes_no(_logistic(-2.4 + sight.visible * oddity + sight.taste[:, 7]))


_QUESTIONS: Mapping[str, Callable[[Sight], Weights]] = {
    "smooth-or-featured": _smooth_or_featured,
    "disk-edge-on": _disk_edge_on,
    "has-spiral-arms": _has_spiral_arms,
    "bar": _bar,
    "edge-on-bulge": _edge_on_bulge,
    "bulge-shape": _edge_on_bulge,
    "spiral-arm-count": _spiral_arm_count,
    "merging": _merging,
    "clumpy-appearance": _clumpy,
    "galaxy-symmetrical": _symmetrical,
    "clumps-embedded-larger-object": _embedded,
    "something-odd": _odd,
}


def _amounts(sight: Sight, question: Question) -> Weights:
    name, centres, scatter = CENTRES[question.label]
    amount = sight.amount(name)
    blurred = scatter * (1.25 - 0.5 * sight.visible)
    weights = {
        answer: np.exp(-0.5 * ((amount - centre) / blurred) ** 2) + 1e-4
        for answer, centre in centres.items()
        if answer in question.answers
    }
    if "cant-tell" in question.answers:
        weights["cant-tell"] = sum(weights.values(), np.zeros(len(amount))) * (0.1 + 0.7 * (1 - sight.visible))
    return weights


def answer_probabilities(sight: Sight, tree: DecisionTree) -> Values:
    """How likely a volunteer who is asked gives each answer.

    Parameters
    ----------
    sight : Sight
        N galaxies as they look.
    tree : DecisionTree
        Of one or several campaigns.

    Returns
    -------
    float64, shape (N, A)
        Adding up to 1 within each question.
    """
    result = np.empty((len(sight.galaxies), tree.n_answers))
    for question in tree.questions:
        amounts = question.label in CENTRES
        weights = _amounts(sight, question) if amounts else _QUESTIONS[question.label](sight)
        part = np.clip(np.stack([weights[answer] for answer in question.answers], axis=1), 1e-4, None)
        part /= part.sum(axis=1, keepdims=True)
        result[:, question.columns] = (1 - CARELESS) * part + CARELESS / part.shape[1]
    return result


def vote(galaxies: Galaxies, probabilities: Values, tree: DecisionTree) -> NDArray[np.int32]:
    """Let volunteers answer down the question tree of one campaign.

    Parameters
    ----------
    galaxies : structured array of dtype `population.GALAXY`, shape (N,)
        Each has volunteers of its own, from its own seed.
    probabilities : float64, shape (N, A)
        As `answer_probabilities` returns them.
    tree : DecisionTree
        One campaign.

    Returns
    -------
    int32, shape (N, A)
        Counts; a question is asked only of those whose answer leads to it.
    """
    counts = np.zeros(probabilities.shape, dtype=np.int32)
    campaign = zlib.crc32(tree.campaigns[0].encode())
    parents = [[column for _, column in tree.parents(question)] for question in tree.questions]
    for row, galaxy in enumerate(galaxies):
        rng = _rng(galaxy, 7, campaign)
        volunteers = int(np.clip(round(rng.normal(32, 10)), FEWEST, MOST)) if rng.random() < 0.6 else FEWEST
        for question, columns in zip(tree.questions, parents, strict=True):
            asked = int(counts[row, columns].sum()) if columns else volunteers
            counts[row, question.columns] = rng.multinomial(asked, probabilities[row, question.columns])
    return counts
