"""Several processes train as one process would; they are started as users start them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
import two_processes
import yaml

from gzsurvey.dataset.store import Store
from gzsurvey.errors import TrainingError
from gzsurvey.model.checkpoint import load_network, read_tensors
from gzsurvey.recipes.training import FinetuneRecipe, PretrainRecipe
from gzsurvey.training import distributed
from gzsurvey.training.finetune import finetune
from gzsurvey.training.pretrain import Pretraining, pretrain, refuse_unequal_parts

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
# Adam makes full steps of gradients that are 0 but for rounding (the projector's bias, which batch norm cancels): one
# process whose pixels are disturbed by 1e-7 leaves its own curve by 4e-3 in 20 steps at a learning rate of 1e-3. So:
# small steps, a slow target.
RECIPE = {
    "encoder": {"name": "test_resnet"},
    "batch_size": 36,
    "steps": 20,
    "patience": None,
    "optimiser": {"learning_rate": 3e-5},
    "byol": {"hidden": 32, "projection": 16, "tau": 0.999},
}


def environment(**more: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": path} | more


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def records(out: Path) -> list[dict[str, float]]:
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def torchrun(recipe: Path, store: Path, out: Path) -> subprocess.Popen[str]:
    start = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    command = ["-m", "gzsurvey", "pretrain", str(recipe), str(out), "--dataset", str(store), "--device", "cpu"]
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *start, *command], stdout=pipe, stderr=pipe, text=True, env=environment())


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "two.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="module")
def alone(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    return pretrain(PretrainRecipe.model_validate(RECIPE), store_path, out, "cpu")


@pytest.fixture(scope="module")
def together(recipe: Path, store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    out = tmp_path_factory.mktemp("together")
    run = torchrun(recipe, store_path, out)
    try:
        stdout, stderr = run.communicate(timeout=600)
    finally:
        run.terminate()
    assert run.returncode == 0, stderr
    return out, stdout, stderr


def assert_same_curve(out: Path, other: Path) -> None:
    assert [r["step"] for r in records(out)] == [r["step"] for r in records(other)] == list(range(2, 21, 2))
    for ours, theirs in zip(records(out), records(other), strict=True):
        for name in ("contrastive", "supervised", "validation_votes", "spread", "labelled"):
            # The contrastive loss passes through 0; what it measures from its optimum, -1, does not.
            start = 1.0 if name == "contrastive" else 0.0
            assert start + ours[name] == pytest.approx(start + theirs[name], rel=1e-4), (ours["step"], name)


@pytest.mark.slow
def test_two_processes_give_the_loss_curve_of_one(
    together: tuple[Path, str, str], alone: Path, store_path: Path, tmp_path: Path
) -> None:
    out, stdout, stderr = together
    assert_same_curve(out, alone)
    assert stdout == f"{out}\n"
    assert stderr.count("100% 720/720 galaxies") == 1
    assert {path.name for path in out.iterdir()} == {path.name for path in alone.iterdir()}
    ours, theirs = (read_tensors(folder / "last-training.safetensors") for folder in (out, alone))
    assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in theirs.items()}
    start = Pretraining(PretrainRecipe.model_validate(RECIPE), Store(store_path), tmp_path, CPU).model.state_dict()
    for part in ("network.encoder.", "network.heads.", "byol.projector.", "byol.predictor.", "byol.target_encoder."):
        names = [name for name in start if name.startswith(part) and name.endswith("weight")]
        moved = torch.cat([(theirs[f"model.{name}"] - start[name]).flatten() for name in names])
        apart = torch.cat([(theirs[f"model.{name}"] - ours[f"model.{name}"]).flatten() for name in names])
        assert 0 < apart.norm() < 0.05 * moved.norm(), part
    assert load_network(out / "best.safetensors")[1].embedding_reference is not None


@pytest.mark.slow
def test_two_processes_have_the_gradient_and_the_batch_norms_of_one(store_path: Path, tmp_path: Path) -> None:
    script, results, port = Path(two_processes.__file__), tmp_path / "results.safetensors", str(free_port())
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, str(script), str(store_path), str(results)]
    both = [subprocess.Popen(command, env=environment(RANK=str(rank), **meeting)) for rank in range(2)]
    one = two_processes.learn(store_path, distributed.World(CPU))
    for kind in two_processes.LAYERS:
        one |= two_processes.normalise(kind, distributed.World(CPU))
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    two = read_tensors(results)
    assert two.keys() == one.keys()
    largest = max(float(t.norm()) for name, t in one.items() if name.endswith("weight.gradient"))
    for name, tensor in one.items():
        size = float(tensor.double().norm())
        # What batch norm cancels has a gradient of 0, and rounding in its place.
        least = 1e-6 * largest if name.endswith("gradient") else 1e-6
        assert float((tensor - two[name]).double().norm()) <= max(1e-4 * size, least), name
    assert one["labelled"] > 0
    assert any("target_encoder" in name and "running_mean" in name for name in one)


def stop_when(run: subprocess.Popen[str], out: Path, enough: int, stop: Callable[[], None]) -> tuple[str, str]:
    """Call `stop` once `enough` epochs are logged; return what the run says."""
    until = time.monotonic() + 240
    while len(records(out)) < enough and time.monotonic() < until and run.poll() is None:
        time.sleep(0.02)
    stop()
    try:
        said = run.communicate(timeout=240)
    finally:
        run.terminate()
    assert 0 < len(records(out)) < 10, said
    return said


@pytest.mark.long
def test_sigterm_to_one_process_saves_and_both_resume(
    recipe: Path, store_path: Path, together: tuple[Path, str, str], alone: Path, tmp_path: Path
) -> None:
    straight, stopped = together[0], tmp_path / "stopped"
    run = torchrun(recipe, store_path, stopped)
    _, said = stop_when(run, stopped, 2, lambda: psutil.Process(run.pid).children()[1].send_signal(signal.SIGTERM))
    assert run.returncode != 0
    assert said.count("gzsurvey: interrupted; repeat the command to go on") == 1
    assert not json.loads((stopped / "job.json").read_text())["finished"]
    finished_alone = tmp_path / "finished-alone"
    finished_alone.mkdir()
    for path in stopped.iterdir():
        (finished_alone / path.name).write_bytes(path.read_bytes())
    again = torchrun(recipe, store_path, stopped)
    again.communicate(timeout=300)
    assert again.returncode == 0
    ours, theirs = (read_tensors(out / "last-training.safetensors") for out in (stopped, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    pretrain(PretrainRecipe.model_validate(RECIPE), store_path, finished_alone, "cpu")
    assert_same_curve(finished_alone, alone)


@pytest.mark.long
def test_a_killed_process_takes_the_others_with_it(recipe: Path, store_path: Path, tmp_path: Path) -> None:
    run = torchrun(recipe, store_path, tmp_path / "out")
    _, said = stop_when(run, tmp_path / "out", 1, lambda: psutil.Process(run.pid).children()[1].kill())
    assert run.returncode != 0
    assert "gzsurvey: process 0 of 2 has lost the others" in said or "SIGKILL" in said


def test_a_batch_that_cannot_be_shared_equally_is_one_line(store_path: Path, tmp_path: Path) -> None:
    for allowed in ((512, 8, 4), (2, 1, 1), (3, 1, 1), (4, 2, 1)):
        refuse_unequal_parts(*allowed)
    for refused in ((512, 3, 1), (8, 4, 2), (100, 1, 8)):
        with pytest.raises(TrainingError, match=r"makes no \d+ equal parts.*set batch_size to a multiple of"):
            refuse_unequal_parts(*refused)
    odd = PretrainRecipe.model_validate(RECIPE | {"batch_size": 15})
    with pytest.raises(TrainingError, match="15 galaxies makes no 2 equal parts"):
        Pretraining(odd, Store(store_path), tmp_path, CPU, distributed.World(CPU, 0, 2))


def test_torchrun_where_it_cannot_work_is_one_line(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(TrainingError, match="start with torchrun"):
        pretrain(PretrainRecipe.model_validate(RECIPE), store_path, tmp_path / "out", "cpu")
    with pytest.raises(TrainingError, match="finetune trains in one process"):
        finetune(FinetuneRecipe(), "none", tmp_path / "finetuned", None, None, "cpu")


def test_what_all_processes_run_into_is_said_by_the_first_alone() -> None:
    for error, code in ((TrainingError("collapsed"), 1), (KeyboardInterrupt(), 130)):
        with pytest.raises(type(error)), distributed.World(CPU, 0, 2).alike():
            raise error
        with pytest.raises(SystemExit) as left, distributed.World(CPU, 1, 2).alike():
            raise error
        assert left.value.code == code


SRUN = """
shift
for node in 1 2; do "$@" & pids+=($!); done
trap 'kill -TERM "${pids[@]}"' TERM
for pid in "${pids[@]}"; do
  while wait $pid; code=$?; kill -0 $pid 2>/dev/null; do :; done
