"""What can still be seen of a galaxy that is fainter, smaller, blurred or noisier: by the model, and by volunteers.

Simulated galaxies are drawn again and again, the same but for one thing. What volunteers
would then say is known, because the simulation states it.

Letters: N galaxies, A answers of the campaign, S pixels on a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from gzsurvey.errors import RecipeError
from gzsurvey.evaluation.detectability_figure import draw_detectability
from gzsurvey.model.checkpoint import CheckpointInfo, find_checkpoint, load_network, sha256_of, write_aside
from gzsurvey.model.network import Network
from gzsurvey.progress import Progress
from gzsurvey.recipes.cluster import cores
from gzsurvey.recipes.detectability import DetectabilityRecipe
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.simulation import Region, load_simulation_recipe
from gzsurvey.simulation.draw import Galaxies
from gzsurvey.simulation.population import population
from gzsurvey.simulation.stamps import stamps
from gzsurvey.simulation.volunteers import Sight, answer_probabilities, signal_to_noise
from gzsurvey.training import job
from gzsurvey.training.data import as_input
from gzsurvey.votes.fractions import expected_fractions, proportion_asked
from gzsurvey.votes.tree import DecisionTree

_AT_A_TIME = 256
_DRAWN_AT_ONCE, _DRAWN_AT_MOST = 2000, 100_000
_FIRST_ID = 700_000_000
"""Ids of galaxies that no simulated survey has."""
_PART = 50
"""Galaxies that one process draws at a time."""


@dataclass(frozen=True)
class Step:
    """One way of seeing all galaxies."""

    change: str
    """``fainter``, ``smaller``, ``blurred`` or ``noisier``."""
    amount: float
    """In the unit of the recipe's key."""
    galaxies: Galaxies
    region: Region

    @property
    def name(self) -> str:
        """File name without ending."""
        return f"{self.change}-{self.amount:g}"


@dataclass(frozen=True)
class Seen:
    """What the model and volunteers say of all galaxies in one step."""

    step: Step
    predicted: NDArray[np.floating]
    """Expected fractions, shape (N, A)."""
    asked: NDArray[np.floating]
    """Expected fraction of volunteers who are asked, by question, shape (N, Q)."""
    volunteers: NDArray[np.float64]
    """Fractions of very many simulated volunteers, shape (N, A)."""


def detectability(recipe: DetectabilityRecipe, checkpoint: str, out: Path, device: str = "auto") -> str:
    """Follow each vote fraction as galaxies become harder to see.

    Worker processes are spawned: call it from under ``if __name__ == "__main__"`` in a script.

    Parameters
    ----------
    recipe : DetectabilityRecipe
        What is done to the galaxies.
    checkpoint : str
        The OUT of `pretrain` or `finetune`, or one file in it, with a head of votes.
    out : Path
        OUT: ``detectability.csv`` and ``.png``. Repeating it goes on where it stopped, or returns at once.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    str
        A short table, as Markdown.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The checkpoint predicts no votes, or not those of the campaign; there is no such region, or
        it has too few galaxies that are large and bright.
    gzsurvey.errors.OutputConflict
        OUT was made from something else.
    """
    network, info = load_network(find_checkpoint(checkpoint))
    questions = _campaign(info, checkpoint, recipe.campaign)
    description = {"recipe": recipe.model_dump(mode="json"), "checkpoint": sha256_of(info)}
    path = out / "detectability.csv"
    if not job.claim(out, description):
        chosen = job.choose_device(device)
        network = job.on_device(network, chosen).eval()
        seen = list(_see(recipe, network, info.preparation, questions, out, chosen))
        table = follow(seen, questions.tree, recipe)
        write_aside(path, table.to_csv(index=False, lineterminator="\n").encode())
        draw_detectability(table, out / "detectability.png")
        for pictures in out.glob("*.npy"):
            pictures.unlink()
        job.finish(out, description)
    return summary(pd.read_csv(path))


@dataclass(frozen=True)
class _Questions:
    """One campaign of a model."""

    tree: DecisionTree
    """Its questions, answers numbered from 0."""
    columns: NDArray[np.int64]
    """Of the model's ``concentration``, for the answers of `tree`."""


