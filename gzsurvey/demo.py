"""The whole chain on a simulated sky, from volunteers' votes to a checked catalogue.

::

    OUT/
    ├── simulated/    what `simulate` draws
    ├── store/        training store
    ├── pretrained/   checkpoint of the hybrid pretraining
    ├── finetuned/    the same with a ring task
    ├── model.onnx    both, exported
    ├── run/          the RUN: catalogue.fits, predictions.zarr, ...
    └── report.html   the run's page
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import DemoFailed
from gzsurvey.outputs.columns import column_word
from gzsurvey.progress import Progress, duration
from gzsurvey.votes import DecisionTree, proportion_asked

if TYPE_CHECKING:
    from astropy.table import Table

    from gzsurvey.recipes.demo import DemoChecks, DemoRecipe

CAMPAIGN = "gz_decals_dr8"
"""Whose volunteers' fractions the truth states."""
FEATURED = "smooth_or_featured_featured_or_disk_fraction"
EDGE_ON = "disk_edge_on_yes_fraction"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage that was run: what it made, and how long it took."""

    name: str
    made: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Scores:
    """How the catalogue compares with the simulation's truth, on galaxies no training step saw."""

    galaxies: int
    featured_auc: float
    """ROC-AUC of the featured fraction, featured galaxies against smooth ones."""
    edge_on_auc: float
    """ROC-AUC of the edge-on fraction, edge-on disks against other disks."""
    error: float
    """Mean absolute error of the vote fractions of all answers."""
    error_of_mean: float
    """The same, had every galaxy been given the mean fractions."""
    answers: int
    """Vote fractions compared."""


def demo(out: Path, seed: int | None = None, recipe: str = "demo") -> str:
    """Run the whole chain on a simulated sky and compare its catalogue with the truth.

    Parameters
    ----------
    out : Path
        OUT; an interrupted demo goes on where it stopped.
    seed : int, optional
        Instead of the recipe's.
    recipe : str
        A shipped name or a YAML file.

    Returns
    -------
    str
        A table of what was made, times by stage, and the comparison.

    Raises
    ------
    gzsurvey.errors.DemoFailed
        The catalogue is worse than the recipe's checks allow.
    """
    from gzsurvey.recipes.demo import load_demo_recipe

    loaded = load_demo_recipe(recipe, () if seed is None else (f"seed={seed}",))
    out.mkdir(parents=True, exist_ok=True)
    stages = _run_stages(loaded, out)
    scores = compare(out / "run", out / "simulated")
    spread = embedding_spread(out / "run")
    text = _summary(out, stages, scores, spread)
    _check(loaded.checks, scores, spread, text)
    return text


def _run_stages(recipe: DemoRecipe, out: Path) -> list[Stage]:
    steps: list[tuple[str, str, Callable[[], object]]] = [
        ("simulate", "simulated/", lambda: _simulate(recipe, out)),
        ("dataset build", "store/", lambda: _build(out)),
        ("pretrain", "pretrained/", lambda: _pretrain(recipe, out)),
        ("finetune", "finetuned/", lambda: _finetune(recipe, out)),
        ("export", "model.onnx", lambda: _export(out)),
        ("classify", "run/", lambda: _classify(out)),
        ("report", "report.html", lambda: _report(out)),
    ]
    done = []
    for number, (name, made, step) in enumerate(steps, 1):
        Progress.say(f"[{number}/{len(steps)}] {name} -> {out / made}")
        started = time.monotonic()
        step()
        done.append(Stage(name, made, time.monotonic() - started))
    return done


def _simulate(recipe: DemoRecipe, out: Path) -> None:
    from gzsurvey.recipes.simulation import load_simulation_recipe
    from gzsurvey.simulation import simulate

    changes = {"seed": recipe.seed, "stamps.image_size": recipe.image_size, **recipe.sky.model_dump()}
    overrides = [f"{key}={value}" for key, value in changes.items()]
    simulate(load_simulation_recipe("simulate", overrides), out / "simulated")


def _build(out: Path) -> None:
    from gzsurvey import dataset
    from gzsurvey.recipes.dataset import load_dataset_recipe

    dataset.build(load_dataset_recipe(str(out / "simulated" / "dataset.yaml")), out / "store")


def _pretrain(recipe: DemoRecipe, out: Path) -> None:
    from gzsurvey import training

    training.pretrain(recipe.pretrain.model_copy(update={"seed": recipe.seed}), out / "store", out / "pretrained")


def _finetune(recipe: DemoRecipe, out: Path) -> None:
    from gzsurvey import training

    simulated = out / "simulated"
    training.finetune(
        recipe.finetune.model_copy(update={"seed": recipe.seed}),
        str(out / "pretrained"),
        out / "finetuned",
        simulated / "rings.csv",
        simulated / "stamps.zip",
    )


def _export(out: Path) -> None:
    from gzsurvey.export import export

    export([out / "finetuned"], out / "model.onnx", CAMPAIGN)


