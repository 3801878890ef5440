"""One of two processes that compute together; started by test_distributed.py: STORE OUT."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from gzsurvey.dataset.store import Store
from gzsurvey.model.checkpoint import save_tensors
from gzsurvey.model.timm_import import import_timm
from gzsurvey.recipes.training import PretrainRecipe
from gzsurvey.training.data import batches
from gzsurvey.training.distributed import Part, World, join
from gzsurvey.training.pretrain import Pretraining
from gzsurvey.training.sync_batch_norm import synchronise

RECIPE = PretrainRecipe.model_validate(
    {
        "encoder": {"name": "test_resnet", "drop_path": 0.3},
        "batch_size": 24,
        "byol": {"hidden": 32, "projection": 16},
    }
)
LAYERS = ("BatchNorm1d", "BatchNorm2d", "BatchNormAct2d")


def layer(kind: str) -> nn.Module:
    """A batch norm whose weights are not those it is born with."""
    act = import_timm().layers.BatchNormAct2d
    made = {"BatchNorm1d": nn.BatchNorm1d, "BatchNorm2d": nn.BatchNorm2d, "BatchNormAct2d": act}[kind](5)
    with torch.no_grad():
        made.weight.copy_(torch.linspace(0.5, 2.0, 5))
        made.bias.copy_(torch.linspace(-1.0, 1.0, 5))
    return nn.Sequential(made)


def normalise(kind: str, world: World) -> dict[str, torch.Tensor]:
    """Forwards and backwards through two layers of a kind, from a mean that is large beside the spread."""
    module = nn.Sequential(layer(kind), nn.Tanh(), layer(kind))
    if world.size > 1:
        synchronise(module, world.device)
    shape = (8, 5) if kind == "BatchNorm1d" else (8, 5, 3, 4)
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(3)) + 30.0
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    x = whole[world.part(8)].clone().requires_grad_()
    y = module(x)
    (y * weight[world.part(8)]).sum().backward()
    gradients = {f"{name}.gradient": world.sum(p.grad) for name, p in module.named_parameters()}
    made = {"y": world.gather(y.detach()), "x.gradient": world.gather(x.grad)} | gradients
    made |= {name: tensor.double() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        made["evaluated"] = module.eval()(whole)
    return {f"{kind}.{name}": tensor for name, tensor in made.items()}


def learn(store: Path, world: World) -> dict[str, torch.Tensor]:
    """Gradient and buffers after one step on a batch whose first half has no votes."""
    training = Pretraining(RECIPE, Store(store), store.parent / "none", world.device, world)
    (batch,) = batches(training.store, Part(training.order, world), range(1))
    batch.votes[: max(0, 12 - world.part(24).start)] = 0
    training.step(batch)
    gradients = {f"{name}.gradient": p.grad for name, p in training.model.named_parameters() if p.requires_grad}
    buffers = {name: b.double() for name, b in training.model.named_buffers() if "running" in name}
    sums = {name: torch.tensor(value) for name, value in training.progress.sums.items()}
    return gradients | buffers | sums


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join("cpu") as world:
        results = learn(Path(sys.argv[1]), world)
        for kind in LAYERS:
            results |= normalise(kind, world)
    if world.first:
        Path(sys.argv[2]).write_bytes(save_tensors(results, {}))
