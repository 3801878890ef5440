"""Pretraining on images and votes, and finetuning to a new task."""

from gzsurvey.training.pretrain import pretrain

__all__ = ["pretrain"]
