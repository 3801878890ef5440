"""Pretraining on images and votes, and finetuning to a new task."""

from gzsurvey.training.finetune import finetune
from gzsurvey.training.pretrain import pretrain

__all__ = ["finetune", "pretrain"]
