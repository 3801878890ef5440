"""One finetuning at work: heads are fitted or tuned, measured, calibrated, saved.

Letters: N labelled galaxies, n some of them, S pixels on a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gzsurvey.card import Calibration, Head
from gzsurvey.model.checkpoint import CheckpointInfo, save_checkpoint, sha256_of
from gzsurvey.model.network import Network
from gzsurvey.progress import Progress
from gzsurvey.recipes.training import FinetuneRecipe
from gzsurvey.sky.healpix import NO_CELL
from gzsurvey.training import describe, job
from gzsurvey.training.parts import Parts
from gzsurvey.training.pictures import Pictures
from gzsurvey.training.tasks.several import measure, refuse_lacking
from gzsurvey.training.tune import Examples, Tuning, predict
from gzsurvey.training.views import embedded_views

FULL_FROM, LAST_BLOCKS_FROM = 5000, 1000
"""Labels from which `mode` ``auto`` lets all, or the last parts, of a pretrained encoder learn."""


@dataclass(frozen=True)
class Start:
    """What a finetuning begins with."""

    network: Network
    base: CheckpointInfo
    """What is known of it."""
    pretrained: bool
    """False: random weights."""


class Finetuning:
    """One finetuning.

    Parameters
    ----------
    recipe : FinetuneRecipe
        How; its `mode` is decided here.
    start : Start
        Its network is what learns.
    pictures : Pictures
        All labelled galaxies.
    parts : Parts
        Of them.

    Raises
    ------
    gzsurvey.errors.TableError
        A part lacks labels of a class.
    """

    def __init__(self, recipe: FinetuneRecipe, start: Start, pictures: Pictures, parts: Parts) -> None:
        self.start, self.pictures, self.parts = start, pictures, parts
        self.mode_reason, mode = choose_mode(recipe, start, len(parts.training))
        self.recipe = recipe.model_copy(update={"mode": mode})
        labels = pictures.labels
        refuse_lacking(labels.tasks, parts.training, 1, "to learn from")
        self.tasks = tuple(task.balanced(task.labelled(parts.training)) for task in labels.tasks)
        for task in self.tasks:
            if not len(task.labelled(parts.validation)):
                refuse_lacking((task,), parts.validation, 1, "to check on")
        self.training, self.validation = (
            Examples(pictures.images, rows, self.tasks) for rows in (parts.training, parts.validation)
        )

    def run(self, out: Path, device: torch.device) -> None:
        """Train, measure, calibrate, save."""
        self.device = device
        self._say()
        network = job.on_device(self._with_heads(), device)
        if self.recipe.mode == "linear":
            self._fit_heads(network)
        else:
            tuning = Tuning(self.recipe, network, out, device)
            tuning.run(self.training, self.validation)
            network.load_state_dict(tuning.best)
        predicted = predict(network, self.validation, device)
        measured = measure(self.tasks, predicted, self.validation.rows)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
        Progress.say(f"finetune ({self.recipe.title}): {shown}, on {len(self.validation.rows)} validation galaxies")
        save_checkpoint(out, "best", network, self._info(network, measured, self._calibration(predicted)))

    def _say(self) -> None:
        recipe, n = self.recipe, len(self.training.rows)
        Progress.say(f"finetune ({recipe.title}): {n} galaxies to learn from, {len(self.validation.rows)} to check on; "
                     f"{self.parts.how}")  # fmt: skip
        for task in self.tasks:
            Progress.say(f"finetune ({task.name}): {task.summary(self.training.rows)} to learn from; "
                         f"{task.summary(self.validation.rows)} to check on")  # fmt: skip
        how = {
            "linear": "the encoder stays as it is, a linear head is fitted",
            "last_blocks": f"the encoder's last {recipe.blocks} parts and the head learn",
            "full": "encoder and head learn",
        }[recipe.mode]
        Progress.say(f"finetune ({recipe.title}): mode {recipe.mode!r} ({self.mode_reason}): {how}")
        if recipe.mode != "linear":
            Progress.say(f"finetune ({recipe.title}): at most {recipe.epochs} epochs, batches of "
                         f"{min(recipe.batch_size, n)}; stopped by {recipe.patience} without gain")  # fmt: skip

    def _with_heads(self) -> Network:
        """Return the network with the new heads; heads that still hold are kept."""
        old = self.start.network
        network = Network(old.encoder, self._heads(), self.recipe.dropout)
        for name in network.heads.keys() - {task.output for task in self.tasks}:
            network.heads[name] = old.heads[name]
        for task in self.tasks:
            task.start(network.heads[task.output], self.training.rows)
        return network

    def _heads(self) -> tuple[Head, ...]:
        new = {task.output: task.head(task.labelled(self.training.rows)) for task in self.tasks}
        # Heads read an embedding: where the encoder learns, the old ones no longer hold.
        old = self.start.base.heads if self.recipe.mode == "linear" else ()
        return (*(head for head in old if head.output not in new), *new.values())

    def _fit_heads(self, network: Network) -> None:
        rows = self.training.rows
        views = embedded_views(network, self.pictures.images, rows, self.recipe, self.device)
        for task in self.tasks:
            known = task.known[rows]
            task.fit(network.heads[task.output], views[:, known], rows[known], self.recipe.seed)

    def _calibration(self, predicted: dict[str, NDArray[np.float64]]) -> dict[str, Calibration]:
        """Fit calibrations of the new heads; those of kept heads still hold."""
        rows = self.validation.rows
        kept = {head.output for head in self._heads()} - {task.output for task in self.tasks}
        fitted = {name: value for name, value in self.start.base.calibration.items() if name in kept}
        for task in self.tasks:
            known = task.known[rows]
            calibration = task.calibrate(predicted[task.output][known], rows[known])
            if calibration is None:
                Progress.say(f"finetune ({task.name}): not calibrated, {known.sum()} validation galaxies are too few")
                continue
            Progress.say(f"finetune ({task.name}): calibrated on {calibration.galaxies} validation galaxies, loss "
                         f"{calibration.loss_before:.3f} before, {calibration.loss_after:.3f} after")  # fmt: skip
            fitted[task.output] = calibration
        return fitted

    def _info(
        self, network: Network, measured: dict[str, float], calibration: dict[str, Calibration]
    ) -> CheckpointInfo:
        heads, base = self._heads(), self.start.base
        update = {
            "heads": heads,
            "calibration": calibration,
            "trained_by": "finetune",
            "approach": self.recipe.mode,
            "metrics": {f"validation_{name}": value for name, value in measured.items()},
            "recipe_sha256": sha256_of(self.recipe),
            "training_cells": self._cells(),
            "versions": describe.versions(),
        }
        if all(head.kind != "votes" for head in heads):
            update["most_voted_campaign"] = None
        for task in self.tasks:
            update |= task.described
        if self.recipe.mode != "linear" or not base.thumbnails:
            update |= self._described(network)
        return base.model_copy(update=update)

    def _described(self, network: Network) -> dict[str, Any]:
        """Describe the labelled galaxies, where the embedding is no longer that of the pretraining."""
        images, seed = self.pictures.images, self.recipe.seed
        training, held_out = (
            describe.some(part.rows, describe.REFERENCE_GALAXIES, seed) for part in (self.training, self.validation)
        )
        shown = describe.some(self.training.rows, describe.THUMBNAILS, seed)
        return {
            "embedding_reference": describe.embedding_reference(
                describe.embed(network, self._in_parts(training), self.device),
                describe.embed(network, self._in_parts(held_out), self.device),
            ),
            "thumbnails": describe.thumbnails(images[shown], self.start.base.preparation),
        }

    def _in_parts(self, rows: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        step = describe.AT_A_TIME
        return (self.pictures.images[rows[start : start + step]] for start in range(0, len(rows), step))

    def _cells(self) -> dict[str, tuple[int, ...]] | None:
        """Return the cells of all galaxies that trained the model, if all are known.

        Labels without positions leave the cells of a frozen encoder as they were: embedding and
        kept heads never saw them.
        """
        rows, labels = self.training.rows, self.pictures.labels
        labelled = describe.cells_of(labels.ra[rows], labels.dec[rows])
        nothing: dict[str, tuple[int, ...]] = {"voted": (), "seen": ()}
        before = self.start.base.training_cells if self.start.pretrained else nothing
        if before is None or (self.recipe.mode == "linear" and (labelled == NO_CELL).any()):
            return before
        voted = np.union1d(np.array(before["voted"], dtype=np.int64), labelled)
        return describe.known_cells({"voted": voted, "seen": np.setdiff1d(np.array(before["seen"], np.int64), voted)})


def choose_mode(recipe: FinetuneRecipe, start: Start, labels: int) -> tuple[str, str]:
    """Return why, and how much of the network learns, by the number of training labels."""
    if recipe.mode != "auto":
        return "as asked", recipe.mode
    if not start.pretrained:
        return "nothing is pretrained", "full"
    if labels >= FULL_FROM:
        return f"{labels:,} labels, from {FULL_FROM:,} on all may learn", "full"
    if labels >= LAST_BLOCKS_FROM:
        return f"{labels:,} labels, from {LAST_BLOCKS_FROM:,} on the last parts may learn", "last_blocks"
    return f"{labels:,} labels, fewer than {LAST_BLOCKS_FROM:,}", "linear"
