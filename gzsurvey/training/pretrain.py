"""Pretraining: hybrid, supervised or contrastive, from one store, as one program.

Letters: N galaxies, A answers.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
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
from gzsurvey.model.dirichlet import answer_table, count_labelled
from gzsurvey.model.encoder import architecture, create_encoder
from gzsurvey.model.hybrid import ContrastiveModel, HybridModel, Losses, PretrainModel, SupervisedModel
from gzsurvey.model.network import Network
from gzsurvey.progress import Progress
from gzsurvey.recipes.training import PretrainRecipe
from gzsurvey.training import describe, job, precision
from gzsurvey.training.allocator import freed_memory_kept
from gzsurvey.training.augment import Draws, augment, draw, refuse_meaningless
from gzsurvey.training.curves import draw_curves
from gzsurvey.training.data import Batch, Waiting, as_input, batches, choose_order, labelled_rows, seed_of
from gzsurvey.training.distributed import Part, World, join
from gzsurvey.training.dropout import draw_for_whole_batches
from gzsurvey.training.gradient import Counts, Whole, whole_gradient
from gzsurvey.training.monitor import Monitor
from gzsurvey.training.state import count_step, load_state, mean_values, save_state
from gzsurvey.training.sync_batch_norm import synchronise
from gzsurvey.training.trackers import Trackers
from gzsurvey.training.validation import summed_votes_loss, votes_calibration

logger = logging.getLogger(__name__)

WAITING_SHOWN = 0.05
"""Share of the time spent waiting for data above which it is said."""
NO_METRICS = ("step", "epoch", "images_per_second", "waiting")
"""What a record says besides how good the network is."""


@dataclass(frozen=True)
class Galaxies:
    """Which rows of the store do what."""

    training: NDArray[np.int64]
    voted: NDArray[np.int64]
    """Those of `training` with any vote."""
    validation: NDArray[np.int64]
    """With any vote."""


def pretrain(recipe: PretrainRecipe, store: Path, out: Path, device: str = "auto", monitor: Path | None = None) -> Path:
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
    monitor : Path, optional
        Table of classes, by id, of galaxies of the store: how well nearest neighbours tell them
        apart is logged every epoch. It changes nothing else.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    gzsurvey.errors.OutputConflict
        OUT was made by another recipe or from another store.
    gzsurvey.errors.OutputBusy
        Another process trains in OUT.
    gzsurvey.errors.TrainingError
        There are no votes to learn from, the loss is not finite, the embedding collapsed, or the
        batch cannot be shared equally by the processes.
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once everything is saved.
    """
    opened = Store(store)
    refuse_meaningless(recipe.augmentation, opened.info.preparation)
    description = {"recipe": recipe.model_dump(mode="json"), "dataset_sha256": opened.info.content_sha256}
    with ExitStack() as of_first:
        with join(device) as world:
            if world.from_first(lambda: of_first.enter_context(job.claimed(out, description))):
                logger.info("%s is finished", out)
                return out
            with world.alike():
                training = Pretraining(recipe, opened, out, world.device, world)
                training.monitor = None if monitor is None else Monitor(monitor, opened, recipe.seed)
            training.run()
        if world.first:
            training.describe_best()
            job.finish(out, description)
    return out


