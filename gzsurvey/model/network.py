"""The network that is exported: an encoder and the heads that read its embedding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gzsurvey.card import Head, VotesHead
from gzsurvey.model.dirichlet import VotesLayer
from gzsurvey.model.encoder import embedding_size


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
    """

    def __init__(self, encoder: nn.Module, heads: Sequence[Head], dropout: float = 0.2) -> None:
        super().__init__()
        self.encoder = encoder
        self.embedding_size = embedding_size(encoder)
        self.heads = nn.ModuleDict({head.output: self._layer(head, dropout) for head in heads})

    def _layer(self, head: Head, dropout: float) -> nn.Module:
        layer = VotesLayer if isinstance(head, VotesHead) else ClassesLayer
        return layer(self.embedding_size, head.width, dropout)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Predict everything.

        Parameters
        ----------
        images : float32, shape (N, 3, H, W)
            Between 0 and 1.

        Returns
        -------
        dict of str to Tensor
            ``embedding`` (N, D), and one entry per head, named as its output:
            ``concentration`` (N, A) between 1 and 101, ``TASK_probability`` (N, K).
            The same at every call in evaluation mode.
        """
        embedding: Tensor = self.encoder(images)
        return {"embedding": embedding} | {name: layer(embedding) for name, layer in self.heads.items()}
