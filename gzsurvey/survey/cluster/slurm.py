"""Workers in jobs of SLURM: jobs that a driver asks for, or the tasks of the job that the driver itself runs in."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gzsurvey.errors import ClusterError
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.recipes.cluster import ClusterProfile, SlurmJob
from gzsurvey.survey.cluster.places import PAGES, RETRIES, Place, deaf_to_ctrl_c, say

LEAVE_BEFORE_S = 600
"""A worker leaves in order so long before its job's time is up,"""
STAGGER_S = 240
"""give or take this, so that not all leave together."""
LOST_SECONDS = 60.0
"""A job whose workers have been away for so long has ended."""
ENVIRONMENT = {
    "DASK_DISTRIBUTED__COMM__RETRY__COUNT": str(RETRIES),
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
}
"""Of workers: Dask's profiler keeps what it saw in the last 1,000 seconds, some 60 MB."""
STOP_SECONDS = 10.0
ASK_SECONDS = 60.0
"""Between questions to SLURM."""


@contextmanager
def jobs(profile: ClusterProfile, run: Path) -> Iterator[Place]:
    """Ask SLURM for jobs with workers, and for others when these end."""
    from distributed import Client

    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError:
        raise ClusterError("--cluster slurm", "needs dask-jobqueue: pip install 'gzsurvey[slurm]'") from None
    if shutil.which("sbatch") is None:
        raise ClusterError("--cluster slurm", "finds no sbatch here; start it on a node that submits jobs")
    assert profile.job is not None
    number = -(-profile.expected_workers // profile.job.processes)
    RunPaths(run).logs.mkdir(exist_ok=True)
    with SLURMCluster(**job_options(profile, profile.job, run)) as cluster:
        keeper = JobKeeper(cluster, number)
        keeper.submit()
        with Client(cluster) as client:  # type: ignore[no-untyped-call]
            yield Place(client, "the SLURM jobs", f"see 'squeue --me' and {RunPaths(run).logs}", keeper)


def job_options(profile: ClusterProfile, job: SlurmJob, run: Path) -> dict[str, Any]:
    """Return the arguments of ``dask_jobqueue.SLURMCluster``.

    Every worker process runs one block at a time (one Dask thread), whatever the threads of its model.
    """
    log = shlex.quote(f"{str(RunPaths(run.resolve()).logs).replace('%', '%%')}/worker-%j.log")
    directives = [f"--output={log}", f"--error={log}", *(["--gpus-per-task=1"] if job.gpu else []), *job.options]
    exports = [f"export {name}={value}" for name, value in ENVIRONMENT.items()]
    lifetime = round(job.hours * 3600) - LEAVE_BEFORE_S
    lifetimes = ["--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{min(STAGGER_S, lifetime // 2)}s"]
    return {
        "job_name": "gzsurvey",
        "queue": job.partition,
        "account": job.account,
        "walltime": job.time_limit,
        "cores": job.processes,
        "processes": job.processes,
        "job_cpu": job.processes * profile.threads,
        "memory": f"{round(job.processes * job.memory_gb * 1000)}MB",
        "interface": job.interface,
        "python": shlex.quote(sys.executable),
        "job_script_prologue": [*exports, *job.before],
        "job_extra_directives": directives,
        "worker_extra_args": [*lifetimes, "--no-dashboard", *_resources(job)],
        "scheduler_options": PAGES,
        "silence_logs": logging.CRITICAL,
    }


def _resources(job: SlurmJob) -> list[str]:
    return ["--resources", "GPU=1"] if job.gpu else []


@dataclass
class JobKeeper:
    """Keeps a number of jobs submitted: those that end are replaced.

    ``SpecCluster`` itself replaces none, and Dask's ``adapt`` would cancel idle ones.
    """

    cluster: Any
    """A ``SLURMCluster``."""
    number: int
    _seen: dict[str, float] = field(default_factory=dict)
    """When a worker of each job was last there, by the job's name."""
    _asked: float = field(default_factory=time.monotonic)
    _refused: float = -ASK_SECONDS

    def submit(self) -> None:
        """Ask for as many jobs as are missing.

        Raises
        ------
        gzsurvey.errors.ClusterError
            SLURM refuses.
        """
        self.cluster.scale(jobs=self.number)
        try:
            self.cluster.sync(_settled, self.cluster)
        except RuntimeError as error:
            self._give_up_refused()
            said = [line for line in str(error).splitlines() if line.strip()]
            raise ClusterError("--cluster slurm", f"SLURM refuses its jobs: {said[-1] if said else error}") from None

    def _give_up_refused(self) -> None:
        """Mark jobs that were never submitted: a cluster with others than ended ones does not close."""
        from distributed.core import Status

        for job in self.cluster.workers.values():
            if job.job_id is None:
                job.status = Status.failed

    def keep(self, names: Collection[str]) -> None:
        """Replace the jobs whose workers have gone."""
        now = time.monotonic()
        lost = [job for job in list(self.cluster.worker_spec) if self._is_lost(job, names, now)]
        if lost and now - self._refused > ASK_SECONDS:
            for job in lost:
                self._seen.pop(job, None)  # the next job may bear its name
            self.cluster.sync(self.cluster.scale_down, lost)
            try:
                self.submit()
            except ClusterError as refusal:
                self._refused = now
                say(f"{refusal}; asking again in {ASK_SECONDS:.0f} s")
        if not names and now - self._asked > ASK_SECONDS and not self._queued():
            raise ClusterError("--cluster slurm", "its jobs have ended without a worker; see RUN/logs")

    def _is_lost(self, job: str, names: Collection[str], now: float) -> bool:
        if any(f"{job}{suffix}" in names for suffix in self.cluster.worker_spec[job].get("group", [""])):
            self._seen[job] = now
        was_refused = job in self.cluster.workers and self.cluster.workers[job].job_id is None
        return was_refused or now - self._seen.get(job, now) > LOST_SECONDS

    def _queued(self) -> bool:
        """Ask SLURM whether a job is waiting or running."""
        self._asked = time.monotonic()
        numbers = [str(job.job_id) for job in self.cluster.workers.values()]
        command = ["squeue", "--noheader", f"--jobs={','.join(numbers)}"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=60)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            return True  # it does not say
        return bool(answer.stdout.strip()) or (answer.returncode != 0 and "Invalid job id" not in answer.stderr)


async def _settled(cluster: Any) -> None:
    """Wait until all jobs are submitted; a cluster keeps it to itself when one is not, the job says so."""
    await cluster
    for job in list(cluster.workers.values()):
        await job


@contextmanager
def inside_a_job(profile: ClusterProfile, run: Path) -> Iterator[Place]:
    """Start a scheduler in this process, and a worker in each task of the job that it runs in."""
    from distributed import Client, Scheduler, SpecCluster

    if "SLURM_JOB_ID" not in os.environ or shutil.which("srun") is None:
        raise ClusterError("--cluster slurm-job", "works inside a SLURM job; submit one that runs this command")
    assert profile.job is not None
    RunPaths(run).logs.mkdir(exist_ok=True)
    options = {"interface": profile.job.interface} | PAGES
    scheduler = {"cls": Scheduler, "options": options}
    with (
        SpecCluster({}, scheduler, silence_logs=logging.CRITICAL) as cluster,  # type: ignore[no-untyped-call]
        _step(profile, profile.job, cluster.scheduler_address, run) as keeper,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        yield Place(client, "this job", f"see {keeper.log}", keeper)


def step_command(profile: ClusterProfile, job: SlurmJob, address: str) -> list[str]:
    """Return the ``srun`` that starts a worker in each task of the job."""
    tasks = [] if profile.workers is None else [f"--ntasks={profile.workers}"]
    asked = [*tasks, f"--cpus-per-task={profile.threads}", *(["--gpus-per-task=1"] if job.gpu else []), *job.options]
    interface = ["--interface", job.interface] if job.interface else []
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--memory-limit", "0"]
    # A worker or node that dies must not end the others.
    return [
        "srun",
        "--kill-on-bad-exit=0",
        "--no-kill",
        *asked,
        *worker,
        "--no-dashboard",
        *interface,
        *_resources(job),
    ]


@dataclass(frozen=True)
class StepKeeper:
    """Watches the step that holds the workers."""

    step: subprocess.Popen[bytes]
    log: Path

    def keep(self, _names: Collection[str]) -> None:
        """Say so where the step has ended."""
        if self.step.poll() is not None:
            problem = f"its workers have ended (srun: exit code {self.step.returncode}); see {self.log}"
            raise ClusterError("--cluster slurm-job", problem)


@contextmanager
def _step(profile: ClusterProfile, job: SlurmJob, address: str, run: Path) -> Iterator[StepKeeper]:
    log = RunPaths(run).logs / f"workers-{os.environ['SLURM_JOB_ID']}.log"
    with log.open("ab") as out, deaf_to_ctrl_c():
        step = subprocess.Popen(  # noqa: S603
            step_command(profile, job, address), stdout=out, stderr=out, env=os.environ | ENVIRONMENT
        )
    try:
        yield StepKeeper(step, log)
    finally:
        step.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            step.wait(STOP_SECONDS)
        step.kill()
