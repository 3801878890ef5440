"""What the worker processes of a study do: pretrain an arm, embed a task, fill a cell.

Each function takes picklable arguments, writes its result aside and renames it, and does nothing
where the result exists. Letters: N galaxies, V views, D embedding, K classes.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from threadpoolctl import threadpool_limits

from gzsurvey.model.checkpoint import find_checkpoint, load_network, write_aside
from gzsurvey.model.encoder import create_encoder
from gzsurvey.model.network import Network
from gzsurvey.progress import Progress
from gzsurvey.recipes.study import StudyRecipe
from gzsurvey.recipes.training import FinetuneRecipe
from gzsurvey.study.cells import Cell, divide, modes
from gzsurvey.study.paths import StudyPaths
from gzsurvey.study.tasks import Task, load_task
from gzsurvey.training import job, pretrain, split
from gzsurvey.training.metrics import class_metrics
from gzsurvey.training.probe import fit_probe
from gzsurvey.training.tasks import ClassesTask
from gzsurvey.training.tune import Examples, Tuning, predict
from gzsurvey.training.views import embedded_views

TASK = "study"
"""Name of the head in the networks of a study; they are not kept."""
FLOOR_PX = 32
FLOOR_COMPONENTS = 50

Rows = NDArray[np.int64]


def begin(threads: int) -> None:
    """Leave the other cores to the other workers, and what is shown to the parent."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    Progress.quiet = True


def pretrain_arm(recipe: StudyRecipe, out: Path, arm: str, pretraining: int, device: str) -> None:
    """Pretrain one arm; a pretraining that was stopped goes on."""
    paths = StudyPaths(out)
    own = recipe.pretraining(arm)
    own = own.model_copy(update={"seed": own.seed + pretraining})
    pretrain(own, paths.store, paths.pretrained(arm, pretraining), device)


