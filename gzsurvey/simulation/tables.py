"""Tables of a simulated survey: targets, truth, votes, labels, and the dataset recipe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from astropy.io import fits
from numpy.typing import NDArray

from gzsurvey.recipes.simulation import SimulationRecipe
from gzsurvey.simulation.draw import Galaxies
from gzsurvey.simulation.layout import FIRST_TRAINING, Field
from gzsurvey.simulation.population import COMPONENTS, DISTURBANCES, EDGE_ON_DEG, GALAXY, population
from gzsurvey.simulation.volunteers import Sight, answer_probabilities, vote
from gzsurvey.votes import DecisionTree

TRUTH_CAMPAIGN = "gz_decals_dr8"
"""Whose fractions the truth states: the default campaign."""
_UNITS = {"ra": "deg", "dec": "deg", "r50": "arcsec", "r_major": "arcsec", "pa": "deg", "inclination": "deg",
          "arm_pitch": "deg", "bar_pa": "deg", "companion_pa": "deg", "mag_g": "mag", "mag_r": "mag", "mag_z": "mag",
          "arm_phase": "rad", "tail_phase": "rad"}  # fmt: skip
_UCDS = {"id": "meta.id;meta.main", "ra": "pos.eq.ra;meta.main", "dec": "pos.eq.dec;meta.main",
         "r50": "phys.angSize", "mag_g": "phot.mag;em.opt.B", "mag_r": "phot.mag;em.opt.R",
         "mag_z": "phot.mag;em.opt.I"}  # fmt: skip


def write_targets(fields: list[Field], path: Path) -> None:
    """Write ``targets.fits``: id, position, magnitudes, half-light radius."""
    columns: dict[str, NDArray[Any]] = _positions(fields)
    for name in ("mag_g", "mag_r", "mag_z", "r50"):
        columns[name] = np.concatenate([field.galaxies[name] for field in fields]).astype(np.float32)
    _write_fits(columns, path, "targets")


def _positions(fields: list[Field]) -> dict[str, NDArray[Any]]:
    sky = [field.positions() for field in fields]
    return {
        "id": np.concatenate([field.galaxies["id"] for field in fields]),
        "ra": np.concatenate([ra for ra, _ in sky]),
        "dec": np.concatenate([dec for _, dec in sky]),
    }


def write_truth(fields: list[Field], path: Path) -> None:
    """Write ``truth.fits``: what was drawn, and what volunteers would say about it."""
    galaxies = np.concatenate([field.galaxies for field in fields])
    columns: dict[str, NDArray[Any]] = _positions(fields)
    columns["region"] = np.concatenate([np.full(len(field.galaxies), field.region.name) for field in fields])
    for name in GALAXY.names or ():
        if name not in ("id", "texture_seed", "share", "g_r", "r_z", "disturbance"):
            columns[name] = galaxies[name]
    columns["disturbance"] = np.asarray(DISTURBANCES)[galaxies["disturbance"]]
    columns["winding_direction"] = np.asarray(["anticlockwise", "", "clockwise"])[galaxies["handedness"] + 1]
    for i, component in enumerate(COMPONENTS):
        columns[f"share_{component}"] = galaxies["share"][:, i]
    tree = DecisionTree.load(TRUTH_CAMPAIGN)
    sights = [Sight(field.galaxies, field.region) for field in fields]
    probabilities = np.concatenate([answer_probabilities(sight, tree) for sight in sights])
    columns["visibility"] = np.concatenate([sight.visible for sight in sights])
    columns |= _flags(galaxies, probabilities, tree)
    for question in tree.questions:
        for i, answer in enumerate(question.answers):
            name = f"{question.label}_{answer}_fraction".replace("-", "_")
            columns[name] = probabilities[:, question.start + i].astype(np.float32)
    _write_fits(columns, path, "truth")


def _flags(galaxies: Galaxies, probabilities: NDArray[np.float64], tree: DecisionTree) -> dict[str, NDArray[np.bool_]]:
    odd = np.isin(galaxies["kind"], ("star", "artifact"))
    featured = tree.vote_columns.index("smooth-or-featured-dr8_featured-or-disk")
    return {
        "is_galaxy": ~odd,
        "is_featured": (probabilities[:, featured] > 0.5) & ~odd,
        "is_edge_on": (galaxies["inclination"] > EDGE_ON_DEG) & ~odd,
        "has_bar": (galaxies["bar_length"] > 0) & ~odd,
        "has_arms": (galaxies["arm_count"] > 0) & ~odd,
        "has_ring": (galaxies["ring_radius"] > 0) & ~odd,
        "is_merger": (galaxies["kind"] == "merger") & ~odd,
    }


def _write_fits(columns: dict[str, NDArray[Any]], path: Path, name: str) -> None:
    made = []
    for key, values in columns.items():
        made.append(fits.Column(name=key, format=_fits_format(values), unit=_UNITS.get(key), array=values))
    table = fits.BinTableHDU.from_columns(made, name=name)
    for number, key in enumerate(columns, start=1):
        if key in _UCDS:
            table.header.set(f"TUCD{number}", _UCDS[key], after=f"TFORM{number}")
    table.header["SIMULATE"] = (True, "drawn, not observed")
    aside = path.with_name(path.name + ".partial")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(aside, overwrite=True)
    _settle(aside, path)


def _fits_format(values: NDArray[Any]) -> str:
    if values.dtype.kind == "U":
        return f"{max(values.dtype.itemsize // 4, 1)}A"
    return {"?": "L", "q": "K", "l": "K", "i": "J", "f": "E", "d": "D"}[values.dtype.char]


def _settle(aside: Path, path: Path) -> None:
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)


class Training:
    """The training galaxies: who they are, which camera saw them, who voted."""

    def __init__(self, recipe: SimulationRecipe) -> None:
        self.recipe = recipe
        self.ids = np.arange(FIRST_TRAINING, FIRST_TRAINING + recipe.training)
        rng = np.random.default_rng([recipe.seed, 2])
        self.region = rng.choice(len(recipe.regions), recipe.training, p=[r.share for r in recipe.regions])
        """Index of each galaxy's region."""
        self.campaigns = tuple(recipe.campaigns)
        weights = np.asarray([recipe.campaigns[name] for name in self.campaigns])
        first, second = rng.choice(len(weights), (2, recipe.training), p=weights / weights.sum())
        labelled = rng.random(recipe.training) >= recipe.unlabelled_fraction
        again = rng.random(recipe.training) < recipe.second_campaign_fraction
        self.first = np.where(labelled, first, -1)
        """Index of the campaign that showed each galaxy; -1: none."""
        self.second = np.where(labelled & again & (second != first), second, -1)
        self.ra, self.dec = _scatter(recipe, rng)

    def galaxies(self, rows: NDArray[np.integer]) -> Galaxies:
        """Draw some of them."""
        return population(self.recipe.seed, (int(i) for i in self.ids[rows]))

    def table(self, rows: NDArray[np.integer], galaxies: Galaxies) -> pd.DataFrame:
        """What a catalogue says of some of them, whose rows of `GALAXY` are `galaxies`."""
        content = {"id": self.ids[rows], "ra": self.ra[rows], "dec": self.dec[rows]}
        content |= {name: galaxies[name].astype(np.float32) for name in ("r50", "mag_g", "mag_r", "mag_z")}
        return pd.DataFrame(content)