def _classify(out: Path) -> None:
    from gzsurvey import survey
    from gzsurvey.cutouts.spec import SourceSpec
    from gzsurvey.recipes.cluster import load_cluster
    from gzsurvey.recipes.survey import load_survey_recipe
    from gzsurvey.survey.job import Job

    simulated = out / "simulated"
    job = Job(
        model=out / "model.onnx",
        targets=str(simulated / "targets.fits"),
        sources=(SourceSpec.parse(f"mosaic:{simulated / 'mosaic'}"),),
        recipe=load_survey_recipe(),
        keep=("mag_r", "r50"),
    )
    survey.classify(job, out / "run", load_cluster("laptop"))


def _report(out: Path) -> None:
    from gzsurvey.report import report

    shutil.copyfile(report(out / "run"), out / "report.html")


def compare(run: Path, simulated: Path) -> Scores:
    """Compare a catalogue of the simulated sky with its truth.

    Only galaxies count, and only fractions of questions that the truth says would be put
    to at least half of the volunteers.

    Parameters
    ----------
    run : Path
        The RUN.
    simulated : Path
        What `simulate` made; its targets are no training galaxies.

    Returns
    -------
    Scores
        All numbers are computed here from the two tables.
    """
    from astropy.table import Table, join
    from sklearn.metrics import roc_auc_score

    from gzsurvey.catalogue import read_catalogue

    truth = Table.read(simulated / "truth.fits")
    truth.rename_columns(truth.colnames[1:], [f"true_{name}" for name in truth.colnames[1:]])
    both = join(read_catalogue(run), truth, keys="id")
    galaxies = both[(both["status"] == 0) & np.asarray(both["true_is_galaxy"], dtype=bool)]
    featured = np.asarray(galaxies["true_is_featured"], dtype=bool)
    disks = galaxies[featured]
    error, error_of_mean, answers = _fraction_errors(galaxies)
    return Scores(
        galaxies=len(galaxies),
        featured_auc=float(roc_auc_score(featured, _values(galaxies, FEATURED))),
        edge_on_auc=float(roc_auc_score(np.asarray(disks["true_is_edge_on"], dtype=bool), _values(disks, EDGE_ON))),
        error=error,
        error_of_mean=error_of_mean,
        answers=answers,
    )


def _fraction_errors(galaxies: Table) -> tuple[float, float, int]:
    tree = DecisionTree.load(CAMPAIGN)
    names = [
        f"{column_word(question.label)}_{column_word(answer)}"
        for question in tree.questions
        for answer in question.answers
    ]
    true = np.column_stack([_values(galaxies, f"true_{name}_fraction") for name in names])
    predicted = np.column_stack([_values(galaxies, f"{name}_fraction") for name in names])
    asked = proportion_asked(true, tree)[:, tree.question_of_answer] >= 0.5
    counted = asked & np.isfinite(true)
    means = np.nanmean(np.where(counted, true, np.nan), axis=0)
    error = np.abs(predicted - true)[counted]
    return float(error.mean()), float(np.abs(means - true)[counted].mean()), int(counted.sum())


def _values(table: Table, column: str) -> NDArray[np.float64]:
    return np.ma.filled(np.ma.asarray(table[column], dtype=np.float64), np.nan)


def embedding_spread(run: Path) -> float:
    """Root mean square distance of unit embeddings from their mean; 0 if all are one.

    Parameters
    ----------
    run : Path
        The RUN.
    """
    import zarr

    group = zarr.open_group(run / "predictions.zarr", mode="r")
    embedding = np.asarray(group["embedding"], dtype=np.float64)[np.asarray(group["status"]) == 0]
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    return float(np.sqrt(((unit - unit.mean(axis=0)) ** 2).sum(axis=1).mean()))


def _summary(out: Path, stages: list[Stage], scores: Scores, spread: float) -> str:
    lines = ["", f"{'stage':<14} {'time':>7}  made"]
    lines += [f"{stage.name:<14} {duration(stage.seconds):>7}  {out / stage.made}" for stage in stages]
    lines += [
        f"{'all':<14} {duration(sum(stage.seconds for stage in stages)):>7}",
        "",
        f"Catalogue against truth: {scores.galaxies} simulated galaxies that no training step saw",
        f"  featured or smooth   ROC-AUC {scores.featured_auc:.3f}",
        f"  edge-on or not       ROC-AUC {scores.edge_on_auc:.3f}",
        f"  vote fractions       mean absolute error {scores.error:.3f} over {scores.answers:,} fractions",
        f"  (every galaxy = mean)                    {scores.error_of_mean:.3f}",
        f"  embedding spread     {spread:.3f} (0: collapsed)",
        "",
        f"Open {out / 'report.html'} in a browser, {out / 'run' / 'catalogue.fits'} in TOPCAT or astropy.",
    ]
    return "\n".join(lines)


def _check(checks: DemoChecks, scores: Scores, spread: float, text: str) -> None:
    problems = []
    if not scores.featured_auc >= checks.featured_auc:
        problems.append(f"featured ROC-AUC {scores.featured_auc:.3f} is below {checks.featured_auc}")
    if not scores.error < scores.error_of_mean:
        problems.append(f"vote fractions err by {scores.error:.3f}, the mean alone by {scores.error_of_mean:.3f}")
    if not spread >= checks.embedding_spread:
        problems.append(f"the embedding has collapsed (spread {spread:.4f})")
    if problems:
        Progress.say(text)
        raise DemoFailed("; ".join(problems))
