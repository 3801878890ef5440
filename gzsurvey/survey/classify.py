"""`plan`, `run` and `publish` in one."""

from __future__ import annotations

from pathlib import Path

from gzsurvey.recipes.cluster import ClusterProfile
from gzsurvey.survey.job import Job
from gzsurvey.survey.plan import plan
from gzsurvey.survey.publish import publish
from gzsurvey.survey.run import run as work
from gzsurvey.survey.status import Summary


def classify(job: Job, run: Path, cluster: ClusterProfile, mixed: bool = False) -> Summary:
    """Classify every target: plan the RUN, work through its blocks, publish its products.

    Safe to repeat: what is finished stays.

    Parameters
    ----------
    job : Job
        Model, targets, source and options.
    run : Path
        The RUN directory.
    cluster : ClusterProfile
        Where to work.
    mixed : bool
        Let workers with another provider or ONNX Runtime than planned work too; provenance says so.

    Raises
    ------
    gzsurvey.errors.RunIncomplete
        Blocks failed; the rest is safe.
    gzsurvey.errors.GZSurveyError
        The job cannot work.
    """
    plan(job, run, cluster)
    summary = work(run, cluster, mixed=mixed)
    publish(run, job.campaigns or None)
    return summary
