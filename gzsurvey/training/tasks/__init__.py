"""Kinds of finetuned tasks: how labels are read, learnt, measured and calibrated.

Nothing outside asks for a task's kind.
"""

from gzsurvey.training.tasks.classes import ClassesTask
from gzsurvey.training.tasks.several import Tasks, read_tasks
from gzsurvey.training.tasks.task import Task

__all__ = ["ClassesTask", "Task", "Tasks", "read_tasks"]