def embed_task(recipe: StudyRecipe, out: Path, task_name: str, encoder: str, device: str) -> None:
    """Embed all galaxies of a task, and augmented copies, by one frozen encoder: float32, shape (V, N, D)."""
    paths = StudyPaths(out)
    path = paths.embeddings(task_name, encoder)
    if path.is_file():
        return
    task, chosen = load_task(task_name, paths.out / "tasks"), job.choose_device(device)
    arm, _, number = encoder.rpartition("-")
    network = job.on_device(_network(recipe, paths, arm, int(number[1:])), chosen)
    rows = np.arange(len(task.target))
    views = [
        embedded_views(network, task.images, part, recipe.linear, chosen)
        for part in np.array_split(rows, max(1, len(rows) * (1 + recipe.linear.views) // 20_000))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial.npy")
    np.save(aside, np.concatenate(views, axis=1))
    aside.replace(path)


def fill_cell(recipe: StudyRecipe, out: Path, cell: Cell, device: str) -> None:
    """Learn and test one cell in each of its arm's modes."""
    paths = StudyPaths(out)
    path = paths.cell(cell.task, cell.name)
    if path.is_file():
        return
    started = time.monotonic()
    work = _Work(recipe, paths, cell, device)
    predicted = {mode: work.predict(mode) for mode in modes(recipe, cell.arm)}
    measured = {mode: work.measure(probability) for mode, probability in predicted.items()}
    chosen = min(measured, key=lambda mode: measured[mode]["validation"]["loss"])
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {mode: values[work.test].astype(np.float32) for mode, values in predicted.items()}
    aside = path.with_suffix(".partial.npz")
    np.savez_compressed(aside, test=work.test, target=work.task.target[work.test], **arrays)
    aside.replace(path.with_suffix(".npz"))
    said = {"cell": asdict(cell), "modes": measured, "chosen": chosen, "seconds": time.monotonic() - started}
    write_aside(path, json.dumps(said, indent=1).encode())


class _Work:
    """One cell at work."""

    def __init__(self, recipe: StudyRecipe, paths: StudyPaths, cell: Cell, device: str) -> None:
        self.recipe, self.paths, self.cell = recipe, paths, cell
        self.device = job.choose_device(device)
        self.task: Task = load_task(cell.task, paths.out / "tasks")
        task_recipe = next(task for task in recipe.tasks if task.name == cell.task)
        pool, self.test = divide(self.task, task_recipe, cell.seed, cell.fold)
        subset = np.sort(pool[: cell.labels])
        held_out = split.divide(self.task.target[subset], recipe.validation, cell.seed)
        self.training, self.validation = subset[~held_out], subset[held_out]

    def predict(self, mode: str) -> NDArray[np.float64]:
        """Probabilities (N, K) of all galaxies of the task."""
        ways: dict[str, Callable[[], NDArray[np.float64]]] = {
            "pixels": self._pixels,
            "linear": self._linear,
            "full": self._full,
        }
        return ways[mode]()

    def measure(self, probability: NDArray[np.float64]) -> dict[str, dict[str, float]]:
        """Metrics on validation and on test galaxies."""
        target = self.task.target
        return {
            part: class_metrics(probability[rows], target[rows])
            for part, rows in (("validation", self.validation), ("test", self.test))
        }

    def _pixels(self) -> NDArray[np.float64]:
        """Ridge regression on principal components of the shrunken pictures: the floor."""
        from scipy.special import softmax
        from sklearn.decomposition import PCA
        from sklearn.linear_model import RidgeClassifierCV

        small = np.stack([_shrunk(image) for image in self.task.images])
        components = PCA(min(FLOOR_COMPONENTS, len(self.training) - 1), random_state=self.cell.seed)
        learnt = components.fit_transform(small[self.training])
        ridge = RidgeClassifierCV(np.logspace(-2, 4, 13)).fit(learnt, self.task.target[self.training])
        decided = ridge.decision_function(components.transform(small))
        scores = np.full((len(small), len(self.task.classes)), -30.0)
        scores[:, ridge.classes_] = np.column_stack([-decided, decided]) if decided.ndim == 1 else decided
        return np.asarray(softmax(scores, axis=1), dtype=np.float64)

    def _linear(self) -> NDArray[np.float64]:
        views = np.load(self.paths.embeddings(self.cell.task, self.cell.encoder), mmap_mode="r")
        rows, target = self.training, self.task.target[self.training]
        fitted = fit_probe(views[:, rows], target, np.ones(len(rows)), len(self.task.classes), self.cell.seed)
        return fitted.probability(views[0])

    def _full(self) -> NDArray[np.float64]:
        cell = self.cell
        recipe = self.recipe.direct if cell.arm == "direct" else self.recipe.full
        recipe = recipe.model_copy(update={"task": TASK, "mode": "full", "seed": cell.seed})
        head = self._classes(recipe).head(np.arange(len(self.task.target)))
        start = _network(self.recipe, self.paths, cell.arm, cell.seed if cell.arm == "direct" else cell.pretraining)
        torch.manual_seed(cell.seed)
        network = Network(start.encoder, (head,), recipe.dropout)
        folder = self.paths.cell(cell.task, f"{cell.name}.work").with_suffix("")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            return self._tuned(recipe, network, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _tuned(self, recipe: FinetuneRecipe, network: Network, folder: Path) -> NDArray[np.float64]:
        tasks = (self._classes(recipe),)
        training, validation, tested = (
            Examples(self.task.images, rows, tasks) for rows in (self.training, self.validation, self.test)
        )
        tuning = Tuning(recipe, network, folder, self.device)
        tuning.run(training, validation)
        network.load_state_dict(tuning.best)
        probability = np.full((len(self.task.target), len(self.task.classes)), np.nan)
        for part in (validation, tested):
            probability[part.rows] = predict(network, part, self.device)[tasks[0].output]
        return probability

    def _classes(self, recipe: FinetuneRecipe) -> ClassesTask:
        target = self.task.target
        return ClassesTask(recipe, self.task.name, target, np.ones(len(target)), self.task.classes)


def _network(recipe: StudyRecipe, paths: StudyPaths, arm: str, seed: int) -> Network:
    """Return an arm's network: pretrained, or of random weights drawn by `seed`."""
    if arm in ("random", "direct"):
        torch.manual_seed(1000 + seed)
        encoder = recipe.pretrain.encoder
        return Network(create_encoder(encoder.name, drop_path=encoder.drop_path), ())
    return load_network(find_checkpoint(str(paths.pretrained(arm, seed))))[0]


def _shrunk(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Average a picture (S, S, 3) down to 32 pixels a side; as one row."""
    small = Image.fromarray(image).resize((FLOOR_PX, FLOOR_PX), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel() / 255.0