done
exit $code
"""


def stand_in(folder: Path, name: str, lines: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{lines}")
    path.chmod(0o755)


@pytest.mark.long
def test_the_slurm_script_stops_in_time_and_repeats_itself(
    recipe: Path, store_path: Path, alone: Path, tmp_path: Path
) -> None:
    """Its launch lines as they stand, two "nodes" with one gloo process each."""
    script, out = ROOT / "docs" / "how-to" / "pretrain.sbatch", tmp_path / "out"
    asked = script.read_text()
    assert all(f"#SBATCH --{line}" in asked for line in ("nodes=2", "gpus-per-node=4", "signal=B:TERM@120", "requeue"))
    here = tmp_path / "bin"
    here.mkdir()
    stand_in(here, "scontrol", f'case $1 in show) echo localhost;; requeue) echo "$2" >> {tmp_path}/requeued;; esac\n')
    stand_in(here, "srun", SRUN)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    slurm |= {"SLURM_CPUS_PER_TASK": "1", "PROCESSES": "1", "DEVICE": "cpu", "PORT": str(free_port())}
    slurm["PATH"] = f"{here}{os.pathsep}{environment()['PATH']}"
    command = ["bash", str(script), str(recipe), str(store_path), str(out)]
    pipe = subprocess.PIPE
    job = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(**slurm))
    _, said = stop_when(job, out, 2, lambda: job.send_signal(signal.SIGTERM))
    assert (tmp_path / "requeued").read_text() == "7\n"
    assert said.count("gzsurvey: interrupted; repeat the command to go on") == 1
    again = subprocess.run(command, env=environment(**slurm, SLURM_RESTART_COUNT="1"), timeout=300)
    assert again.returncode == 0
    assert (tmp_path / "requeued").read_text() == "7\n"
    assert_same_curve(out, alone)
