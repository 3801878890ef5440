"""The network that is exported: an encoder and the heads that read its embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gzsurvey.card import Calibration, ClassesHead, Head, LabelsHead, VotesHead
from gzsurvey.model.calibration import calibrator
from gzsurvey.model.dirichlet import VotesLayer
from gzsurvey.model.encoder import embedding_size

LOWEST_LOG_DEVIATION, HIGHEST_LOG_DEVIATION = -7.0, 3.0
"""A number is known to a thousandth of its spread at best, and to twenty times of it at worst."""


class ClassesLayer(nn.Module):
    """From an embedding to the logits of classes."""

    def __init__(self, embedding_size: int, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(embedding_size, classes)

    def logits(self, embedding: Tensor) -> Tensor:
        """Map (N, D) to logits (N, K)."""
        logits: Tensor = self.linear(self.dropout(embedding))
        return logits

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, D) to probabilities (N, K)."""
        return torch.softmax(self.logits(embedding), dim=1)


class LabelsLayer(ClassesLayer):
    """From an embedding to the logits of classes that do not exclude each other."""

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, D) to probabilities (N, K), each between 0 and 1 by itself."""
        return torch.sigmoid(self.logits(embedding))


class NumberLayer(nn.Module):
    """From an embedding to the mean and the standard deviation of a number.

    The network learns the number in units of its spread among the training labels.
    """

    offset: Tensor
    """Mean of the training labels."""
    scale: Tensor
    """Their standard deviation."""

    def __init__(self, embedding_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(embedding_size, 2)
        self.register_buffer("offset", torch.tensor(0.0))
        self.register_buffer("scale", torch.tensor(1.0))

    def standardised(self, embedding: Tensor) -> Tensor:
        """Map (N, D) to mean and natural logarithm of the standard deviation, in units of `scale`, (N, 2)."""
        values: Tensor = self.linear(self.dropout(embedding))
        mean, log_deviation = values.unbind(dim=1)
        return torch.stack([mean, log_deviation.clamp(LOWEST_LOG_DEVIATION, HIGHEST_LOG_DEVIATION)], dim=1)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, D) to mean and standard deviation, (N, 2)."""
        mean, log_deviation = self.standardised(embedding).unbind(dim=1)
        return torch.stack([mean * self.scale + self.offset, torch.exp(log_deviation) * self.scale], dim=1)


class Network(nn.Module):
    """An encoder with its heads.

    Parameters
    ----------
    encoder : nn.Module
        Images (N, 3, H, W) to embeddings (N, D).
    heads : sequence of Head
        What is read from the embedding.
    dropout : float
        Share of the embedding hidden from each head in training.
    calibration : mapping of str to Calibration, optional
        By output; what is not named stays as its head gives it.
    """

    def __init__(
        self,
        encoder: nn.Module,
        heads: Sequence[Head],
        dropout: float = 0.2,
        calibration: Mapping[str, Calibration] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding_size = embedding_size(encoder)
        self.heads = nn.ModuleDict({head.output: self._layer(head, dropout) for head in heads})
        known = calibration or {}
        self.calibrators = nn.ModuleDict(
            {head.output: calibrator(head, known[head.output]) for head in heads if head.output in known}
        )

    def _layer(self, head: Head, dropout: float) -> nn.Module:
        if isinstance(head, VotesHead):
            return VotesLayer(self.embedding_size, head.width, dropout)
        if isinstance(head, ClassesHead):
            return ClassesLayer(self.embedding_size, head.width, dropout)
        if isinstance(head, LabelsHead):
            return LabelsLayer(self.embedding_size, head.width, dropout)
        return NumberLayer(self.embedding_size, dropout)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Predict everything.

        Parameters
        ----------
        images : float32, shape (N, 3, H, W)
            Between 0 and 1, or flux where the encoder takes it.

        Returns
        -------
        dict of str to Tensor
            ``embedding`` (N, D), and one entry per head, named as its output:
            ``concentration`` (N, A) between 1 and 101, ``TASK_probability`` (N, K), ``TASK`` (N, 2).
            The same at every call in evaluation mode.
        """
        embedding: Tensor = self.encoder(images)
        outputs = {name: layer(embedding) for name, layer in self.heads.items()}
        calibrated = {name: layer(outputs[name]) for name, layer in self.calibrators.items()}
        return {"embedding": embedding} | outputs | calibrated
