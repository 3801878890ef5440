"""Places to work: GPUs of a machine, jobs of SLURM (a stand-in starts their processes), workers that do not fit."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

from gzsurvey import __version__
from gzsurvey.errors import ClusterError, RecipeError
from gzsurvey.recipes.base import parse
from gzsurvey.recipes.cluster import ClusterProfile, SlurmJob, load_cluster
from gzsurvey.survey import plan, publish, run
from gzsurvey.survey.cluster import fitness, open_pool, pool, slurm
from gzsurvey.survey.part import Part
from gzsurvey.survey.record import read_record
from survey import slurm as standin
from survey import tiny
from survey.processes import cluster, kill
from survey.test_run import shards

HERE = load_cluster("none")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture
def run_dir(model: Path, tmp_path: Path) -> Path:
    """Three blocks."""
    plan(tiny.job(model, tiny.write_targets(tmp_path / "targets.csv", 700)), tmp_path / "run", HERE)
    return tmp_path / "run"


@pytest.fixture
def undisturbed(run_dir: Path) -> Callable[[], None]:
    """Compare `run_dir`, finished, with a run in this process."""

    def compare() -> None:
        calm = run_dir.parent / "calm"
        plan(tiny.job(run_dir / "model.onnx", run_dir.parent / "targets.csv"), calm, HERE)
        run(calm, HERE)
        assert shards(run_dir) == shards(calm)

    return compare


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"kind": "slurm", "workers": 2}, "'job' belongs to"),
        ({"kind": "local", "job": {}}, "'job' belongs to"),
        ({"kind": "slurm", "job": {}}, "needs 'workers'"),
        ({"kind": "slurm", "workers": 2, "job": {"gpu": True, "processes": 2}}, "one process"),
        ({"kind": "local", "devices": ["0"]}, "belongs to kind 'gpus'"),
        ({"kind": "gpus", "devices": ["0", "0"]}, "each GPU once"),
        ({"kind": "slurm", "workers": 1, "job": {"before": ["a\nb"]}}, "job.before"),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused(content: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse(content, ClusterProfile, "mine.yaml")


def test_shipped_profiles_are_read() -> None:
    kinds = {name: load_cluster(name).kind for name in ("laptop", "gpus", "slurm", "slurm-job")}
    assert kinds == {"laptop": "local", "gpus": "gpus", "slurm": "slurm", "slurm-job": "slurm-job"}


def test_a_job_asks_for_what_its_workers_need() -> None:
    from dask_jobqueue.slurm import SLURMJob

    job = SlurmJob(hours=2, processes=4, memory_gb=3, partition="cpu", before=("module load python",))
    profile = ClusterProfile(kind="slurm", workers=8, threads=2, job=job)
    options = slurm.job_options(profile, job, Path("/data/a run"))
    del options["scheduler_options"], options["silence_logs"]
    script = SLURMJob("tcp://head:1", name="w", **options).job_script()
    directives = "\n".join(line[8:] for line in script.splitlines() if line.startswith("#SBATCH"))
    assert {"--cpus-per-task=8", "02:00:00", "cpu", "--output=/data/a run/logs/worker-%j.log"} <= set(
        shlex.split(directives)
    )
    exports = "export DASK_DISTRIBUTED__COMM__RETRY__COUNT=3\nexport DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False\n"
    assert f"{exports}module load python\n" in script
    worker = shlex.split(script.splitlines()[-1])
    assert worker[:4] == [sys.executable, "-m", "distributed.cli.dask_worker", "tcp://head:1"]
    following = dict(pairwise(worker))
    assert (following["--nworkers"], following["--nthreads"]) == ("4", "1")
    assert (following["--lifetime"], following["--lifetime-stagger"]) == ("6600s", "240s")
    assert "--resources" not in worker
    gpu = ClusterProfile(kind="slurm", workers=2, threads=8, job=SlurmJob(gpu=True))
    options = slurm.job_options(gpu, SlurmJob(gpu=True), Path("run"))
    assert "--gpus-per-task=1" in options["job_extra_directives"]
    assert options["worker_extra_args"][-2:] == ["--resources", "GPU=1"]


def test_a_step_starts_one_worker_in_each_task() -> None:
    job = SlurmJob(gpu=True, interface="ib0", options=("--mpi=none",))
    words = slurm.step_command(ClusterProfile(kind="slurm-job", threads=8, job=job), job, "tcp://head:1")
    head, worker = words[: words.index(sys.executable)], words[words.index(sys.executable) :]
    assert head == ["srun", "--kill-on-bad-exit=0", "--no-kill", "--cpus-per-task=8", "--gpus-per-task=1", "--mpi=none"]
    assert worker[1:4] == ["-m", "distributed.cli.dask_worker", "tcp://head:1"]
    assert worker[-4:] == ["--interface", "ib0", "--resources", "GPU=1"]


def test_what_is_missing_is_one_line(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ClusterError, match="finds no sbatch here"):
        run(run_dir, load_cluster("slurm"))
    with pytest.raises(ClusterError, match="works inside a SLURM job"):
        run(run_dir, load_cluster("slurm-job"))
    monkeypatch.setitem(sys.modules, "dask_jobqueue.slurm", None)
    with pytest.raises(ClusterError, match=r"pip install 'gzsurvey\[slurm\]'"):
        run(run_dir, load_cluster("slurm"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ClusterError, match="finds no GPU here"):
        run(run_dir, load_cluster("gpus"))


def test_jobs_that_slurm_refuses_are_one_line(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: nowhere' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ClusterError, match="SLURM refuses its jobs: sbatch: error: invalid partition"):
        run(run_dir, ClusterProfile(kind="slurm", workers=2, job=SlurmJob(partition="nowhere")))


def test_another_python_or_dask_is_named() -> None:
    def about(**other: str) -> dict[str, Any]:
        return {"packages": {"python": "3.11.2.final.0", "dask": "2026.8.0", "distributed": "2026.8.0"} | other}

    versions = {
        "client": about(), "scheduler": about(dask="2025.1.0"),
        "workers": {"a": about(python="3.11.9.final.0"), "b": about(python="3.12.1.final.0", distributed="2025.1.0")},
    }  # fmt: skip
    assert fitness.unlike(versions).startswith("has dask 2025.1.0, this process dask 2026.8.0")
    assert fitness.unlike(versions, "a") == ""
    assert "has python 3.12, distributed 2025.1.0, this process python 3.11" in fitness.unlike(versions, "b")


def test_another_onnxruntime_is_refused_unless_mixed_and_provenance_says_so(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    planned = read_record(run_dir).planned_on
    assert planned is not None
    assert (planned.provider, planned.precision) == ("CPUExecutionProvider", "fp32")
    assert planned.onnxruntime == onnxruntime.__version__
    run(run_dir, HERE, part=Part(1, 3))
    monkeypatch.setattr(onnxruntime, "__version__", "1.0")
    with pytest.raises(ClusterError, match=r"ONNX Runtime 1\.0, planned was .*; --mixed allows both"):
        run(run_dir, HERE)
    assert run(run_dir, HERE, mixed=True).finished == 3
    publish(run_dir)
    said = json.dumps(json.loads((run_dir / "provenance.json").read_text()))
    assert "1.0" in said
    assert read_record(run_dir).mixed


@pytest.mark.long
def test_each_gpu_has_a_process_that_sees_no_other(run_dir: Path, undisturbed: Callable[[], None]) -> None:
    profile = ClusterProfile(kind="gpus", devices=("7", "GPU-ab"), wait_seconds=120)
    assert profile.expected_workers == 2
    with open_pool(profile, run_dir) as workers:
        assert isinstance(workers, pool.DaskPool)
        client = workers.place.client
        client.wait_for_workers(2, timeout=120)
        seen = client.run(lambda: __import__("os").environ["CUDA_VISIBLE_DEVICES"])
        assert sorted(seen.values()) == ["7", "GPU-ab"]
        kept = client.run(lambda dask_worker: sorted(dask_worker.periodic_callbacks))
        assert not any("profile" in name for names in kept.values() for name in names)
        about = workers.place.workers.values()
        assert [(one["nthreads"], one["resources"]) for one in about] == [(1, {"GPU": 1})] * 2
    assert run(run_dir, profile).finished == 3
    undisturbed()


@pytest.mark.long
def test_jobs_are_submitted_replaced_and_cancelled(
    run_dir: Path, undisturbed: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = standin.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", environment["PATH"])
    monkeypatch.setattr(slurm, "LOST_SECONDS", 1.0)
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.2)
    job = SlurmJob(processes=2, memory_gb=1)
    profile = ClusterProfile(kind="slurm", workers=2, wait_seconds=120, job=job)
    with open_pool(profile, run_dir) as workers:
        assert isinstance(workers, pool.DaskPool)
        workers.place.client.wait_for_workers(2, timeout=120)
        workers.check()
        subprocess.run(["scancel", "1"], check=True)

        def replaced() -> bool:
            workers.check()
            return (tmp_path / "bin/job-2.json").exists() and len(workers.place.workers) == 2

        wait_for(replaced, "the job that ended was not replaced")
    assert not (tmp_path / "bin/job-3.json").exists()
    wait_for(lambda: not alive(tmp_path / "bin/job-2.json"), "the last job was not cancelled")
    assert list((run_dir / "logs").glob("worker-*.log"))
    assert run(run_dir, profile).finished == 3
    undisturbed()


def alive(job: Path) -> bool:
    return any(Path(f"/proc/{pid}").exists() for pid in json.loads(job.read_text())["runners"])


@pytest.mark.long
def test_everything_inside_one_job(run_dir: Path, undisturbed: Callable[[], None], tmp_path: Path) -> None:
    environment = standin.install(tmp_path / "bin") | {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{environment['PATH']}"
    script = ROOT / "docs/how-to/survey.sbatch"
    done = subprocess.run(["bash", str(script), str(run_dir)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 blocks finished" in done.stdout
    hosts = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(hosts) == 3
    log = (run_dir / "logs/workers-7.log").read_text()
    assert log.count("Registered to:") == 2
    undisturbed()


ODD = {
    "old": "import gzsurvey; gzsurvey.__version__ = '0.0.1'",
    "bare": """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "gzsurvey":
            raise ModuleNotFoundError("No module named 'gzsurvey'")