def _scatter(recipe: SimulationRecipe, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions on the sky, at least 5 degrees in declination from the mosaics."""
    low, high = np.sin(np.radians([-60.0, 60.0]))
    dec = np.degrees(np.arcsin(rng.uniform(low, high, recipe.training)))
    ra = rng.uniform(0, 360, recipe.training)
    for region in recipe.regions:
        near = np.abs(dec - region.dec) < 5
        dec = np.where(near, region.dec + np.copysign(5.0, dec - region.dec) + (dec - region.dec), dec)
    return ra, dec


def write_answers(recipe: SimulationRecipe, rows: NDArray[np.integer], path: Path) -> None:
    """Let volunteers answer about some training galaxies, into a file of their own; one that exists is complete."""
    if path.exists():
        return
    training = Training(recipe)
    galaxies = training.galaxies(rows)
    content: dict[str, NDArray[Any]] = {"galaxies": galaxies}
    for number, campaign in enumerate(training.campaigns):
        shown = np.flatnonzero((training.first[rows] == number) | (training.second[rows] == number))
        tree = DecisionTree.load(campaign)
        probabilities = _probabilities(training, rows[shown], galaxies[shown], tree)
        votes = vote(galaxies[shown], probabilities, tree)
        content |= {f"{campaign}/{name}": values for name, values in
                    (("rows", rows[shown]), ("probabilities", probabilities), ("votes", votes))}  # fmt: skip
    aside = path.with_name(path.name + ".partial.npz")
    np.savez(aside, **content)  # type: ignore[arg-type]
    aside.replace(path)


def write_votes(training: Training, answers: Sequence[Path], out: Path) -> None:
    """Write what training galaxies are called, from what `write_answers` made of all of them, in their order.

    ``votes/{campaign}.parquet``, ``truth/{campaign}.parquet`` (the probabilities that the votes were drawn
    with), ``unlabelled.parquet``, ``stamps.parquet`` and ``rings.csv``.
    """
    parts = [np.load(path) for path in answers]
    galaxies = np.concatenate([part["galaxies"] for part in parts])
    catalogue = training.table(np.arange(len(training.ids)), galaxies)
    _write_parquet(catalogue, out / "stamps.parquet")
    _write_parquet(catalogue[training.first < 0], out / "unlabelled.parquet")
    for campaign in training.campaigns:
        shown, probabilities, counts = (
            np.concatenate([part[f"{campaign}/{name}"] for part in parts])
            for name in ("rows", "probabilities", "votes")
        )
        tree = DecisionTree.load(campaign)
        votes = pd.DataFrame(counts, columns=list(tree.vote_columns), index=catalogue.index[shown])
        _write_parquet(pd.concat([catalogue.iloc[shown], votes], axis=1), out / "votes" / f"{campaign}.parquet")
        columns = [f"{column}_fraction" for column in tree.vote_columns]
        truth = pd.DataFrame(probabilities.astype(np.float32), columns=columns)
        truth.insert(0, "id", training.ids[shown])
        _write_parquet(truth, out / "truth" / f"{campaign}.parquet")
    _write_rings(training, galaxies, out / "rings.csv")


def _probabilities(
    training: Training, rows: NDArray[np.integer], galaxies: Galaxies, tree: DecisionTree
) -> NDArray[np.float64]:
    result = np.empty((len(rows), tree.n_answers))
    for number, region in enumerate(training.recipe.regions):
        own = np.flatnonzero(training.region[rows] == number)
        if len(own):
            result[own] = answer_probabilities(Sight(galaxies[own], region), tree)
    return result


def _write_parquet(table: pd.DataFrame, path: Path) -> None:
    aside = path.with_name(path.name + ".partial")
    table.to_parquet(aside, index=False)
    _settle(aside, path)


def _write_rings(training: Training, galaxies: Galaxies, path: Path) -> None:
    """Label galaxies as ringed or not, where a ring could be seen: one in three has one."""
    seen = (galaxies["inclination"] < 70) & (galaxies["kind"] != "merger")
    has_ring = galaxies["ring_radius"] > 0
    with_ring, without = np.flatnonzero(has_ring & seen), np.flatnonzero(~has_ring & seen)
    rng = np.random.default_rng([training.recipe.seed, 3])
    chosen = rng.choice(without, min(2 * len(with_ring), len(without)), replace=False)
    rows = np.sort(np.concatenate([with_ring, chosen]))
    labels = pd.DataFrame({"id": training.ids[rows], "label": np.where(has_ring[rows], "ring", "no-ring")})
    aside = path.with_name(path.name + ".partial")
    labels.to_csv(aside, index=False, lineterminator="\n")
    _settle(aside, path)


def write_dataset_recipe(recipe: SimulationRecipe, training: Training, path: Path) -> None:
    """Write ``dataset.yaml``, which `gzsurvey dataset build` reads."""
    used = [n for i, n in enumerate(training.campaigns) if ((training.first == i) | (training.second == i)).any()]
    common = {
        "images": "stamps.zip",
        "id_column": "id",
        "ra_column": "ra",
        "dec_column": "dec",
        "r50_column": "r50",
        "mag_column": "mag_r",
        "crop": 1.0,  # the stamps show the cropped field already
        "licence": "CC0-1.0",
        "citation": "Simulated with gzsurvey",
    }
    sources = [{"name": n, "campaign": n, "catalogue": f"votes/{n}.parquet", **common} for n in used]
    if (training.first < 0).any():
        sources.append({"name": "unlabelled", "catalogue": "unlabelled.parquet", **common})
    content = {
        "name": "simulated",
        "simulated": True,
        "preparation": recipe.stamps.model_dump(mode="json"),
        "seed": recipe.seed,
        "hold_out": [{"file": "targets.fits"}],
        "sources": sources,
    }
    aside = path.with_name(path.name + ".partial")
    text = yaml.safe_dump(content, sort_keys=False)
    aside.write_text(f"# Made by 'gzsurvey simulate'; 'gzsurvey dataset build' reads it.\n{text}")
    _settle(aside, path)
