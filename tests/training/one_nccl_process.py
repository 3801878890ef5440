"""A step with NCCL and torch's synchronised batch norm, alone in its group; started by test_on_a_gpu.py: STORE OUT."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from gzsurvey.dataset.store import Store
from gzsurvey.recipes.training import PretrainRecipe
from gzsurvey.training.data import batches
from gzsurvey.training.pretrain import Pretraining
from gzsurvey.training.sync_batch_norm import synchronise

RECIPE = PretrainRecipe.model_validate(
    {"encoder": {"name": "resnet18"}, "batch_size": 32, "byol": {"hidden": 64, "projection": 32}}
)


def contrastive_loss(store: Path, out: Path, synchronised: bool) -> tuple[float, int]:
    """Loss of the first step, and how many layers are torch's synchronised batch norm."""
    training = Pretraining(RECIPE, Store(store), out, torch.device("cuda", 0))
    if synchronised:
        synchronise(training.model, training.device)
    for batch in batches(training.store, training.order, range(1), pinned=True):
        training.step(batch)
    layers = sum(isinstance(module, torch.nn.SyncBatchNorm) for module in training.model.modules())
    return training.progress.sums["contrastive"], layers


if __name__ == "__main__":
    store, out = map(Path, sys.argv[1:])
    where = f"file://{out / 'meeting'}"
    dist.init_process_group("nccl", init_method=where, rank=0, world_size=1, device_id=torch.device("cuda", 0))
    alone, _ = contrastive_loss(store, out, synchronised=False)
    together, layers = contrastive_loss(store, out, synchronised=True)
    dist.destroy_process_group()
    print(json.dumps({"alone": alone, "synchronised": together, "layers": layers}))
