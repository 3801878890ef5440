"""What can still be seen of a galaxy that is fainter, smaller, blurred or noisier: by the model, and by volunteers.

Simulated galaxies are drawn again and again, the same but for one thing; what volunteers
would then say is known, because the simulation states it. Real cutouts are degraded, and
only the model is asked.

Letters: N galaxies, A answers of the campaign, Q questions, S pixels on a side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import RecipeError
from gzsurvey.evaluation.detectability_figure import draw_detectability
from gzsurvey.evaluation.steps import Step, real_steps, simulated_steps
from gzsurvey.model.checkpoint import CheckpointInfo, find_checkpoint, load_network, write_aside
from gzsurvey.model.network import Network
from gzsurvey.processes import worker_processes
from gzsurvey.progress import Progress
from gzsurvey.recipes.cluster import cores
from gzsurvey.recipes.detectability import DetectabilityRecipe
from gzsurvey.training import job
from gzsurvey.training.data import as_input
from gzsurvey.training.pictures import Survey
from gzsurvey.votes.fractions import expected_fractions, proportion_asked
from gzsurvey.votes.tree import DecisionTree

_AT_A_TIME = 256


@dataclass(frozen=True)
class Seen:
    """What the model and volunteers say of all galaxies in one step."""

    step: Step
    predicted: NDArray[np.floating]
    """Expected fractions, shape (N, A)."""
    asked: NDArray[np.floating]
    """Expected fraction of volunteers who are asked, by question, shape (N, Q)."""
    volunteers: NDArray[np.floating]
    """Fractions of very many simulated volunteers, shape (N, A); NaN for real galaxies."""


def detectability(
    recipe: DetectabilityRecipe,
    checkpoint: str,
    out: Path,
    device: str = "auto",
    targets: Path | None = None,
    cutouts: str | None = None,
) -> str:
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
    targets : Path, optional
        Real galaxies: a table with ids, positions and half-light radii. Default: simulated ones.
    cutouts : str, optional
        The SOURCE of their flux.

    Returns
    -------
    str
        A short table, as Markdown.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The checkpoint predicts no votes, or not those of the campaign; there is no such region; there
        are too few galaxies; or of `targets` and `cutouts` only one is given.
    gzsurvey.errors.TableError
        Targets lack what is needed.
    gzsurvey.errors.OutputConflict
        OUT was made from something else.
    gzsurvey.errors.OutputBusy
        Another process fills OUT.
    """
    if (targets is None) != (cutouts is None):
        raise RecipeError("detectability", "real galaxies need both --targets and --cutouts")
    network, info = load_network(find_checkpoint(checkpoint))
    questions = _campaign(info, checkpoint, recipe.campaign)
    description = {
        "recipe": recipe.model_dump(mode="json"),
        "checkpoint": hashlib.sha256(find_checkpoint(checkpoint).read_bytes()).hexdigest(),
        "targets": None if targets is None else hashlib.sha256(targets.read_bytes()).hexdigest(),
        "cutouts": cutouts,
    }
    path, began = out / "detectability.csv", job.is_claimed(out)
    with job.claimed(out, description) as finished:
        if not finished:
            with job.released_if_refused(out, began):
                every = list(_steps(recipe, info, targets, cutouts))
                chosen = job.choose_device(device)
                seen = list(_see(every, job.on_device(network, chosen).eval(), questions, out, chosen))
                table = follow(seen, questions.tree, recipe)
            write_aside(path, table.to_csv(index=False, lineterminator="\n").encode())
            draw_detectability(table, out / "detectability.png")
            for pictures in out.glob("*.npy"):
                pictures.unlink()
            job.finish(out, description)
    return summary(pd.read_csv(path))


def _steps(
    recipe: DetectabilityRecipe, info: CheckpointInfo, targets: Path | None, cutouts: str | None
) -> Iterator[Step]:
    if targets is None or cutouts is None:
        return simulated_steps(recipe, info.preparation)
    survey = Survey(SourceSpec.parse(cutouts, recipe.bands, recipe.zeropoints), recipe.size_column)
    return real_steps(recipe, info.preparation, targets, survey)


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


