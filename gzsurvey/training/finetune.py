"""Finetuning: a new task from a few labels, on a pretrained encoder or on none.

Letters: N labelled galaxies, K classes, D embedding, S pixels on a side.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gzsurvey.card import ClassesHead, Head
from gzsurvey.dataset.store import Store
from gzsurvey.errors import RecipeError, TableError, TrainingError
from gzsurvey.model.checkpoint import CheckpointInfo, find_checkpoint, load_network, save_checkpoint, sha256_of
from gzsurvey.model.encoder import architecture, create_encoder, is_encoder
from gzsurvey.model.network import ClassesLayer, Network
from gzsurvey.progress import Progress
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.training import FinetuneRecipe
from gzsurvey.sky.healpix import NO_CELL
from gzsurvey.training import describe, job
from gzsurvey.training.distributed import refuse_several_processes
from gzsurvey.training.labels import Labels, divide, read_labels
from gzsurvey.training.metrics import class_metrics
from gzsurvey.training.pictures import UNMATCHED, Pictures, collect, is_store
from gzsurvey.training.probe import fit_probe
from gzsurvey.training.tune import BEST_SO_FAR, Examples, Tuning, probabilities
from gzsurvey.training.views import embedded_views

logger = logging.getLogger(__name__)

FULL_FROM, LAST_BLOCKS_FROM = 5000, 1000
"""Labels from which `mode` ``auto`` lets all, or the last parts, of a pretrained encoder learn."""


@dataclass(frozen=True)
class Start:
    """What a finetuning begins with."""

    network: Network
    info: CheckpointInfo | None
    """None: no checkpoint of gzsurvey."""
    pretrained: bool
    """False: random weights."""


def finetune(
    recipe: FinetuneRecipe,
    checkpoint: str,
    out: Path,
    labels: Path | None = None,
    images: Path | None = None,
    device: str = "auto",
) -> Path:
    """Teach a pretrained model a new task.

    Repeating it on its own OUT goes on where it stopped, or returns at once.

    Parameters
    ----------
    recipe : FinetuneRecipe
        What is done.
    checkpoint : str
        The OUT of `pretrain` or `finetune`, one file in it, a timm name, ``hf_hub:OWNER/NAME``,
        a local folder in the hub's layout, or ``none``: direct training.
    out : Path
        OUT.
    labels : Path
        FITS, CSV, ECSV, VOTable or Parquet.
    images : Path
        A STORE, directory, zip, tar or parquet.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    gzsurvey.errors.TableError
        The labels cannot be used; names rows or ids.
    gzsurvey.errors.RecipeError
        CHECKPOINT names nothing that can be started from.
    gzsurvey.errors.OutputConflict
        OUT was made from other inputs.
    gzsurvey.errors.TrainingError
        The loss is not finite, or labels or images were not given.
    """
    refuse_several_processes("finetune")
    if labels is None or images is None:
        missing = "--labels" if labels is None else "--images"
        raise TrainingError(f"task {recipe.task!r} of kind {recipe.kind!r} needs {missing}")
    chosen = job.choose_device(device)
    description = {
        "recipe": recipe.model_dump(mode="json"),
        "checkpoint": _identity(checkpoint),
        "labels_sha256": hashlib.sha256(labels.read_bytes()).hexdigest(),
        "images": Store(images).info.content_sha256 if is_store(images) else images.name,
    }
    table = read_labels(labels, recipe.label_column, recipe.class_names)
    start = make_start(checkpoint, recipe)
    if job.claim(out, description):
        logger.info("%s is finished", out)
        return out
    (out / UNMATCHED).unlink(missing_ok=True)
    prepared = out / "images.npy"
    try:
        base = _base(start, recipe, images)
        pictures = collect(table, images, base.preparation, out)
        _Finetuning(recipe, start, base, pictures).run(out, chosen)
    finally:
        prepared.unlink(missing_ok=True)
    job.finish(out, description)
    (out / BEST_SO_FAR).unlink(missing_ok=True)
    return out


def make_start(checkpoint: str, recipe: FinetuneRecipe) -> Start:
    """Return the network that CHECKPOINT names.

    Raises
    ------
    gzsurvey.errors.RecipeError
        It names nothing that can be started from.
    """
    torch.manual_seed(recipe.seed)
    if checkpoint == "none":
        encoder = create_encoder(recipe.encoder.name, drop_path=recipe.encoder.drop_path)
        return Start(Network(encoder, ()), None, False)
    if is_encoder(checkpoint):
        return Start(Network(create_encoder(checkpoint, pretrained=True), ()), None, True)
    if Path(checkpoint).exists():
        return Start(*load_network(find_checkpoint(checkpoint)), True)
    raise RecipeError(checkpoint, "is no OUT of 'pretrain', no timm name, no hf_hub:OWNER/NAME, and not 'none'")


def _identity(checkpoint: str) -> str:
    """Return what makes a CHECKPOINT the same when OUT is used again: its weights, or its name."""
    if checkpoint != "none" and Path(checkpoint).exists() and not is_encoder(checkpoint):
        return hashlib.sha256(find_checkpoint(checkpoint).read_bytes()).hexdigest()
    return checkpoint


def _base(start: Start, recipe: FinetuneRecipe, images: Path) -> CheckpointInfo:
    """Return what is known of the network before this training."""
    if start.info is not None:
        return start.info
    store = Store(images) if is_store(images) else None
    return CheckpointInfo(
        encoder=architecture(start.network.encoder),
        embedding_size=start.network.embedding_size,
        preparation=Preparation(image_size=recipe.image_size or 64) if store is None else store.info.preparation,
        trained_by="finetune",
        **({} if store is None else describe.provenance(store)),
    )


class _Finetuning:
    """One finetuning at work."""

    def __init__(self, recipe: FinetuneRecipe, start: Start, base: CheckpointInfo, pictures: Pictures) -> None:
        self.start, self.base, self.pictures, self.labels = start, base, pictures, pictures.labels
        training, validation = split(pictures, recipe)
        self.recipe = recipe.model_copy(update={"mode": choose_mode(recipe, start, len(training))})
        weight = self.labels.weight * _class_weights(self.labels, training, recipe)
        self.training = Examples(pictures.images, training, self.labels.target, weight)
        self.validation = Examples(pictures.images, validation, self.labels.target, weight)
        self._say()

    def run(self, out: Path, device: torch.device) -> None:
        """Train, measure, save."""
        self.device = device
        network = job.on_device(self._with_head(), device)
        if self.recipe.mode == "linear":
            self._fit_head(network)
        else:
            tuning = Tuning(self.recipe, network, out, device)
            tuning.run(self.training, self.validation)
            network.load_state_dict(tuning.best)
        rows = self.validation.rows
        measured = class_metrics(
            probabilities(network, self.recipe.task, self.validation, device),
            self.labels.target[rows],
            self.validation.weight[rows],
        )
        metrics = {f"validation_{name}": value for name, value in measured.items()}
        save_checkpoint(out, "best", network, self._info(network, metrics))
        shown = ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
        Progress.say(f"finetune ({self.recipe.task}): {shown}, on {len(rows)} validation galaxies")

    def _say(self) -> None:
        counts = np.bincount(self.labels.target[self.training.rows], minlength=len(self.labels.classes))
        classes = ", ".join(f"{name} {count}" for name, count in zip(self.labels.classes, counts, strict=True))
        how = {
            "linear": "the encoder stays as it is, a linear classifier is fitted",
            "last_blocks": f"the encoder's last {self.recipe.blocks} parts and the classifier learn",
            "full": "encoder and classifier learn",
        }[self.recipe.mode]
        Progress.say(f"finetune ({self.recipe.task}): {classes}; mode {self.recipe.mode!r}: {how}")

    def _with_head(self) -> Network:
        """Return the network with the new head; heads that still hold are kept."""
        old = self.start.network
        network = Network(old.encoder, self._heads(), self.recipe.dropout)
        kept = {name: layer for name, layer in old.heads.items() if name in network.heads}
        for name, layer in kept.items():
            if name != f"{self.recipe.task}_probability":
                network.heads[name] = layer
        return network

    def _heads(self) -> tuple[Head, ...]:
        counts = np.bincount(
            self.labels.target[self.training.rows],
            weights=self.training.weight[self.training.rows],
            minlength=len(self.labels.classes),
        )
        balance = {name: float(n / counts.sum()) for name, n in zip(self.labels.classes, counts, strict=True)}
        new = ClassesHead(task=self.recipe.task, classes=self.labels.classes, balance=balance)
        info = self.start.info
        # Heads read an embedding: where the encoder learns, the old ones no longer hold.
        kept = info.heads if info is not None and self.recipe.mode == "linear" else ()
        return (*(head for head in kept if head.output != new.output), new)

    def _fit_head(self, network: Network) -> None:
        rows = self.training.rows
        views = embedded_views(network, self.pictures.images, rows, self.recipe, self.device)
        fitted = fit_probe(
            views, self.labels.target[rows], self.training.weight[rows], len(self.labels.classes), self.recipe.seed
        )
        head = network.heads[f"{self.recipe.task}_probability"]
        assert isinstance(head, ClassesLayer)
        with torch.no_grad():
            head.linear.weight.copy_(torch.from_numpy(fitted.weight))
            head.linear.bias.copy_(torch.from_numpy(fitted.bias))

    def _info(self, network: Network, metrics: dict[str, float]) -> CheckpointInfo:
        update = {
            "heads": self._heads(),
            "trained_by": "finetune",
            "approach": self.recipe.mode,
            "metrics": metrics,
            "recipe_sha256": sha256_of(self.recipe),
            "training_cells": self._cells(),
            "versions": describe.versions(),
        }
        if self.recipe.mode != "linear" or not self.base.thumbnails:
            update |= self._described(network)
        return self.base.model_copy(update=update)

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
            "thumbnails": describe.thumbnails(images[shown]),
        }

    def _in_parts(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        step = describe.AT_A_TIME
        return (self.pictures.images[rows[start : start + step]] for start in range(0, len(rows), step))

    def _cells(self) -> dict[str, tuple[int, ...]] | None:
        """Return the cells of all galaxies that trained the model, if all are known.

        Labels without positions leave the cells of a frozen encoder as they were: embedding and
        votes never saw them.
        """
        rows = self.training.rows
        labelled = describe.cells_of(self.labels.ra[rows], self.labels.dec[rows])
        nothing: dict[str, tuple[int, ...]] = {"voted": (), "seen": ()}
        before = self.base.training_cells if self.start.pretrained else nothing
        if before is None or (self.recipe.mode == "linear" and (labelled == NO_CELL).any()):
            return before
        voted = np.union1d(np.array(before["voted"], dtype=np.int64), labelled)
        return describe.known_cells({"voted": voted, "seen": np.setdiff1d(np.array(before["seen"], np.int64), voted)})


def split(pictures: Pictures, recipe: FinetuneRecipe) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide the labelled galaxies.

    Returns
    -------
    training, validation : int64
        Rows. A store's own split is kept where its training and validation galaxies show every
        class; its test galaxies are never used. Else classes are divided by the recipe.
    """
    target, number = pictures.labels.target, len(pictures.labels.classes)
    usable = np.arange(len(target))
    if pictures.published is not None:
        parts = tuple(np.flatnonzero(pictures.published == name) for name in ("train", "validation"))
        if all(len(np.unique(target[part])) == number for part in parts):
            return parts[0], parts[1]
        usable = np.flatnonzero(pictures.published != "test")
        _refuse_rare(pictures, usable)
    held_out = divide(target[usable], recipe.validation, recipe.seed)
    return usable[~held_out], usable[held_out]


