"""Pretraining and finetuning."""
