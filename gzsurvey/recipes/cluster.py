"""Where a run is worked on: ``pipelines/clusters/*.yaml``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gzsurvey.recipes.base import Section, load
from gzsurvey.resources import CLUSTERS, find

NVIDIA = Path("/proc/driver/nvidia/gpus")
"""The driver lists here what it offers."""
Line = Annotated[str, Field(pattern=r"^[^\n\r]+$")]


class SlurmJob(Section):
    """What one job asks SLURM for."""

    hours: Annotated[float, Field(gt=0.25, le=10_000)] = 4.0
    """Its time limit."""
    processes: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Workers in it, each with the profile's threads."""
    memory_gb: Annotated[float, Field(gt=0, le=10_000)] = 4.0
    """Of each process."""
    gpu: bool = False
    """Whether each process has a GPU."""
    partition: Line | None = None
    """Where to queue; by default SLURM's own."""
    account: Line | None = None
    """Who pays."""
    interface: Line | None = None
    """The network between driver and workers, e.g. ``ib0``."""
    options: tuple[Line, ...] = ()
    """More options, as behind ``#SBATCH``."""
    before: tuple[Line, ...] = ()
    """Shell commands before the work, e.g. ``module load cuda``."""

    @property
    def time_limit(self) -> str:
        """As SLURM reads it, ``HH:MM:SS``."""
        minutes = round(self.hours * 60)
        return f"{minutes // 60:02d}:{minutes % 60:02d}:00"

    @property
    def directives(self) -> tuple[str, ...]:
        """What goes behind ``#SBATCH`` of every job, array or not."""
        asked = {"--partition": self.partition, "--account": self.account}
        return (*(f"{name}={value}" for name, value in asked.items() if value), *self.options)


class RetrievalPool(Section):
    """Workers that fetch and prepare images for those that predict: where network nodes and GPU nodes differ."""

    resource: str = "RETRIEVAL"
    """They were started with ``--resources RETRIEVAL=1``."""
    inference_resource: str = "GPU"
    """Those that predict were started with ``--resources GPU=1``."""
    piece_rows: Annotated[int, Field(ge=1, le=16_384)] = 256
    """Images handed over at a time."""
    pieces_ahead: Annotated[int, Field(ge=1, le=256)] = 8
    """Pieces under way or waiting for each worker that predicts: bounds its memory, and is the back-pressure."""


class ClusterProfile(Section):
    """A place to work: this process, processes of this machine, jobs of a batch system, or a running scheduler."""

    kind: Literal["none", "local", "gpus", "slurm", "slurm-job", "address"]
    workers: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Processes; by default one per core, per GPU or per task of the job."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of each process: batches side by side on a CPU; with a GPU, those that fetch and prepare images."""
    tasks_per_worker: Annotated[int, Field(ge=1, le=10)] = 2
    """Blocks handed out at a time: one being worked on, the others waiting."""
    address: str | None = None
    wait_seconds: Annotated[float, Field(gt=0, le=604_800)] = 60.0
    """How long to wait for the first worker."""
    retrieval: RetrievalPool | None = None
    """Workers that only fetch; by default each fetches for itself."""
    stall_minutes: Annotated[float, Field(gt=0, le=1440)] = 10.0
    """Without a step forward of any worker, after which a run says which blocks stand still, and where."""
    devices: tuple[str, ...] | None = None
    """GPUs of kind ``gpus``, as in ``CUDA_VISIBLE_DEVICES``; by default all that this process sees."""
    job: SlurmJob | None = None
    """What is asked of SLURM."""

    @model_validator(mode="after")
    def _each_kind_has_its_own(self) -> ClusterProfile:
        if (self.kind == "address") != (self.address is not None):
            raise ValueError("'address' belongs to kind 'address', and only there")
        if (self.kind in ("slurm", "slurm-job")) != (self.job is not None):
            raise ValueError("'job' belongs to kinds 'slurm' and 'slurm-job', and only there")
        if self.devices is not None and self.kind != "gpus":
            raise ValueError("'devices' belongs to kind 'gpus'")
        if self.devices is not None and (not self.devices or len(set(self.devices)) < len(self.devices)):
            raise ValueError("'devices' names each GPU once")
        if self.kind == "slurm" and self.workers is None:
            raise ValueError("kind 'slurm' needs 'workers': how many processes to ask for")
        if self.kind == "slurm" and self.job is not None and self.job.gpu and self.job.processes > 1:
            raise ValueError("a job with a GPU has one process: 'processes: 1'")
        return self

    @property
    def expected_workers(self) -> int:
        """Processes to plan blocks for."""
        if self.kind == "none":
            return 1
        if self.kind == "gpus":
            return min(len(self.gpus) or 1, self.workers or len(self.gpus) or 1)
        if self.kind == "slurm-job":
            return self.workers or int(os.environ.get("SLURM_NTASKS", "0")) or cores()
        return self.workers or cores()

    @property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs of this machine that kind ``gpus`` works on, as in ``CUDA_VISIBLE_DEVICES``."""
        if self.devices is not None:
            return self.devices
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            return tuple(name.strip() for name in visible.split(",") if name.strip())
        return tuple(str(number) for number in range(len(list(NVIDIA.glob("*")))))


def load_cluster(text: str) -> ClusterProfile:
    """Return the cluster that a user means.

    Parameters
    ----------
    text : str
        ``none``, a shipped profile, a YAML file, or ``tcp://HOST:PORT`` of a running scheduler.

    Raises
    ------
    gzsurvey.errors.RecipeError
        There is no such profile, or a mistake in it.
    """
    if text == "none":
        return ClusterProfile(kind="none", threads=cores())
    if text.startswith(("tcp://", "tls://")):
        return ClusterProfile(kind="address", address=text)
    return load(find(CLUSTERS, text), ClusterProfile)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