sys.meta_path.insert(0, Absent())
""",
    "far": "import gzsurvey.outputs.paths as p; p.RunPaths.plan = property(lambda self: self.run / 'elsewhere')",
    "other": "import onnxruntime; onnxruntime.__version__ = '1.0'",
}
SAID = {
    "old": f"has gzsurvey 0.0.1, this is {__version__}; install the same",
    "bare": f'lacks gzsurvey {__version__} or a package of it (ModuleNotFoundError("No module',
    "far": "RUN must be on a shared disk",
    "other": "--mixed allows both",
}


@pytest.mark.slow
def test_workers_that_cannot_do_the_work_are_named_and_sent_away(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pool, "LOOK_SECONDS", 0.2)
    for name, code in ODD.items():
        (tmp_path / f"{name}.py").write_text(code + "\n")
    with cluster(tmp_path, {"one": (), "two": ()}) as running:
        profile = ClusterProfile(kind="address", address=running.address)
        with open_pool(profile, run_dir) as workers:
            assert isinstance(workers, pool.DaskPool)
            client = workers.place.client
            client.wait_for_workers(2, timeout=120)

            def shares() -> set[int]:
                workers.check()
                told = client.run(
                    lambda: __import__("gzsurvey.cutouts.remote.budget", fromlist=["HOSTS"]).HOSTS._workers
                )
                return set(told.values())

            wait_for(lambda: shares() == {2}, "rates were not split")
            kill(running.workers.pop("two"))
            wait_for(lambda: shares() == {1}, "who was left did not get the whole rate")
            for name in ODD:
                running.start_worker(name, "--preload", str(tmp_path / f"{name}.py"))
            said = ""

            def sent_away() -> bool:
                nonlocal said
                workers.check()
                said += capsys.readouterr().err
                return said.count("it is sent away") == len(ODD) and len(workers.place.workers) == 1

            wait_for(sent_away, "odd workers stayed")
            assert all(words in said for words in SAID.values()), said
        running.start_worker("again", "--preload", str(tmp_path / "far.py"))
        with Client(running.address) as client:
            client.wait_for_workers(2, timeout=120)
        with pytest.raises(ClusterError, match="RUN must be on a shared disk"):
            run(run_dir, profile)
