"""The same finetuning several times: folds of a cross-validation, members of an ensemble.

::

    OUT/
    ├── folds/0 ... K-1/   complete finetunings, each tested on another part of the labels
    ├── out_of_fold.csv    every label with the prediction of the one network that knows nothing of it
    ├── folds.json         metrics of each fold, and of all these predictions together
    ├── seeds/1 ... n/     complete finetunings that differ in their seed
    └── seeds.json         metrics of each

What is finished is not done again. Predictions are those of the finished networks, calibration included:
no label that a network is tested on has trained, stopped or calibrated it.

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
    dealt = list(folds(pictures, recipe, recipe.folds))
    places = [fold_place(out, fold) for fold in range(recipe.folds)]
    for place, fold in zip(places, dealt, strict=True):
        Progress.say(f"fold {place.name} of {recipe.folds}")
        learn(place, recipe, fold.parts)
    rows = np.sort(np.concatenate([fold.tested for fold in dealt]))
    tasks = tuple(task.balanced(task.labelled(rows)) for task in pictures.labels.tasks)
    fold_of = np.zeros(len(pictures.labels), dtype=np.int64)
    predicted: dict[str, NDArray[np.float64]] = {}
    measured = []
    for number, (place, fold) in enumerate(zip(places, dealt, strict=True)):
        fold_of[fold.tested] = number
        network, _ = load_network(find_checkpoint(str(place)))
        tested = Examples(pictures.images, fold.tested, pictures.labels.tasks)
        found = predict(job.on_device(network, device), tested, device)
        measured.append(measure(tasks, found, fold.tested))
        for name, values in found.items():
            known = predicted.setdefault(name, np.full((len(pictures.labels), values.shape[1]), np.nan))
            known[fold.tested] = values
    of_all = {name: values[rows] for name, values in predicted.items()}
    together = measure(tasks, of_all, rows)
    table = pictures.labels.take(rows).described() | {"fold": fold_of[rows]} | columns(tasks, of_all, rows)
    write_aside(out / OUT_OF_FOLD, pd.DataFrame(table).to_csv(index=False).encode())
    _tell(out / f"{FOLDS}.json", f"{recipe.folds} folds", measured, {"together": together})


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
    measured = [read_info(find_checkpoint(str(place))).metrics for place in places]
    _tell(out / f"{SEEDS}.json", f"{recipe.seeds} seeds", measured, {})


def fold_place(out: Path, fold: int) -> Path:
    """Return where the finetuning that is tested on `fold` lies."""
    return out / FOLDS / str(fold)


def _tell(path: Path, title: str, measured: Sequence[dict[str, float]], more: dict[str, Any]) -> None:
    """Write and say the mean and the spread (standard deviation) of every metric."""
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
