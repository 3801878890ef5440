"""gzsurvey's pretraining: whole steps, or the bound: the same networks on a batch that is already there.

``python contestant_gzsurvey.py end_to_end|bound as_is|kept STORE DEVICE THREADS RECIPE``
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from turns import take_turns

from gzsurvey.dataset.store import Store
from gzsurvey.model.dirichlet import votes_loss
from gzsurvey.model.hybrid import HybridModel, combine
from gzsurvey.recipes.training import PretrainRecipe
from gzsurvey.training.allocator import freed_memory_kept
from gzsurvey.training.data import batches
from gzsurvey.training.pretrain import Pretraining

Step = Callable[[], object]


def end_to_end(training: Pretraining) -> Step:
    """Steps with everything: store, read-ahead, views, losses, checks, what is logged."""
    stream = batches(training.store, training.order, range(training.steps), training.device.type == "cuda")
    return lambda: training.step(next(stream))


def bound(training: Pretraining) -> Step:
    """Forwards and backwards of both views, target, its moving average, optimiser; nothing else."""
    batch = next(batches(training.store, training.order, range(1))).to(training.device)
    views, model, optimiser = training._views(batch, slice(None)), training.model, training.optimiser

    def step() -> None:
        model.before_step(0.99)
        with torch.autocast(training.device.type, training.type, enabled=training.type is not torch.float32):
            embeddings = [model.network.encoder(view) for view in views]
            projections = model.byol.projector(embeddings[0]), model.byol.projector(embeddings[1])
            targets = model.byol.target(views[0]), model.byol.target(views[1])
            terms = {"contrastive": model.byol.loss(projections, targets)}
            if isinstance(model, HybridModel):
                concentrations = model.network.heads["concentration"](embeddings[0])
                terms["supervised"] = votes_loss(batch.votes, concentrations, model.table)[0]
            loss = combine(terms, model.pulls(terms))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def backward_flops(
    gradient: Sequence[int], _x: Sequence[int], weight: Sequence[int], *rest: Any, out_shape: object = None
) -> int:
    """Of a convolution's two gradients, each as many as its forward pass; torch's own count takes groups for one."""
    asked: Sequence[bool] = rest[-1]
    return 2 * prod(gradient) * prod(weight[1:]) * sum(asked[:2])


def flops(step: Step) -> int:
    """Floating-point operations of one step's convolutions and matrix products, forwards and backwards."""
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: backward_flops}
    ) as counter:
        step()
    return counter.get_total_flops()


def matrix_rate(training: Pretraining) -> float:
    """Floating-point operations per second of a large matrix product in the precision of the training."""
    side = 8192 if training.device.type == "cuda" else 1024
    # Random numbers: a GPU multiplies ones faster than it multiplies what networks hold.
    a = torch.randn((side, side), device=training.device).to(training.type)
    rates = []
    for _ in range(10):
        wait(training.device)
        start = time.perf_counter()
        a @ a
        wait(training.device)
        rates.append(2 * side**3 / (time.perf_counter() - start))
    return sorted(rates)[len(rates) // 2]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def main(side: str, memory: str, store: str, device: str, recipe: str) -> None:
    chosen = torch.device(device)
    with tempfile.TemporaryDirectory() as out, freed_memory_kept(chosen) if memory == "kept" else nullcontext():
        training = Pretraining(PretrainRecipe.model_validate_json(recipe), Store(Path(store)), Path(out), chosen)
        step = {"end_to_end": end_to_end, "bound": bound}[side](training)
        about: dict[str, object] = {
            "timm": version("timm"),
            "torch": torch.__version__,
            "device": name_of(chosen),
            "precision": str(training.type).removeprefix("torch."),
        }
        if side == "bound":
            about |= {"flops": flops(step), "matrix_rate": matrix_rate(training)}
        take_turns(step, lambda: wait(chosen), about)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[5]))
    main(*sys.argv[1:5], sys.argv[6])
