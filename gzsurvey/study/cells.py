"""The cells of a study: one arm, one number of labels, one seed, and on what it is tested.

Letters: N galaxies of a task, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gzsurvey.recipes.study import StudyRecipe, TaskRecipe
from gzsurvey.study.tasks import Task
from gzsurvey.training.split import deal, stratified_order

PRETRAINED = ("hybrid", "contrastive", "supervised")
"""The slowest first, so that side by side they end soonest."""
SCRATCH_MODES = {"pixels": ("pixels",), "random": ("linear",), "direct": ("full",)}
"""How an arm without pretraining learns a task."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number in the table, before means are taken."""

    task: str
    arm: str
    labels: int
    """To learn and to validate with."""
    seed: int
    """Of label subset, division and finetuning."""
    fold: int | None
    pretraining: int
    """Seed of the pretraining; 0 where there is none."""

    @property
    def name(self) -> str:
        """File name without ending."""
        fold = "" if self.fold is None else f"-f{self.fold}"
        return f"{self.arm}-p{self.pretraining}-n{self.labels}-s{self.seed}{fold}"

    @property
    def encoder(self) -> str:
        """Name of the frozen encoder whose embeddings it reads; random weights are drawn anew by each seed."""
        return f"random-s{self.seed}" if self.arm == "random" else f"{self.arm}-p{self.pretraining}"


def arms(recipe: StudyRecipe) -> tuple[str, ...]:
    """Return all arms, variants last."""
    return (*recipe.arms, *recipe.variants)


def pretrained_arms(recipe: StudyRecipe) -> tuple[str, ...]:
    """Return the arms that are pretrained, in the order of their training."""
    return (*(arm for arm in PRETRAINED if arm in recipe.arms), *recipe.variants)


def modes(recipe: StudyRecipe, arm: str) -> tuple[str, ...]:
    """Return how an arm may learn a task; with several, validation galaxies choose."""
    return SCRATCH_MODES.get(arm, recipe.modes)


def cells(recipe: StudyRecipe, tasks: dict[str, Task]) -> Iterator[Cell]:
    """Yield all cells, the small ones first."""
    for task in recipe.tasks:
        for labels in label_counts(task, tasks[task.name], recipe.seeds):
            for seed in range(recipe.seeds):
                for fold in (None,) if task.folds is None else range(task.folds):
                    for arm in arms(recipe):
                        for pretraining in range(1 if arm in SCRATCH_MODES else recipe.pretraining_seeds):
                            yield Cell(task.name, arm, labels, seed, fold, pretraining)


def label_counts(recipe: TaskRecipe, task: Task, seeds: int) -> tuple[int, ...]:
    """Return the numbers of labels; ``all`` is what every seed and fold has."""
    folds = (None,) if recipe.folds is None else range(recipe.folds)
    every = min(len(divide(task, recipe, seed, fold)[0]) for seed in range(seeds) for fold in folds)
    return tuple(sorted({every if count == "all" else min(count, every) for count in recipe.counts}))


def divide(task: Task, recipe: TaskRecipe, seed: int, fold: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide a task's galaxies.

    Returns
    -------
    pool : int64
        Rows to learn from, in an order of which every beginning is stratified: subsets of growing size are nested.
    test : int64
        Rows to be tested on.
    """
    if fold is None:
        pool, test = task.pool, task.test
    else:
        assert recipe.folds is not None
        parts = deal(task.target, recipe.folds, seed)
        pool, test = np.flatnonzero(parts != fold), np.flatnonzero(parts == fold)
    return pool[stratified_order(task.target[pool], [seed, 0 if fold is None else fold + 1])], test
