"""Classify a survey: plan a run, work through its blocks, publish its products."""

from gzsurvey.survey.classify import classify
from gzsurvey.survey.job import Job
from gzsurvey.survey.merge import merge
from gzsurvey.survey.plan import Plan, dry_run, plan
from gzsurvey.survey.publish import publish
from gzsurvey.survey.run import run
from gzsurvey.survey.status import Summary, status
from gzsurvey.survey.verify import Verification, verify

__all__ = [
    "Job", "Plan", "Summary", "Verification", "classify", "dry_run", "merge", "plan", "publish", "run", "status",
    "verify",
]  # fmt: skip
