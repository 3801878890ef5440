"""Volunteers' votes as a Dirichlet-Multinomial, many questions at once.

Letters: N galaxies, A answers, Q questions, M answers of the longest question, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gzsurvey.votes.tree import DecisionTree

LOWEST, RANGE = 1.0, 100.0
"""Concentrations lie between 1 and 101: below 1 a posterior has two peaks, far above 100 it is over-confident."""


def answer_table(tree: DecisionTree) -> Tensor:
    """Lay out which columns belong to which question.

    Returns
    -------
    int64, shape (Q, M)
        Columns of each question's answers; A where a question has fewer than M.
    """
    longest = max(len(q.answers) for q in tree.questions)
    table = torch.full((len(tree.questions), longest), tree.n_answers, dtype=torch.int64)
    for row, question in zip(table, tree.questions, strict=True):
        row[: len(question.answers)] = torch.arange(question.columns.start, question.columns.stop)
    return table


def dirichlet_multinomial_nll(votes: Tensor, concentrations: Tensor, table: Tensor) -> Tensor:
    """Negative log-likelihood of volunteers' votes, question by question.

    The multinomial coefficient is included. Computed in float32 whatever the autocast, in
    float64 if `concentrations` are.

    Parameters
    ----------
    votes : int, shape (N, A)
        Volunteers who chose each answer. All zero where a question was not asked.
    concentrations : float, shape (N, A)
        Dirichlet concentrations, > 0.
    table : int64, shape (Q, M)
        As `answer_table` makes it.

    Returns
    -------
    float, shape (N, Q)
        Exactly zero, with exactly zero gradient, where nobody was asked.
    """
    with torch.autocast(votes.device.type, enabled=False):
        a = concentrations if concentrations.dtype == torch.float64 else concentrations.float()
        k = votes.to(a.dtype)
        by_answer = torch.lgamma(k + a) - torch.lgamma(a) - torch.lgamma(k + 1.0)
        asked, total = _by_question(k, table), _by_question(a, table)
        whole = torch.lgamma(asked + 1.0) + torch.lgamma(total) - torch.lgamma(total + asked)
        return -(whole + _by_question(by_answer, table))


def votes_loss(votes: Tensor, concentrations: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the loss over questions and average it over galaxies with any vote.

    Parameters
    ----------
    votes, concentrations, table
        As for `dirichlet_multinomial_nll`.

    Returns
    -------
    loss : float, scalar
        Zero if nobody voted on any of the galaxies.
    labelled : int64, scalar
        Galaxies with any vote.
    """
    labelled = count_labelled(votes)
    total = dirichlet_multinomial_nll(votes, concentrations, table).sum()
    return total / labelled.clamp(min=1), labelled


def count_labelled(votes: Tensor) -> Tensor:
    """Count the galaxies of votes (N, A) with any vote: int64, scalar."""
    return (votes > 0).any(dim=1).sum()


def _by_question(values: Tensor, table: Tensor) -> Tensor:
    """Sum (N, A) over the answers of each question: (N, Q)."""
    padded = nn.functional.pad(values, (0, 1))
    return padded[:, table].sum(dim=2)


class VotesLayer(nn.Module):
    """From an embedding to Dirichlet concentrations."""

    def __init__(self, embedding_size: int, answers: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(embedding_size, answers)

    def forward(self, embedding: Tensor) -> Tensor:
        """Map (N, D) to concentrations (N, A) between 1 and 101."""
        logits: Tensor = self.linear(self.dropout(embedding))
        return torch.sigmoid(logits.float()) * RANGE + LOWEST
