"""Finetuning by gradient: new heads, and all or the last parts of the encoder.

Letters: N galaxies, n some of them, S pixels on a side, W columns of an output.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gzsurvey.errors import TrainingError
from gzsurvey.model.checkpoint import read_tensors, save_tensors, write_aside
from gzsurvey.model.encoder import parameter_depths
from gzsurvey.model.network import Network
from gzsurvey.progress import Progress
from gzsurvey.recipes.training import FinetuneRecipe
from gzsurvey.training import job
from gzsurvey.training.allocator import freed_memory_kept
from gzsurvey.training.augment import augment, draw
from gzsurvey.training.curves import draw_curves
from gzsurvey.training.data import Order, as_input, read_ahead, seed_of
from gzsurvey.training.state import count_step, load_state, mean_values, save_state
from gzsurvey.training.tasks import Tasks
from gzsurvey.training.tasks.several import loss, measure

AT_A_TIME = 256
CURVES_EVERY_S = 10.0
"""Drawing curves takes a third of a second, longer than an epoch of few labels."""
BEST_SO_FAR = "best-so-far.safetensors"
"""Weights of the best epoch, while training goes on."""


@dataclass(frozen=True)
class Examples:
    """Labelled galaxies of one part."""

    images: NDArray[Any]
    """All labelled images, uint8 or float32 flux, shape (N, S, S, 3), mapped from disk."""
    rows: NDArray[np.int64]
    """Those of this part."""
    tasks: Tasks
    """Labels of all N."""


class Tuning:
    """One finetuning by gradient at work."""

    def __init__(self, recipe: FinetuneRecipe, network: Network, out: Path, device: torch.device) -> None:
        self.recipe, self.out, self.device = recipe, out, device
        self.network = job.on_device(network, device)
        self.optimiser = job.make_optimiser(recipe.optimiser, list(parameter_groups(recipe, network)))
        self.progress = load_state(out, network, self.optimiser)
        self._drawn = time.monotonic()
        self.best = read_tensors(out / BEST_SO_FAR) if self.progress.best is not None else self._weights()

    def run(self, training: Examples, validation: Examples) -> None:
        """Train until validation gains no more; leave the best weights in the network."""
        recipe = self.recipe
        order = Order(training.rows, recipe.batch_size, recipe.seed)
        job.rewind_log(self.out, self.progress.step)
        epoch_steps = order.steps_per_epoch * math.ceil(recipe.least_steps / order.steps_per_epoch)
        total = recipe.epochs * epoch_steps
        shown = Progress(f"finetune ({recipe.title})", total * order.batch_size, "galaxies")
        shown.done = self.progress.step * order.batch_size
        with freed_memory_kept(self.device), job.interruptible() as interruption:
            for step, rows in read_ahead(_steps(order, range(self.progress.step, total))):
                self._step(step, total, training, rows)
                shown.advance(order.batch_size)
                if (step + 1) % epoch_steps == 0 and self._end_epoch(validation, epoch_steps):
                    break
                if interruption.asked:
                    raise KeyboardInterrupt
        shown.finish()
        draw_curves(self.out)

    def _step(self, step: int, total: int, training: Examples, rows: NDArray[np.int64]) -> None:
        images = as_input(torch.from_numpy(training.images[rows]).to(self.device))
        view = augment(images, draw(self.recipe.augmentation, len(rows), seed_of(self.recipe.seed, step, 0)))
        torch.manual_seed(seed_of(self.recipe.seed, step, 2))
        rate = job.learning_rate(self.recipe.optimiser, step, total)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        set_training(self.network)
        value = loss(self.network, training.tasks, self.network.encoder(view), rows)
        taken = job.take_step(self.network, self.optimiser, value, self.recipe.optimiser)
        self.progress = count_step(self.progress, step, {"loss": value} if taken else None)
        if self.progress.skipped_in_row > 10:
            raise TrainingError(f"10 batches in a row had no finite loss (step {step}); lower optimiser.learning_rate")

    def _end_epoch(self, validation: Examples, epoch_steps: int) -> bool:
        predicted = predict(self.network, validation, self.device)
        measured = measure(validation.tasks, predicted, validation.rows)
        epoch = self.progress.step // epoch_steps
        record = {"step": self.progress.step, "epoch": epoch} | mean_values(self.progress)
        job.append_log(self.out, record | {f"validation_{name}": value for name, value in measured.items()})
        if time.monotonic() - self._drawn > CURVES_EVERY_S:
            draw_curves(self.out)
            self._drawn = time.monotonic()
        better = self.progress.best is None or measured["loss"] < self.progress.best
        if better:
            self.best = self._weights()
            write_aside(self.out / BEST_SO_FAR, save_tensors(self.best, {}))
        stale = 0 if better else self.progress.stale + 1
        update: dict[str, Any] = {"sums": {}, "stale": stale} | ({"best": measured["loss"]} if better else {})
        self.progress = self.progress.model_copy(update=update)
        save_state(self.out, self.network, self.optimiser, self.progress)
        return stale >= self.recipe.patience

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}


def _steps(order: Order, steps: range) -> Iterator[tuple[int, NDArray[np.int64]]]:
    return ((step, np.sort(order.at(step))) for step in steps)


def predict(network: Network, examples: Examples, device: torch.device) -> dict[str, NDArray[np.float64]]:
    """Predict all tasks of some galaxies, without augmentation: by output, float64, shape (n, W)."""
    network.eval()
    parts: dict[str, list[NDArray[np.float64]]] = {task.output: [] for task in examples.tasks}
    with torch.inference_mode():
        for start in range(0, len(examples.rows), AT_A_TIME):
            rows = examples.rows[start : start + AT_A_TIME]
            outputs = network(as_input(torch.from_numpy(examples.images[rows]).to(device)))
            for name, part in parts.items():
                part.append(outputs[name].double().cpu().numpy())
    return {name: np.concatenate(part) for name, part in parts.items()}


def parameter_groups(recipe: FinetuneRecipe, network: Network) -> Iterator[dict[str, Any]]:
    """Yield what learns, part by part, each earlier part slower; freeze the rest."""
    depths = parameter_depths(network.encoder)
    deepest = max(depths.values())
    learning = range(deepest - recipe.blocks + 1, deepest + 1) if recipe.mode == "last_blocks" else range(deepest + 1)
    by_depth: dict[int, list[nn.Parameter]] = {}
    for name, parameter in network.encoder.named_parameters():
        parameter.requires_grad_(depths[name] in learning)
        if parameter.requires_grad:
            by_depth.setdefault(depths[name], []).append(parameter)
    yield {"params": list(network.heads.parameters())}
    for depth, parameters in sorted(by_depth.items(), reverse=True):
        yield {"params": parameters, "scale": recipe.layer_decay ** (deepest - depth + 1)}


def set_training(network: Network) -> None:
    """Put what learns into training mode; batch norms of frozen parts keep their statistics."""
    network.train()
    for module in network.encoder.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