def _campaign(info: CheckpointInfo, checkpoint: str, campaign: str | None) -> _Questions:
    head = next((head for head in info.heads if head.kind == "votes"), None)
    if head is None:
        raise RecipeError(checkpoint, "predicts no votes, so there is no fraction to follow")
    name = campaign or info.most_voted_campaign or head.tree.campaigns[0]
    if name not in head.tree.campaigns:
        raise RecipeError(checkpoint, f"has no campaign {name!r}; it has {', '.join(head.tree.campaigns)}")
    tree = DecisionTree.load(name)
    places = {column: place for place, column in enumerate(head.tree.vote_columns)}
    return _Questions(tree, np.array([places[column] for column in tree.vote_columns], dtype=np.int64))


def choose_galaxies(recipe: DetectabilityRecipe, region: Region) -> Galaxies:
    """Draw galaxies that are large and bright in the images of `region`.

    Raises
    ------
    gzsurvey.errors.RecipeError
        Hardly any of 100,000 drawn is.
    """
    half_width = region.psf_fwhm_arcsec[1] / 2
    found: list[Galaxies] = []
    for start in range(_FIRST_ID, _FIRST_ID + _DRAWN_AT_MOST, _DRAWN_AT_ONCE):
        drawn = population(recipe.seed, range(start, start + _DRAWN_AT_ONCE))
        large = drawn["r50"] / half_width >= recipe.least_size
        found.append(drawn[large & (drawn["mag_r"] <= recipe.faintest_mag)])
        if sum(map(len, found)) >= recipe.galaxies:
            return np.concatenate(found)[: recipe.galaxies]
    number = sum(map(len, found))
    raise RecipeError(
        "detectability",
        f"of {_DRAWN_AT_MOST:,} simulated galaxies {number} are as large and bright as least_size and "
        f"faintest_mag ask, {recipe.galaxies} are wanted; ask for less",
    )


def steps(recipe: DetectabilityRecipe, galaxies: Galaxies, region: Region) -> Iterator[Step]:
    """Yield every way of seeing the galaxies; each change begins with none."""
    for amount in recipe.fainter_mag:
        yield Step("fainter", amount, _changed(galaxies, 1.0, amount), region)
    for amount in recipe.smaller:
        yield Step("smaller", amount, _changed(galaxies, amount, -5 * np.log10(amount)), region)
    for amount in recipe.blurred:
        widths = tuple(amount * width for width in region.psf_fwhm_arcsec)
        yield Step("blurred", amount, galaxies, region.model_copy(update={"psf_fwhm_arcsec": widths}))
    for amount in recipe.noisier_mag:
        # A depth of one magnitude less is an exposure 10 ** 0.8 shorter.
        update = {"depth_mag": tuple(depth - amount for depth in region.depth_mag),
                  "gain": tuple(gain * 10 ** (-0.8 * amount) for gain in region.gain)}  # fmt: skip
        yield Step("noisier", amount, galaxies, region.model_copy(update=update))


def _changed(galaxies: Galaxies, size: float, fainter_mag: float) -> Galaxies:
    changed = galaxies.copy()
    for name in ("r50", "r_major"):
        changed[name] *= size
    for name in ("mag_g", "mag_r", "mag_z"):
        changed[name] += fainter_mag
    return changed


def _see(
    recipe: DetectabilityRecipe,
    network: Network,
    preparation: Preparation,
    questions: _Questions,
    out: Path,
    device: torch.device,
) -> Iterator[Seen]:
    region = _region(recipe)
    every = list(steps(recipe, choose_galaxies(recipe, region), region))
    shown = Progress("detectability", len(every) * recipe.galaxies, "pictures")
    with ProcessPoolExecutor(cores(), get_context("spawn"), _one_thread) as pool:
        for step in every:
            path = out / f"{step.name}.npy"
            if not path.is_file():
                parts = [slice(start, start + _PART) for start in range(0, len(step.galaxies), _PART)]
                drawn = [pool.submit(_pictures, step.galaxies[part], step.region, preparation) for part in parts]
                aside = path.with_suffix(".partial.npy")
                np.save(aside, np.concatenate([future.result() for future in drawn]))
                aside.replace(path)
            shown.advance(len(step.galaxies))
            concentration = _predict(network, np.load(path), device)[:, questions.columns]
            fractions = expected_fractions(concentration, questions.tree)
            sight = Sight(step.galaxies, step.region)
            yield Seen(step, fractions, proportion_asked(fractions, questions.tree),
                       answer_probabilities(sight, questions.tree))  # fmt: skip
    shown.finish()


def _one_thread() -> None:
    """Keep the linear algebra of one process from taking the cores of the others."""
    threadpool_limits(1)


def _region(recipe: DetectabilityRecipe) -> Region:
    regions = load_simulation_recipe(recipe.sky).regions
    found = next((region for region in regions if recipe.region in (None, region.name)), None)
    if found is None:
        raise RecipeError(recipe.sky, f"has no region {recipe.region!r}; it has {', '.join(r.name for r in regions)}")
    return found


