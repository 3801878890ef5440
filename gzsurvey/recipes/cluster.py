"""Where a run is worked on: ``pipelines/clusters/*.yaml``."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gzsurvey.recipes.base import Section, load
from gzsurvey.resources import CLUSTERS, find


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
    """A place to work: this process, a Dask cluster on this machine, or a running scheduler."""

    kind: Literal["none", "local", "address"]
    workers: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Processes; by default as many as this machine has cores."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads of each process: of the model on a CPU; with a GPU, those that fetch and prepare images for it."""
    tasks_per_worker: Annotated[int, Field(ge=1, le=10)] = 2
    """Blocks handed out at a time: one being worked on, the others waiting."""
    address: str | None = None
    wait_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """How long to wait for the first worker."""
    retrieval: RetrievalPool | None = None
    """Workers that only fetch; by default each fetches for itself."""
    stall_minutes: Annotated[float, Field(gt=0, le=1440)] = 10.0
    """Without a step forward of any worker, after which a run says which blocks stand still, and where."""

    @model_validator(mode="after")
    def _address_belongs_to_its_kind(self) -> ClusterProfile:
        if (self.kind == "address") != (self.address is not None):
            raise ValueError("'address' belongs to kind 'address', and only there")
        return self

    @property
    def expected_workers(self) -> int:
        """Processes to plan blocks for."""
        if self.kind == "none":
            return 1
        return self.workers or cores()


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