def _refuse_rare(pictures: Pictures, usable: NDArray[np.int64]) -> None:
    labels = pictures.labels
    counts = np.bincount(labels.target[usable], minlength=len(labels.classes))
    if counts.min() < 2:
        name = labels.classes[int(counts.argmin())]
        raise TableError(labels.where, f"class {name!r} has {counts.min()} labels outside the store's test split, "
                         "at least two are needed")  # fmt: skip


def choose_mode(recipe: FinetuneRecipe, start: Start, labels: int) -> str:
    """Return how much of the network learns, by the number of training labels."""
    if recipe.mode != "auto":
        return recipe.mode
    if not start.pretrained or labels >= FULL_FROM:
        return "full"
    return "linear" if labels < LAST_BLOCKS_FROM else "last_blocks"


def _class_weights(labels: Labels, rows: NDArray[np.int64], recipe: FinetuneRecipe) -> NDArray[np.float64]:
    """Weight of each label by its class, shape (N,): mean 1 over the training galaxies."""
    if recipe.class_weights == "none":
        return np.ones(len(labels))
    counts = np.bincount(labels.target[rows], minlength=len(labels.classes))
    by_class: NDArray[np.float64] = len(rows) / (len(counts) * np.maximum(counts, 1))
    return by_class[labels.target]
