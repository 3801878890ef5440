"""A job array that `plan --sbatch` writes, run for real by a stand-in of SLURM."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from gzsurvey.recipes.cluster import ClusterProfile, SlurmJob, load_cluster
from gzsurvey.survey import ledger, plan, publish, run, status
from survey import slurm, tiny
from survey.test_run import shards

HERE = load_cluster("none")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("model") / "small.onnx")


def directives(script: Path) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]


def test_the_script_asks_for_what_one_worker_of_the_profile_has(model: Path, tmp_path: Path) -> None:
    job = tiny.job(model, tiny.write_targets(tmp_path / "targets.csv", 700))
    planned = plan(job, tmp_path / "run", HERE, sbatch=3)
    assert planned.script is not None
    assert f"sbatch {planned.script}" in str(planned)
    asked = directives(planned.script)
    assert {"--array=0-2", "--cpus-per-task=1", "--mem=4000M", "--time=04:00:00", "--ntasks=1"} <= set(asked)
    assert {line.split()[0] for line in asked} >= {"--requeue", "--signal=B:TERM@120"}
    assert not any("gpu" in line for line in asked)
    gpu = SlurmJob(hours=1.5, gpu=True, memory_gb=16, partition="gpu", account="me", before=("module load cuda",))
    again = plan(job, tmp_path / "run", ClusterProfile(kind="slurm", workers=1, threads=8, job=gpu), sbatch=2)
    assert again.script is not None
    asked = directives(again.script)
    assert {"--array=0-1", "--cpus-per-task=8", "--mem=16000M", "--time=01:30:00"} <= set(asked)
    assert {"--gpus-per-task=1", "--partition=gpu", "--account=me"} <= set(asked)
    assert "\nmodule load cuda\n" in again.script.read_text()
    assert subprocess.run(["bash", "-n", str(again.script)]).returncode == 0


def wait_for(condition, what: str, seconds: float = 120) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.mark.slow
def test_an_array_survives_its_time_limit_and_equals_an_undisturbed_run(model: Path, tmp_path: Path) -> None:
    table = tiny.write_targets(tmp_path / "many.csv", 5_000)
    job = tiny.job(model, table, recipe=tiny.recipe(preview_targets=4, check_rows=16, block_rows=256))
    plan(job, tmp_path / "calm", HERE)
    run(tmp_path / "calm", HERE)
    publish(tmp_path / "calm")
    run_dir = tmp_path / "a 100% 'odd' $(place)" / "run"
    planned = plan(job, run_dir, HERE, sbatch=2)
    environment = slurm.install(tmp_path / "bin")
    submitted = subprocess.run(
        ["sbatch", "--parsable", str(planned.script)], env=environment, capture_output=True, text=True, check=True
    )
    assert submitted.stdout == "1\n"
    options = json.loads((tmp_path / "bin/job-1.json").read_text())["options"]
    assert options["--output"].replace("%%", "%") == f"{run_dir.resolve()}/logs/part-%a.log"
    wait_for(lambda: len(ledger.read_entries(run_dir)) >= 2, "the parts started no work")
    os.kill(int((tmp_path / "bin/pid-1001").read_text()), signal.SIGTERM)
    ended = [tmp_path / "bin" / f"ended-{task}" for task in ("1000", "1001")]
    wait_for(lambda: all(path.exists() for path in ended), (run_dir / "logs/part-1.log").read_text())
    assert [path.read_text() for path in ended] == ["0 0", "0 1"]
    assert "interrupted; repeat the command to go on" in (run_dir / "logs/part-1.log").read_text()
    assert status(run_dir).finished == 20
    assert shards(run_dir) == shards(tmp_path / "calm")
    assert planned.script is not None
    hint = next(line for line in planned.script.read_text().splitlines() if line.startswith("#   publish: "))
    *_, dependency, wrap = shlex.split(hint.removeprefix("#   publish: "))
    assert dependency == "--dependency=afterok:$job"
    subprocess.run(["bash", "-c", wrap.removeprefix("--wrap=")], check=True, capture_output=True)
    calm, array = (Table.read(place / "catalogue.fits") for place in (tmp_path / "calm", run_dir))
    for name in calm.colnames:
        one, two = (np.ma.filled(np.ma.asarray(table[name])) for table in (calm, array))
        assert np.array_equal(one, two, equal_nan=one.dtype.kind == "f"), name
