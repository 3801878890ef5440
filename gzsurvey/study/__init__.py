"""The paper's experiment: which pretraining helps a new task, with how many labels, and how surely."""

from gzsurvey.study.run import study

__all__ = ["study"]
