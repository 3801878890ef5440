"""From the cells of a study to its numbers: means, intervals, paired differences."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.evaluation.intervals import interval
from gzsurvey.recipes.study import StudyRecipe
from gzsurvey.study.cells import Cell, arms, cells, modes
from gzsurvey.study.intervals import METRICS, Draws, resampled
from gzsurvey.study.paths import StudyPaths
from gzsurvey.study.tasks import Task

COMPARED = "hybrid"
"""The arm whose lead over the others is asked for."""
BASELINE = "direct"
CHOSEN = "chosen"
"""Of linear and full, what validation galaxies prefer."""

Run = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Probabilities (N, K) of the test galaxies of one run, sorted by row, and their classes."""


def collect_results(recipe: StudyRecipe, tasks: dict[str, Task], out: Path) -> dict[str, Any]:
    """Summarise all cells.

    Returns
    -------
    dict
        ``tasks``: by task and number of labels, ``arms`` (by arm and mode: mean and interval of each
        metric) and ``differences`` (paired, of `comparisons`).
    """
    paths = StudyPaths(out)
    by_task = {task.name: [c for c in cells(recipe, tasks) if c.task == task.name] for task in recipe.tasks}
    return {
        "study": recipe.name,
        "difficulty": recipe.difficulty,
        "simulated": recipe.data is None,
        "runs": recipe.seeds,
        "pretraining_seeds": recipe.pretraining_seeds,
        "tasks": {
            task.name: {
                "classes": list(tasks[task.name].classes),
                "test_galaxies": len(tasks[task.name].test),
                "folds": task.folds,
                "labels": {
                    str(n): _at(recipe, [c for c in by_task[task.name] if c.labels == n], paths)
                    for n in sorted({c.labels for c in by_task[task.name]})
                },
            }
            for task in recipe.tasks
        },
    }


def _at(recipe: StudyRecipe, chosen: list[Cell], paths: StudyPaths) -> dict[str, Any]:
    """Summarise one number of labels."""
    measured: dict[str, dict[str, Any]] = {}
    for arm in arms(recipe):
        for mode in (*modes(recipe, arm), CHOSEN):
            runs = list(_runs([c for c in chosen if c.arm == arm], mode, paths))
            # The same galaxies and seeds are drawn for all arms: differences are paired.
            draws = Draws.of(len(runs[0][1]), len(runs) // recipe.seeds, recipe.seeds, recipe.resamples, recipe.seed)
            measured[f"{arm}/{mode}"] = resampled([p for p, _ in runs], [t for _, t in runs], draws)
    return {
        "arms": {name: _stated(values) for name, values in measured.items()},
        "differences": {
            f"{one} - {other}": _stated(_difference(measured[f"{one}/{CHOSEN}"], measured[f"{other}/{CHOSEN}"]))
            for one, other in comparisons(recipe)
        },
    }


def comparisons(recipe: StudyRecipe) -> Iterator[tuple[str, str]]:
    """Yield pairs of arms whose difference is asked for.

    Hybrid minus each arm; each arm minus direct; of variants: the hybrid minus another approach with the same
    changes, and another approach with changes minus the same without.
    """
    if COMPARED in recipe.arms:
        yield from ((COMPARED, arm) for arm in arms(recipe) if arm != COMPARED)
    if BASELINE in recipe.arms:
        yield from ((arm, BASELINE) for arm in arms(recipe) if arm not in (COMPARED, BASELINE))
    for name, variant in recipe.variants.items():
        if variant.approach == COMPARED:
            alike = (other for other, its in recipe.variants.items() if its.changes == variant.changes)
            yield from ((name, other) for other in alike if recipe.variants[other].approach != COMPARED)
        elif variant.approach in recipe.arms:
            yield name, variant.approach


def _difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {name: (one[name][0] - other[name][0], one[name][1] - other[name][1]) for name in METRICS}


def _stated(values: dict[str, Any]) -> dict[str, dict[str, float]]:
    said = {}
    for name, (mean, resamples) in values.items():
        low, high = interval(resamples)
        said[name] = {"mean": round(mean, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
    return said


def _runs(chosen: list[Cell], mode: str, paths: StudyPaths) -> Iterator[Run]:
    """Yield one run per seed of subset and pretraining, its folds put together."""
    keys = sorted({(c.pretraining, c.seed) for c in chosen})
    for pretraining, seed in keys:
        parts = [_predictions(c, mode, paths) for c in chosen if (c.pretraining, c.seed) == (pretraining, seed)]
        rows = np.concatenate([rows for rows, _, _ in parts])
        order = np.argsort(rows)
        yield (
            np.concatenate([probability for _, probability, _ in parts])[order],
            np.concatenate([target for _, _, target in parts])[order],
        )


def _predictions(
    cell: Cell, mode: str, paths: StudyPaths
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    path = paths.cell(cell.task, cell.name)
    if mode == CHOSEN:
        mode = json.loads(path.read_text())["chosen"]
    with np.load(path.with_suffix(".npz")) as file:
        return file["test"], file[mode].astype(np.float64), file["target"]