def _see(every: list[Step], network: Network, questions: _Questions, out: Path, device: torch.device) -> Iterator[Seen]:
    number = len(every[0].size_over_psf)
    shown = Progress("detectability", len(every) * number, "pictures")
    with worker_processes(cores()) as pool:
        for step in every:
            path = out / f"{step.name}.npy"
            if not path.is_file():
                aside = path.with_suffix(".partial.npy")
                np.save(aside, step.pictures(pool))
                aside.replace(path)
            shown.advance(number)
            concentration = _predict(network, np.load(path), device)[:, questions.columns]
            fractions = expected_fractions(concentration, questions.tree)
            unknown = np.full(fractions.shape, np.nan)
            yield Seen(
                step,
                fractions,
                proportion_asked(fractions, questions.tree),
                unknown if step.volunteers is None else step.volunteers(questions.tree),
            )
    shown.finish()


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
        The first is of the galaxies as they are.
    tree : DecisionTree
        Of the campaign.
    recipe : DetectabilityRecipe
        Says what is plain, and how many galaxies are needed.

    Returns
    -------
    DataFrame
        One row per change, amount and answer: ``galaxies`` that are followed (by what volunteers say, or
        by what the model does where they are not known), their median ``size_over_psf``
        (half-light radius over half of the PSF's width) and ``signal_to_noise``, mean fraction
        ``predicted`` with its standard error, mean fraction of ``volunteers``, mean
        ``proportion_asked`` of the question.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No answer is shown by enough galaxies.
    """
    first = seen[0]
    plain = first.predicted if np.isnan(first.volunteers).all() else first.volunteers
    asked = proportion_asked(plain, tree)[:, tree.question_of_answer]
    followed = (plain >= recipe.plain) & (asked >= 0.5)
    enough = followed.sum(axis=0) >= recipe.least_galaxies
    if not enough.any():
        raise RecipeError("detectability", f"no answer is plainly shown by {recipe.least_galaxies} of {len(plain)} "
                          "galaxies; take more galaxies, or lower plain or least_galaxies")  # fmt: skip
    left_out = [column for column, kept in zip(tree.vote_columns, enough, strict=True) if not kept]
    if left_out:
        Progress.say(f"detectability: too few galaxies plainly show {', '.join(left_out)}; left out")
    return pd.DataFrame([row for each in seen for row in _rows(each, tree, followed, np.flatnonzero(enough))])


def _rows(
    seen: Seen, tree: DecisionTree, followed: NDArray[np.bool_], answers: NDArray[np.intp]
) -> Iterator[dict[str, Any]]:
    for answer in answers:
        question = tree.questions[tree.question_of_answer[answer]]
        rows = followed[:, answer]
        predicted = seen.predicted[rows, answer]
        yield {
            "change": seen.step.change,
            "amount": seen.step.amount,
            "question": question.name,
            "answer": question.answers[answer - question.start],
            "galaxies": int(rows.sum()),
            "size_over_psf": float(np.median(seen.step.size_over_psf[rows])),
            "signal_to_noise": float(np.median(seen.step.signal_to_noise[rows])),
            "predicted": float(predicted.mean()),
            "standard_error": float(predicted.std(ddof=1) / np.sqrt(len(predicted))) if len(predicted) > 1 else np.nan,
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
        volunteers = "not known" if np.isnan(first.volunteers) else f"{first.volunteers:.2f}"
        lines.append(f"| {question}: {answer} | {first.galaxies} | {first.predicted:.2f}, {volunteers} | {said} |")
    return "\n".join(lines)


def _half(part: pd.DataFrame) -> str:
    """Return the first step of one change at which less than half is left, in words."""
    gone = part[part["predicted"] < 0.5 * part["predicted"].iloc[0]]
    if gone.empty:
        return ""
    row = gone.iloc[0]
    seen_at = f"size over PSF {row.size_over_psf:.1f}, signal-to-noise {row.signal_to_noise:.0f}"
    return f"{row.change} {row.amount:g} ({seen_at})"
