"""The same finetuning several times: folds of a cross-validation, members of an ensemble.

::

    OUT/
    ├── folds/0 ... K-1/   complete finetunings, each checked on another part of the labels
    ├── out_of_fold.csv    every label with the prediction of the one network that did not learn from it
    ├── folds.json         metrics of each fold, and of all these predictions together
    ├── seeds/1 ... n/     complete finetunings that differ in their seed
    └── seeds.json         metrics of each

What is finished is not done again. Predictions are without the calibration, which was fitted on the
galaxies in question.

Letters: N labelled galaxies, W columns of an output.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from gzsurvey.model.checkpoint import find_checkpoint, load_network, read_info, write_aside
from gzsurvey.progress import Progress
from gzsurvey.recipes.training import FinetuneRecipe
from gzsurvey.training import job
from gzsurvey.training.parts import Parts, folds
from gzsurvey.training.pictures import Pictures
from gzsurvey.training.tasks.several import columns, measure
from gzsurvey.training.tune import Examples, predict

FOLDS, SEEDS = "folds", "seeds"
OUT_OF_FOLD = "out_of_fold.csv"
Learn = Callable[[Path, FinetuneRecipe, Parts], None]
"""Finetunes in a directory, unless that is finished."""


def cross_validate(recipe: FinetuneRecipe, pictures: Pictures, out: Path, learn: Learn, device: torch.device) -> None:
    """Finetune once for each fold, and predict every galaxy by the network that did not learn from it.

    Parameters
    ----------
    recipe : FinetuneRecipe
        Its `folds` says how many; None: nothing is done.
    pictures : Pictures
        All labelled galaxies.
    out : Path
        OUT.
    learn : callable
        Does one finetuning.
    device : torch.device
        Where predictions are computed.
    """
    if recipe.folds is None:
        return
    parts = list(folds(pictures, recipe, recipe.folds))
    places = [out / FOLDS / str(fold) for fold in range(recipe.folds)]
    for place, part in zip(places, parts, strict=True):
        Progress.say(f"fold {place.name} of {recipe.folds}")
        learn(place, recipe, part)
    rows = np.sort(np.concatenate([part.validation for part in parts]))
    fold_of = np.zeros(len(pictures.labels), dtype=np.int64)
    predicted: dict[str, NDArray[np.float64]] = {}
    for fold, (place, part) in enumerate(zip(places, parts, strict=True)):
        fold_of[part.validation] = fold
        for name, values in _uncalibrated(place, pictures, part.validation, device).items():
            known = predicted.setdefault(name, np.full((len(pictures.labels), values.shape[1]), np.nan))
            known[part.validation] = values
    tasks = tuple(task.balanced(task.labelled(rows)) for task in pictures.labels.tasks)
    of_all = {name: values[rows] for name, values in predicted.items()}
    together = measure(tasks, of_all, rows)
    table = pictures.labels.take(rows).described() | {"fold": fold_of[rows]} | columns(tasks, of_all, rows)
    write_aside(out / OUT_OF_FOLD, pd.DataFrame(table).to_csv(index=False).encode())
    _tell(out / f"{FOLDS}.json", f"{recipe.folds} folds", places, {"together": together})


def train_ensemble(recipe: FinetuneRecipe, parts: Parts, out: Path, learn: Learn) -> None:
    """Finetune with further seeds, all on the same division of the labels.

    Parameters
    ----------
    recipe : FinetuneRecipe
        Its `seeds` says how many; None: nothing is done.
    parts : Parts
        Of the labelled galaxies.
    out : Path
        OUT.
    learn : callable
        Does one finetuning.
    """
    if recipe.seeds is None:
        return
    places = [out / SEEDS / str(member) for member in range(1, recipe.seeds + 1)]
    for member, place in enumerate(places, start=1):
        Progress.say(f"member {member} of {recipe.seeds}")
        learn(place, recipe.model_copy(update={"seed": recipe.seed + member}), parts)
    _tell(out / f"{SEEDS}.json", f"{recipe.seeds} seeds", places, {})


def _uncalibrated(
    place: Path, pictures: Pictures, rows: NDArray[np.int64], device: torch.device
) -> dict[str, NDArray[np.float64]]:
    network, _ = load_network(find_checkpoint(str(place)))
    network.calibrators.clear()
    return predict(job.on_device(network, device), Examples(pictures.images, rows, pictures.labels.tasks), device)


def _tell(path: Path, title: str, places: Sequence[Path], more: dict[str, Any]) -> None:
    """Write and say the mean and the spread (standard deviation) of every metric."""
    measured = [read_info(find_checkpoint(str(place))).metrics for place in places]
    names = [name for name in measured[0] if all(name in values for values in measured)]
    of_each = {name: [values[name] for values in measured] for name in names}
    told = {
        name: {"mean": float(np.mean(values)), "spread": float(np.std(values, ddof=1)), "of_each": values}
        for name, values in of_each.items()
    }
    write_aside(path, json.dumps({"metrics": told} | more, indent=1).encode())
    shown = ", ".join(
        f"{name.removeprefix('validation_')} {value['mean']:.3f} ± {value['spread']:.3f}"
        for name, value in told.items()
    )
    Progress.say(f"{title}: {shown}")