class Pretraining:
    """One pretraining at work, or one process's part in it."""

    monitor: Monitor | None = None

    def __init__(
        self, recipe: PretrainRecipe, store: Store, out: Path, device: torch.device, world: World | None = None
    ) -> None:
        self.recipe, self.store, self.out, self.device = recipe, store, out, device
        self.world = World(device) if world is None else world
        self.galaxies = choose_galaxies(store, recipe)
        self.order = choose_order(recipe, self.galaxies.training, self.galaxies.voted)
        refuse_unequal_parts(self.order.batch_size, self.world.size, recipe.accumulate)
        self.waiting = Waiting()
        self._draws = lru_cache(2)(self._draw)
        self._kept: dict[torch.dtype, list[torch.Tensor]] = {}
        steps = recipe.epochs * self.order.steps_per_epoch
        self.steps = steps if recipe.steps is None else min(steps, recipe.steps)
        torch.manual_seed(recipe.seed)
        self.model = job.on_device(build_model(recipe, store), device)
        self.seen = draw_for_whole_batches(self.model)
        if self.world.size > 1:
            synchronise(self.model, device)
        if recipe.compile == "online":
            precision.compile_online(self.model.network.encoder)
        self.optimiser = job.make_optimiser(
            recipe.optimiser, [{"params": [p for p in self.model.parameters() if p.requires_grad]}]
        )
        self.type = precision.autocast_type(recipe.precision, device)
        self.scaler = precision.make_scaler(self.type, device)
        self._resume()
        self.trackers = Trackers(recipe.trackers if self.world.first else (), out, self.progress.step)

    def _resume(self) -> None:
        self.progress = load_state(self.out, self.model, self.optimiser)
        steps = self.world.gather(torch.tensor([self.progress.step], device=self.device))
        if (steps != steps[0]).any():
            raise TrainingError(
                f"{self.out}: processes find different states in it (steps {steps.tolist()}); OUT must lie on a file "
                "system that all nodes share"
            )
        self.world.copy_from_first([t for t in self.model.state_dict().values() if t.is_floating_point()])
        if self.scaler.is_enabled() and self.progress.scaler:
            self.scaler.load_state_dict(self.progress.scaler)
        self._saved = self._epoch_began = time.monotonic()
        self._first_of_epoch = self.progress.step

    def run(self) -> None:
        """Train to the end, or until asked to stop."""
        if self.world.first:
            job.rewind_log(self.out, self.progress.step)
        shown = Progress(f"pretrain ({self.recipe.approach})", self.steps * self.order.batch_size, "galaxies")
        shown.done = self.progress.step * self.order.batch_size
        steps = range(self.progress.step, self.steps)
        if self._out_of_patience():
            steps = range(0)
        mine = Part(self.order, self.world)
        patience = 1 if self.world.size == 1 else math.inf
        with freed_memory_kept(self.device), job.interruptible(patience) as interruption:
            for batch in self.waiting.watch(batches(self.store, mine, steps, self.device.type == "cuda")):
                with self.world.alike():
                    self.step(batch)
                    shown.advance(self.order.batch_size, self._note())
                    self._after_step(interruption)
                if self._out_of_patience():
                    break
        shown.finish(self._note())

    def step(self, batch: Batch) -> None:
        """Learn from one batch: this process's part of it."""
        self._set_learning_rate(batch.step)
        self.model.train()
        self.model.before_step(tau_at(self.recipe.byol, batch.step, self.steps))
        self._keep_buffers()
        self.optimiser.zero_grad(set_to_none=True)
        votes = batch.votes.to(self.device, non_blocking=True)
        counts = Counts(self.order.batch_size, self.world.count(int(count_labelled(batch.votes))))
        n = len(votes) // self.recipe.accumulate
        passes = [partial(self._pass, batch, votes, slice(i * n, (i + 1) * n)) for i in range(self.recipe.accumulate)]
        whole = whole_gradient(self.model, passes, counts, self.world, self.scaler)
        finite = job.descend(self.model, self.optimiser, self.recipe.optimiser, self.scaler, whole.total)
        self._draws(batch.step + 1)  # while a GPU is still at work
        self._count(batch, whole, counts, finite)

    def _keep_buffers(self) -> None:
        """Remember what a skipped step must put back; tensors of one type together, in one go on a GPU."""
        buffers: dict[torch.dtype, list[torch.Tensor]] = {}
        for buffer in self.model.buffers():
            buffers.setdefault(buffer.dtype, []).append(buffer)
        if not self._kept:
            self._kept = {kind: [buffer.clone() for buffer in some] for kind, some in buffers.items()}
        for kind, some in buffers.items():
            torch._foreach_copy_(self._kept[kind], some)

    def _put_buffers_back(self) -> None:
        kept = {kind: iter(some) for kind, some in self._kept.items()}
        for buffer in self.model.buffers():
            buffer.copy_(next(kept[buffer.dtype]))

    def _pass(self, batch: Batch, votes: torch.Tensor, part: slice) -> Losses:
        """Run the model on some of this process's galaxies."""
        before = self.world.part(self.order.batch_size).start
        self.seen.whole, self.seen.rows = self.order.batch_size, slice(before + part.start, before + part.stop)
        views = self._views(batch, part)
        # Dropout is a function of the step, so that a resumed training draws the same.
        torch.manual_seed(seed_of(self.recipe.seed, batch.step, 2))
        with torch.autocast(self.device.type, self.type, enabled=self.type is not torch.float32):
            losses: Losses = self.model(views, votes[part])
        return losses

    def _views(self, batch: Batch, part: slice) -> tuple[torch.Tensor, ...]:
        images = as_input(batch.images[part].to(self.device, non_blocking=True))
        draws = [drawn[self.seen.rows] for drawn in self._draws(batch.step)]
        # In one go: on a GPU, starting the many small operations takes longer than they do.
        return torch.chunk(augment(torch.cat([images] * len(draws)), Draws.joined(draws)), len(draws))

    def _draw(self, step: int) -> list[Draws]:
        """Draw the views of a whole batch: the same whenever it is asked."""
        seeds = (seed_of(self.recipe.seed, step, view) for view in range(self.model.views))
        return [draw(self.recipe.augmentation, self.order.batch_size, seed) for seed in seeds]

    def _after_step(self, interruption: job.Interruption) -> None:
        """Save where it is time, and stop where it was asked for."""
        if self._epoch_ends():
            self._end_epoch()
        elif time.monotonic() - self._saved >= 60.0 * self.recipe.checkpoint_minutes:
            self._save_last()
        if not self._out_of_patience() and self.world.any(interruption.asked):
            self._save_last()
            self.world.wait()
            raise KeyboardInterrupt

    def _set_learning_rate(self, step: int) -> None:
        rate = job.learning_rate(self.recipe.optimiser, step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]

    def _count(self, batch: Batch, whole: Whole, counts: Counts, finite: torch.Tensor) -> None:
        said = whole.terms | {"spread": whole.spread, "dimensions": whole.dimensions}
        # The one moment of a step at which the CPU waits for a GPU.
        taken, *values = torch.stack([finite.float(), *said.values()]).cpu().unbind()
        measured = dict(zip(said, values, strict=True)) | {"labelled": torch.tensor(counts.labelled / counts.galaxies)}
        if not taken:
            self._put_buffers_back()
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
        record = self._means() | self._speed() | self._validate()
        if self.world.first:
            if self.monitor is not None:
                record |= self.monitor.measure(self.model.network, self.device)
            job.append_log(self.out, record)
            self.trackers.write(record)
        self._refuse_collapse(record)
        loss, best = record.get("validation_votes"), self.progress.best
        better = loss is None or best is None or loss < best
        update: dict[str, Any] = {"sums": {}, "stale": 0 if better else self.progress.stale + 1}
        if better:
            update["best"] = loss
            self._save("best")
        self.progress = self.progress.model_copy(update=update)
        self._save_last()
        if self.world.first:
            draw_curves(self.out)
        self._first_of_epoch, self._epoch_began = self.progress.step, time.monotonic()
        self.waiting.restart()

    def _means(self) -> dict[str, Any]:
        epoch = math.ceil(self.progress.step / self.order.steps_per_epoch)
        counted = {"step": self.progress.step, "epoch": epoch, "skipped": self.progress.skipped}
        return counted | mean_values(self.progress)

    def _speed(self) -> dict[str, float]:
        """Galaxies per second, and the share of time spent waiting for them, since the epoch or this run began."""
        galaxies = (self.progress.step - self._first_of_epoch) * self.order.batch_size
        rate = galaxies / (time.monotonic() - self._epoch_began)
        return {"images_per_second": round(rate, 1), "waiting": round(self.waiting.share, 4)}

    def _validate(self) -> dict[str, float]:
        """Loss of votes per galaxy on validation galaxies, without augmentation and dropout."""
        rows = self.galaxies.validation
        if self.recipe.approach == "contrastive" or not len(rows):
            return {}
        mine = rows[self.world.rank :: self.world.size]
        loss = summed_votes_loss(self.model.network, self.store, mine, self.device)
        summed = self.world.sum(torch.tensor(loss, dtype=torch.float64, device=self.device))
        return {"validation_votes": float(summed) / len(rows)}

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
        if self.waiting.share > WAITING_SHOWN:
            parts.append(f"{self.waiting.share:.0%} of the time waiting for data")
        return ", ".join(parts)

    def _save(self, name: str) -> None:
        if self.world.first:
            save_checkpoint(self.out, name, self.model.network, self._info())

    def _save_last(self) -> None:
        self._save("last")
        self.progress = self.progress.model_copy(update={"scaler": self.scaler.state_dict()})
        if self.world.first:
            save_state(self.out, self.model, self.optimiser, self.progress)
        self._saved = time.monotonic()

    def _info(self) -> CheckpointInfo:
        epoch = self.progress.step // self.order.steps_per_epoch
        log = job.read_log(self.out)
        record = {name: float(v) for name, v in (log[-1] if log else {}).items() if name not in NO_METRICS}
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

    def describe_best(self) -> None:
        """Add to the best checkpoint what is known of its training galaxies."""
        network, info = load_network(self.out / "best.safetensors")
        chosen, seed = self.galaxies, self.recipe.seed
        shown = describe.some(chosen.training, describe.THUMBNAILS, seed)
        more = {
            "calibration": votes_calibration(
                job.on_device(network, self.device), self.store, chosen.validation, self.device, seed
            ),
            "most_voted_campaign": describe.most_voted_campaign(self.store, chosen.voted),
            "embedding_reference": describe.embedding_reference(
                self._embed(network, chosen.training), self._embed(network, self.store.rows("validation"))
            ),
            "training_ranges": describe.training_ranges(self.store, chosen.voted),
            "training_cells": describe.training_cells(
                self.store, chosen.voted, np.setdiff1d(chosen.training, chosen.voted, assume_unique=True)
            ),
            "thumbnails": describe.thumbnails(self.store.images(shown), self.store.info.preparation),
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


def refuse_unequal_parts(batch_size: int, processes: int, micro_batches: int) -> None:
    """Refuse a batch that cannot be cut into equal parts of at least two galaxies.

    Raises
    ------
    gzsurvey.errors.TrainingError
        Says which batch sizes can.
    """
    parts = processes * micro_batches
    if batch_size % parts or (parts > 1 and batch_size < 2 * parts):
        raise TrainingError(
            f"a batch of {batch_size} galaxies makes no {parts} equal parts of 2 or more ({processes} processes, "
            f"accumulate {micro_batches}); set batch_size to a multiple of {parts}, no larger than the training split"
        )


def heads_of(recipe: PretrainRecipe, store: Store) -> tuple[VotesHead, ...]:
    """Return the heads of the pretrained network: none if it never looks at votes."""
    return () if recipe.approach == "contrastive" else (VotesHead(questions=store.info.questions),)


def build_model(recipe: PretrainRecipe, store: Store) -> PretrainModel:
    """Build what is trained."""
    encoder = create_encoder(
        recipe.encoder.name,
        store.info.preparation,
        pretrained=recipe.encoder.pretrained == "timm",
        drop_path=recipe.encoder.drop_path,
    )
    network = Network(encoder, heads_of(recipe, store), recipe.hybrid.dropout)
    if recipe.approach == "contrastive":
        return ContrastiveModel(network, recipe.byol)
    table = answer_table(store.tree)
    if recipe.approach == "supervised":
        return SupervisedModel(network, table)
    return HybridModel(network, table, recipe.byol, recipe.hybrid)