def _pictures(galaxies: Galaxies, region: Region, preparation: Preparation) -> NDArray[np.uint8]:
    """Draw some galaxies, uint8, shape (N, S, S, 3)."""
    drawn = dict(stamps(galaxies, region, preparation))
    return np.stack([drawn[row] for row in range(len(galaxies))])


def _predict(network: Network, images: NDArray[np.uint8], device: torch.device) -> NDArray[np.float64]:
    """Concentrations of all answers of the model, calibrated."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), _AT_A_TIME):
            batch = as_input(torch.from_numpy(images[start : start + _AT_A_TIME]).to(device))
            parts.append(network(batch)["concentration"].double().cpu().numpy())
    return np.concatenate(parts)


def follow(seen: list[Seen], tree: DecisionTree, recipe: DetectabilityRecipe) -> pd.DataFrame:
    """Follow every answer on the galaxies that plainly show it before anything is done to them.

    Parameters
    ----------
    seen : list of Seen
        Each change begins with the galaxies as they are.
    tree : DecisionTree
        Of the campaign.
    recipe : DetectabilityRecipe
        Says what is plain, and how many galaxies are needed.

    Returns
    -------
    DataFrame
        One row per change, amount and answer: ``galaxies`` that are followed, their median ``size_over_psf``
        (half-light radius over half of the PSF's width) and ``signal_to_noise``, mean fraction
        ``predicted`` with its standard error, mean fraction of ``volunteers``, mean
        ``proportion_asked`` of the question.
    """
    plain = seen[0].volunteers
    asked = proportion_asked(plain, tree)[:, tree.question_of_answer]
    followed = (plain >= recipe.plain) & (asked >= 0.5)
    enough = followed.sum(axis=0) >= recipe.least_galaxies
    left_out = [column for column, kept in zip(tree.vote_columns, enough, strict=True) if not kept]
    if left_out:
        Progress.say(f"detectability: too few galaxies plainly show {', '.join(left_out)}; left out")
    return pd.DataFrame([row for each in seen for row in _rows(each, tree, followed, np.flatnonzero(enough))])


def _rows(
    seen: Seen, tree: DecisionTree, followed: NDArray[np.bool_], answers: NDArray[np.intp]
) -> Iterator[dict[str, Any]]:
    step = seen.step
    size = step.galaxies["r50"] / (step.region.psf_fwhm_arcsec[1] / 2)
    strength = signal_to_noise(step.galaxies, step.region)
    for answer in answers:
        question = tree.questions[tree.question_of_answer[answer]]
        rows = followed[:, answer]
        predicted = seen.predicted[rows, answer]
        yield {
            "change": step.change,
            "amount": step.amount,
            "question": question.name,
            "answer": question.answers[answer - question.start],
            "galaxies": int(rows.sum()),
            "size_over_psf": float(np.median(size[rows])),
            "signal_to_noise": float(np.median(strength[rows])),
            "predicted": float(predicted.mean()),
            "standard_error": float(predicted.std(ddof=1) / np.sqrt(len(predicted))),
            "volunteers": float(seen.volunteers[rows, answer].mean()),
            "proportion_asked": float(seen.asked[rows, tree.question_of_answer[answer]].mean()),
        }


def summary(table: pd.DataFrame) -> str:
    """Say at which size and signal-to-noise each answer has lost half of its predicted fraction, as Markdown."""
    lines = ["| answer | galaxies | before: predicted, volunteers | half is lost at |", "|---|---|---|---|"]
    for (question, answer), rows in table.groupby(["question", "answer"], sort=False):
        first = rows.iloc[0]
        lost = [_half(part) for _, part in rows.groupby("change", sort=False)]
        said = "; ".join(text for text in lost if text) or "never, within these steps"
        before = f"{first.predicted:.2f}, {first.volunteers:.2f}"
        lines.append(f"| {question}: {answer} | {first.galaxies} | {before} | {said} |")
    return "\n".join(lines)


def _half(part: pd.DataFrame) -> str:
    """Return the first step of one change at which less than half is left, in words."""
    gone = part[part["predicted"] < 0.5 * part["predicted"].iloc[0]]
    if gone.empty:
        return ""
    row = gone.iloc[0]
    seen_at = f"size over PSF {row.size_over_psf:.1f}, signal-to-noise {row.signal_to_noise:.0f}"
    return f"{row.change} {row.amount:g} ({seen_at})"
