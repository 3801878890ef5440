"""Pretraining on a CUDA device; the rest of the suite runs on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gzsurvey.dataset.store import Store
from gzsurvey.recipes.training import PretrainRecipe
from gzsurvey.training.augment import augment, draw
from gzsurvey.training.data import batches
from gzsurvey.training.pretrain import Pretraining, pretrain

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]
BASE = {
    "encoder": {"name": "resnet18"},
    "batch_size": 32,
    "steps": 4,
    "byol": {"hidden": 64, "projection": 32},
    "hybrid": {"dropout": 0.0},  # its draws differ between devices
}
TOLERANCE = {"float32": 0.01, "bfloat16": 0.05, "float16": 0.02}
"""Of the losses of a first step, relative or absolute: TF32 and float16 keep 10 bits, bfloat16 7, through 18 layers."""


def training(store: Store, out: Path, device: str, **changes: object) -> Pretraining:
    return Pretraining(PretrainRecipe.model_validate(BASE | changes), store, out, torch.device(device))


def after_one_step(made: Pretraining) -> dict[str, float]:
    for batch in batches(made.store, made.order, range(1), made.device.type == "cuda"):
        made.step(batch)
    return made.progress.sums


def test_views_are_those_of_the_cpu() -> None:
    images = torch.rand(64, 3, 48, 48).contiguous(memory_format=torch.channels_last)
    draws = draw(PretrainRecipe(augmentation={"blur": 0.5}).augmentation, 64, 3)  # type: ignore[arg-type]
    assert (augment(images.cuda(), draws).cpu() - augment(images, draws)).abs().max() < 1e-3


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("approach", ["hybrid", "supervised", "contrastive"])
def test_a_step_has_the_losses_of_the_cpu(store: Store, tmp_path: Path, approach: str, precision: str) -> None:
    cpu = after_one_step(training(store, tmp_path / "cpu", "cpu", approach=approach))
    made = training(store, tmp_path / "gpu", "cuda", approach=approach, precision=precision)
    gpu = after_one_step(made)
    assert made.scaler.is_enabled() == (precision == "float16")
    assert made.progress.skipped == 0
    for name in {"contrastive", "supervised"} & cpu.keys():
        assert gpu[name] == pytest.approx(cpu[name], rel=TOLERANCE[precision], abs=TOLERANCE[precision]), name


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_step_that_is_not_finite_changes_nothing(store: Store, tmp_path: Path, precision: str) -> None:
    made = training(store, tmp_path, "cuda", precision=precision)
    after_one_step(made)
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    made.model.byol.projector[0].weight.register_hook(lambda gradient: gradient * torch.inf)  # type: ignore[union-attr]
    (batch,) = batches(made.store, made.order, range(1, 2), pinned=True)
    made.step(batch)
    assert made.progress.skipped == 1
    # The target follows before the step is seen to fail.
    for name, tensor in made.model.state_dict().items():
        assert "target" in name or torch.equal(tensor, before[name]), name


def test_resuming_goes_on(store_path: Path, tmp_path: Path) -> None:
    """Half the steps, then the other half: nearly the losses of all at once."""
    recipe = PretrainRecipe.model_validate(BASE | {"steps": 12, "patience": None})
    whole = pretrain(recipe, store_path, tmp_path / "whole", "cuda")
    store = Store(store_path)
    (tmp_path / "halves").mkdir()
    first = training(store, tmp_path / "halves", "cuda", steps=12, patience=None)
    first.steps = 6
    first.run()
    second = training(store, tmp_path / "halves", "cuda", steps=12, patience=None)
    assert second.progress.step == 6
    second.run()
    records = [json.loads((out / "metrics.jsonl").read_text().splitlines()[-1]) for out in (whole, tmp_path / "halves")]
    assert records[0]["step"] == records[1]["step"] == 12
    assert records[1]["contrastive"] == pytest.approx(records[0]["contrastive"], abs=0.1)


def test_a_compiled_encoder_learns(store: Store, tmp_path: Path) -> None:
    plain = after_one_step(training(store, tmp_path / "plain", "cuda"))
    compiled = after_one_step(training(store, tmp_path / "compiled", "cuda", compile="online"))
    assert compiled["contrastive"] == pytest.approx(plain["contrastive"], abs=TOLERANCE["bfloat16"])


def test_torchrun_with_nccl(store_path: Path, tmp_path: Path) -> None:
    """One process per GPU that is here; only where there are several do they send messages."""
    content = BASE | {"steps": 4, "patience": None}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(content))
    gpus = torch.cuda.device_count()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus),
               "-m", "gzsurvey", "pretrain", str(recipe), str(tmp_path / "out"), "--dataset", str(store_path),
               "--device", "cuda"]  # fmt: skip
    ended = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 4


def test_synchronised_batch_norm_of_one_process_is_batch_norm(store: Store, tmp_path: Path) -> None:
    """Torch's own layers, in a group of NCCL; alone in it, they send no messages."""
    script = Path(__file__).with_name("one_nccl_process.py")
    ended = subprocess.run([sys.executable, str(script), str(store.path), str(tmp_path)],
                           capture_output=True, text=True, timeout=300)  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    said = json.loads(ended.stdout.splitlines()[-1])
    assert said["layers"] > 10
    assert said["synchronised"] == pytest.approx(said["alone"], abs=TOLERANCE["bfloat16"])
