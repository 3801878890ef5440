"""Where blocks are worked on: this process, processes of this machine, jobs of a batch system, a running scheduler."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gzsurvey.cutouts.remote.budget import HOSTS
from gzsurvey.progress import Progress
from gzsurvey.recipes.cluster import ClusterProfile
from gzsurvey.survey.cluster import places, slurm
from gzsurvey.survey.cluster.fitness import refuse_this_process, refuse_unfit
from gzsurvey.survey.cluster.pool import DaskPool, Pool, SerialPool
from gzsurvey.survey.part import WHOLE, Part

__all__ = ["Pool", "open_pool"]

START = {
    "address": places.running,
    "local": places.local,
    "gpus": places.one_per_gpu,
    "slurm": slurm.jobs,
    "slurm-job": slurm.inside_a_job,
}
NOISY = ("distributed", "distributed.client", "tornado.application", "tornado.general", "asyncio")
"""Loggers that print tracebacks of their own when a scheduler goes; `DaskPool.check` says it in a line."""


@contextmanager
def open_pool(profile: ClusterProfile, run: Path, part: Part = WHOLE) -> Iterator[Pool]:
    """Start or reach the workers of a profile, and let them go afterwards.

    Parameters
    ----------
    profile : ClusterProfile
        Where to work.
    run : Path
        The RUN that every worker must see.
    part : Part
        Which part of it this process works on.

    Raises
    ------
    gzsurvey.errors.ClusterError
        There is no scheduler, there are no workers, or they cannot do the work.
    """
    if profile.kind == "none":
        refuse_this_process(run)
        HOSTS.share(part.of)
        yield SerialPool(part.of)
        return
    import dask
    import distributed  # noqa: F401 - its settings must be there before some are changed for a while

    quiet = {
        "distributed.worker.daemon": True,
        "distributed.comm.retry.count": places.RETRIES,
        "distributed.admin.log-length": 100,
        "distributed.worker.profile.enabled": False,
    }
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with dask.config.set(quiet), START[profile.kind](profile, run) as place:
        place.wait_for_worker(profile.wait_seconds)
        pool = DaskPool(place, profile, run)
        pool.wait_for_both(profile.wait_seconds)
        refuse_unfit(place.client, place.name, run, pool.predicting)
        pool.check()
        if place.dashboard:
            Progress.say(f"dashboard: {place.dashboard}")
        yield pool
