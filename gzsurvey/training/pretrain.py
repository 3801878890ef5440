"""Pretraining: hybrid, supervised or contrastive, from one store, as one program.

Letters: N galaxies, A answers.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gzsurvey.card import VotesHead
from gzsurvey.dataset.store import Store
from gzsurvey.errors import TrainingError
from gzsurvey.model.byol import tau_at
from gzsurvey.model.checkpoint import CheckpointInfo, load_network, save_checkpoint, sha256_of
from gzsurvey.model.dirichlet import answer_table, dirichlet_multinomial_nll
from gzsurvey.model.encoder import architecture, create_encoder
from gzsurvey.model.hybrid import ContrastiveModel, HybridModel, Losses, PretrainModel, SupervisedModel
from gzsurvey.model.network import Network
from gzsurvey.progress import Progress
from gzsurvey.recipes.training import PretrainRecipe
from gzsurvey.training import describe, job
from gzsurvey.training.allocator import freed_memory_kept
from gzsurvey.training.augment import augment, draw
from gzsurvey.training.curves import draw_curves
from gzsurvey.training.data import Batch, Order, as_input, batches, labelled_rows, seed_of
from gzsurvey.training.state import count_step, load_state, mean_values, save_state

logger = logging.getLogger(__name__)

MEASURED = ("contrastive", "supervised", "spread", "dimensions")


@dataclass(frozen=True)
class Galaxies:
    """Which rows of the store do what."""

    training: NDArray[np.int64]
    voted: NDArray[np.int64]
    """Those of `training` with any vote."""
    validation: NDArray[np.int64]
    """With any vote."""


def pretrain(recipe: PretrainRecipe, store: Path, out: Path, device: str = "auto") -> Path:
    """Pretrain a galaxy model on images and votes.

    Repeating it on its own OUT goes on where it stopped, or returns at once.

    Parameters
    ----------
    recipe : PretrainRecipe
        What is done.
    store : Path
        The STORE of `gzsurvey.dataset.build`.
    out : Path
        OUT: checkpoints, ``metrics.jsonl``, ``curves.png``.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    gzsurvey.errors.OutputConflict
        OUT was made by another recipe or from another store.
    gzsurvey.errors.TrainingError
        There are no votes to learn from, the loss is not finite, or the embedding collapsed.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once everything is saved.
    """
    opened, chosen = Store(store), job.choose_device(device)
    description = {"recipe": recipe.model_dump(mode="json"), "dataset_sha256": opened.info.content_sha256}
    if job.claim(out, description):
        logger.info("%s is finished", out)
        return out
    Pretraining(recipe, opened, out, chosen).run()
    job.finish(out, description)
    return out


class Pretraining:
    """One pretraining at work."""

    def __init__(self, recipe: PretrainRecipe, store: Store, out: Path, device: torch.device) -> None:
        self.recipe, self.store, self.out, self.device = recipe, store, out, device
        self.galaxies = choose_galaxies(store, recipe)
        self.order = Order(self.galaxies.training, recipe.batch_size, recipe.seed)
        steps = recipe.epochs * self.order.steps_per_epoch
        self.steps = steps if recipe.steps is None else min(steps, recipe.steps)
        torch.manual_seed(recipe.seed)
        self.model = job.on_device(build_model(recipe, store), device)
        self.optimiser = job.make_optimiser(
            recipe.optimiser, [{"params": [p for p in self.model.parameters() if p.requires_grad]}]
        )
        self.progress = load_state(out, self.model, self.optimiser)
        self.bfloat16 = recipe.precision == "bfloat16" or (recipe.precision == "auto" and device.type == "cuda")

    def run(self) -> None:
        """Train to the end, or until asked to stop."""
        job.rewind_log(self.out, self.progress.step)
        shown = Progress(f"pretrain ({self.recipe.approach})", self.steps * self.order.batch_size, "galaxies")
        shown.done = self.progress.step * self.order.batch_size
        steps = range(self.progress.step, self.steps)
        if self._out_of_patience():
            steps = range(0)
        with freed_memory_kept(self.device), job.interruptible() as interruption:
            for batch in batches(self.store, self.order, steps, self.device.type == "cuda"):
                self.step(batch)
                shown.advance(self.order.batch_size, self._note())
                if self._epoch_ends():
                    self._end_epoch()
                    if self._out_of_patience():
                        break
                if interruption.asked:
                    self._save_last()
                    raise KeyboardInterrupt
        shown.finish(self._note())
        self._finish()

    def step(self, batch: Batch) -> None:
        """Learn from one batch."""
        views = self._views(batch)
        votes = batch.votes.to(self.device, non_blocking=True)
        # Dropout is a function of the step, so that a resumed training draws the same.
        torch.manual_seed(seed_of(self.recipe.seed, batch.step, 2))
        self._set_learning_rate(batch.step)
        self.model.train()
        self.model.before_step(tau_at(self.recipe.byol, batch.step, self.steps))
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            losses: Losses = self.model(views, votes)
        taken = job.take_step(self.model, self.optimiser, losses.total, self.recipe.optimiser)
        if not taken:
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        self._count(batch, losses, taken)

    def _views(self, batch: Batch) -> tuple[torch.Tensor, ...]:
        images = as_input(batch.images.to(self.device, non_blocking=True))
        seeds = (seed_of(self.recipe.seed, batch.step, view) for view in range(self.model.views))
        return tuple(augment(images, draw(self.recipe.augmentation, len(images), seed)) for seed in seeds)

    def _set_learning_rate(self, step: int) -> None:
        rate = job.learning_rate(self.recipe.optimiser, step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]

    def _count(self, batch: Batch, losses: Losses, taken: bool) -> None:
        values = {name: getattr(losses, name) for name in MEASURED}
        values["labelled"] = losses.labelled / len(batch.images)
        measured = {name: value for name, value in values.items() if value is not None}
        self.progress = count_step(self.progress, batch.step, measured if taken else None)
        if self.progress.skipped_in_row > self.recipe.guard.bad_batches:
            raise TrainingError(
                f"{self.progress.skipped_in_row} batches in a row had no finite loss (last: step {batch.step}); lower "
                f"optimiser.learning_rate (now {self.recipe.optimiser.learning_rate:g}) or set optimiser.clip_norm"
            )

    def _epoch_ends(self) -> bool:
        return self.progress.step % self.order.steps_per_epoch == 0 or self.progress.step == self.steps

    def _out_of_patience(self) -> bool:
        return self.recipe.patience is not None and self.progress.stale >= self.recipe.patience

    def _end_epoch(self) -> None:
        """Measure, log, save."""
        record = self._means() | self._validate()
        job.append_log(self.out, record)
        self._refuse_collapse(record)
        loss, best = record.get("validation_votes"), self.progress.best
        better = loss is None or best is None or loss < best
        update: dict[str, Any] = {"sums": {}, "stale": 0 if better else self.progress.stale + 1}
        if better:
            update["best"] = loss
            self._save("best")
        self.progress = self.progress.model_copy(update=update)
        self._save_last()
        draw_curves(self.out)

    def _means(self) -> dict[str, Any]:
        epoch = math.ceil(self.progress.step / self.order.steps_per_epoch)
        counted = {"step": self.progress.step, "epoch": epoch, "skipped": self.progress.skipped}
        return counted | mean_values(self.progress)

    def _validate(self) -> dict[str, float]:
        """Loss of votes per galaxy on validation galaxies, without augmentation and dropout."""
        rows = self.galaxies.validation
        if self.recipe.approach == "contrastive" or not len(rows):
            return {}
        return {"validation_votes": votes_loss_of(self.model.network, self.store, rows, self.device)}

    def _refuse_collapse(self, record: dict[str, Any]) -> None:
        guard = self.recipe.guard
        signs = [("galaxies spread by", record.get("spread", 1.0), guard.least_spread, "least_spread")]
        if "contrastive" in record:
            apart = 1.0 + record["contrastive"]
            signs.append(("views differ by a cosine of 1 -", apart, 1.0 - guard.closest_views, "closest_views"))
        # Votes alone may well lie on a line, and so do the galaxies of a tiny batch.
        if "contrastive" in record and self.order.batch_size >= 8:
            signs.append(("directions:", record["dimensions"], guard.least_dimensions, "least_dimensions"))
        for what, value, least, key in signs:
            if value < least:
                raise TrainingError(
                    f"the embedding has collapsed: after epoch {record['epoch']}, {what} {value:.2g} (guard.{key}: "
                    f"{least:.2g}); lower optimiser.learning_rate, raise byol.tau, or widen the augmentation"
                )

    def _note(self) -> str:
        means = mean_values(self.progress)
        parts = [f"{name} {means[name]:.3f}" for name in ("contrastive", "supervised") if name in means]
        if self.progress.skipped:
            parts.append(f"{self.progress.skipped} bad batches skipped")
        return ", ".join(parts)

    def _save(self, name: str) -> None:
        save_checkpoint(self.out, name, self.model.network, self._info())

    def _save_last(self) -> None:
        self._save("last")
        save_state(self.out, self.model, self.optimiser, self.progress)

    def _info(self) -> CheckpointInfo:
        epoch = self.progress.step // self.order.steps_per_epoch
        log = job.read_log(self.out)
        record = {name: float(v) for name, v in (log[-1] if log else {}).items() if name not in ("step", "epoch")}
        return CheckpointInfo(
            encoder=architecture(self.model.network.encoder),
            embedding_size=self.model.network.embedding_size,
            heads=heads_of(self.recipe, self.store),
            preparation=self.store.info.preparation,
            trained_by="pretrain",
            approach=self.recipe.approach,
            step=self.progress.step,
            epoch=epoch,
            metrics=record,
            recipe_sha256=sha256_of(self.recipe),
            versions=describe.versions(),
            **describe.provenance(self.store),
        )

    def _finish(self) -> None:
        """Add to the best checkpoint what is known of its training galaxies."""
        network, info = load_network(self.out / "best.safetensors")
        chosen, seed = self.galaxies, self.recipe.seed
        shown = describe.some(chosen.training, describe.THUMBNAILS, seed)
        more = {
            "most_voted_campaign": describe.most_voted_campaign(self.store, chosen.voted),
            "embedding_reference": describe.embedding_reference(
                self._embed(network, chosen.training), self._embed(network, self.store.rows("validation"))
            ),
            "training_ranges": describe.training_ranges(self.store, chosen.voted),
            "training_cells": describe.training_cells(
                self.store, chosen.voted, np.setdiff1d(chosen.training, chosen.voted)
            ),
            "thumbnails": describe.thumbnails(self.store.images(shown)),
        }
        save_checkpoint(self.out, "best", network, info.model_copy(update=more))

    def _embed(self, network: Network, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = describe.some(rows, describe.REFERENCE_GALAXIES, self.recipe.seed)
        return describe.embed(job.on_device(network, self.device), describe.in_parts(self.store, rows), self.device)


def choose_galaxies(store: Store, recipe: PretrainRecipe) -> Galaxies:
    """Decide which rows train and which validate.

    Raises
    ------
    gzsurvey.errors.TrainingError
        There are no votes to learn from, or hardly any galaxies.
    """
    training = store.rows("train")
    voted = labelled_rows(store, training)
    if recipe.approach == "contrastive":
        voted = voted[:0]
    elif not len(voted):
        raise TrainingError(
            f"{store.path}: no galaxy of its train split has votes, so approach {recipe.approach!r} has nothing to "
            "learn from; use --approach contrastive, or a store with votes"
        )
    if recipe.approach == "supervised":
        training = voted
    if len(training) < 4:
        raise TrainingError(f"{store.path}: {len(training)} galaxies to train on are too few; at least 4 are needed")
    return Galaxies(training, voted, labelled_rows(store, store.rows("validation")))


def heads_of(recipe: PretrainRecipe, store: Store) -> tuple[VotesHead, ...]:
    """Return the heads of the pretrained network: none if it never looks at votes."""
    return () if recipe.approach == "contrastive" else (VotesHead(questions=store.info.questions),)


def build_model(recipe: PretrainRecipe, store: Store) -> PretrainModel:
    """Build what is trained."""
    encoder = create_encoder(
        recipe.encoder.name, pretrained=recipe.encoder.pretrained == "timm", drop_path=recipe.encoder.drop_path
    )
    network = Network(encoder, heads_of(recipe, store), recipe.hybrid.dropout)
    if recipe.approach == "contrastive":
        return ContrastiveModel(network, recipe.byol)
    table = answer_table(store.tree)
    if recipe.approach == "supervised":
        return SupervisedModel(network, table)
    return HybridModel(network, table, recipe.byol, recipe.hybrid)


def votes_loss_of(network: Network, store: Store, rows: NDArray[np.int64], device: torch.device) -> float:
    """Mean loss of votes of some galaxies: summed over questions, averaged over galaxies."""
    network.eval()
    table = answer_table(store.tree).to(device)
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), describe.AT_A_TIME):
            part = rows[start : start + describe.AT_A_TIME]
            images = as_input(torch.from_numpy(store.images(part)).to(device))
            votes = torch.from_numpy(store.vote_counts(part)).to(device)
            total += float(dirichlet_multinomial_nll(votes, network(images)["concentration"], table).sum())
    return total / len(rows)
