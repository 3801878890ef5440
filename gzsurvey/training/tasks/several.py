"""All tasks of a finetuning together.

Letters: N labelled galaxies, n some of them, D embedding, W columns of an output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from gzsurvey.errors import TableError
from gzsurvey.model.network import Network
from gzsurvey.recipes.training import FinetuneTask
from gzsurvey.training.tasks.classes import ClassesTask
from gzsurvey.training.tasks.labels import LabelsTask
from gzsurvey.training.tasks.number import NumberTask
from gzsurvey.training.tasks.task import Floats, Rows, Task
from gzsurvey.training.tasks.votes import VotesTask

KINDS: dict[str, type[Task[Any]]] = {
    "classes": ClassesTask, "labels": LabelsTask, "number": NumberTask, "votes": VotesTask,
}  # fmt: skip
Tasks = tuple[Task[Any], ...]


def read_tasks(recipes: Sequence[FinetuneTask], frame: pd.DataFrame, where: str) -> Tasks:
    """Read the labels of all tasks from one table.

    Raises
    ------
    gzsurvey.errors.TableError
        A task's labels cannot be learnt, or a galaxy has no label of any; names the rows.
    """
    tasks = tuple(KINDS[recipe.kind].read(recipe, frame, where) for recipe in recipes)
    unknown = ~np.logical_or.reduce([task.given for task in tasks])
    if unknown.any():
        names = ", ".join(repr(task.name) for task in tasks)
        problem = f"the label of {names} is empty or NaN; remove these rows"
        raise TableError(where, problem, np.flatnonzero(unknown).tolist())
    for task in tasks:
        task.check()
    return tasks


def loss(network: Network, tasks: Tasks, embedding: Tensor, rows: Rows) -> Tensor:
    """Sum of the tasks' losses on n galaxies, each by its `loss_weight`; scalar.

    Parameters
    ----------
    network : Network
        Its heads are used.
    tasks : tuple of Task
        All.
    embedding : float, shape (n, D)
        Of `rows`.
    rows : int64, shape (n,)
        Which galaxies.
    """
    total = embedding.new_zeros(())
    for task in tasks:
        total = total + task.recipe.loss_weight * task.loss(network.heads[task.output], embedding, rows)
    return total


def measure(tasks: Tasks, predicted: Mapping[str, Floats], rows: Rows) -> dict[str, float]:
    """Measure predictions of all tasks.

    Parameters
    ----------
    tasks : tuple of Task
        All.
    predicted : mapping of str to float64, shape (n, W)
        By output, for `rows`.
    rows : int64, shape (n,)
        Which galaxies.

    Returns
    -------
    dict of str to float
        By metric; of several tasks by ``TASK_METRIC``, with ``loss``, the sum by `loss_weight`.
    """
    measured = {}
    for task in tasks:
        known = task.known[rows]
        measured[task.name] = task.metrics(predicted[task.output][known], rows[known])
    if len(tasks) == 1:
        return measured[tasks[0].name]
    total = sum(task.recipe.loss_weight * measured[task.name]["loss"] for task in tasks)
    named = {f"{name}_{metric}": value for name, values in measured.items() for metric, value in values.items()}
    return named | {"loss": float(total)}


def columns(tasks: Tasks, predicted: Mapping[str, Floats], rows: Rows) -> dict[str, NDArray[Any]]:
    """Labels and predictions of all tasks as columns of a table."""
    made: dict[str, NDArray[Any]] = {}
    for task in tasks:
        made |= task.columns(predicted[task.output], rows)
    return made


def strata(tasks: Tasks) -> Rows:
    """Groups from which validation galaxies are drawn alike: those of the first task that knows a galaxy, (N,)."""
    found = np.full(len(tasks[0].target), -1, dtype=np.int64)
    first = 0
    for task in tasks:
        mine = (found < 0) & task.given
        found[mine] = first + task.strata[mine]
        first += int(task.strata.max()) + 1
    return found


def lacking(tasks: Tasks, rows: Rows, least: int) -> str | None:
    """Say what the first task that cannot use `rows` has fewer of than `least`; None: all can."""
    for task in tasks:
        problem = task.lacking(rows, least)
        if problem is not None:
            return problem if len(tasks) == 1 else f"task {task.name!r}: {problem}"
    return None


def refuse_lacking(tasks: Tasks, rows: Rows, least: int, place: str) -> None:
    """Refuse `rows` that a task cannot use.

    Parameters
    ----------
    tasks : tuple of Task
        All.
    rows : int64, shape (n,)
        Which galaxies.
    least : int
        Needed of everything.
    place : str
        What `rows` are, for the error: ``with an image in stamps.zip``.

    Raises
    ------
    gzsurvey.errors.TableError
        Says what is lacking.
    """
    problem = lacking(tasks, rows, least)
    if problem is not None:
        needed = {1: "one is", 2: "two are"}[least]
        raise TableError(tasks[0].where, f"{problem} {place}, at least {needed} needed")
