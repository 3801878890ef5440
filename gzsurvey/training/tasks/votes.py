"""Votes of volunteers on a question tree.

Letters: N labelled galaxies, n some of them, A answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gzsurvey.card import VotesCalibration, VotesHead
from gzsurvey.errors import TableError
from gzsurvey.model.dirichlet import VotesLayer, answer_table, dirichlet_multinomial_nll
from gzsurvey.recipes.columns import ColumnMap
from gzsurvey.recipes.training import FinetuneTask
from gzsurvey.training.calibrate import calibrate_votes
from gzsurvey.training.metrics import vote_metrics
from gzsurvey.training.probe import fit_votes
from gzsurvey.training.tasks.task import Floats, Rows, Task
from gzsurvey.votes.counts import VoteTable, counts_from_table
from gzsurvey.votes.fractions import expected_fractions
from gzsurvey.votes.tree import DecisionTree


@dataclass(frozen=True)
class VotesTask(Task[VotesLayer]):
    """`target` is the number of volunteers who gave each answer: int32, shape (N, A), 0 where not asked."""

    tree: DecisionTree

    @classmethod
    def read(cls, recipe: FinetuneTask, frame: pd.DataFrame, where: str) -> Self:
        """Read one column of counts for each answer, ``{question}{suffix}_{answer}``."""
        assert recipe.campaign is not None
        tree = DecisionTree.load(recipe.campaign)
        counts = read_votes(frame, tree, where, recipe.campaign)
        return cls(recipe, where, counts, np.ones(len(frame)), tree)

    @property
    def given(self) -> NDArray[np.bool_]:
        """Those with any vote."""
        return np.asarray((self.target > 0).any(axis=1))

    @property
    def strata(self) -> Rows:
        """One: votes have no classes."""
        return np.zeros(len(self.target), dtype=np.int64)

    @property
    def described(self) -> dict[str, Any]:
        """The campaign with most of the votes."""
        totals = dict.fromkeys(self.tree.campaigns, 0)
        for question in self.tree.questions:
            totals[question.campaign] += int(self.target[:, question.columns].sum())
        return {"most_voted_campaign": max(totals, key=lambda name: totals[name])}

    def lacking(self, rows: Rows, least: int) -> str | None:
        """Count galaxies with votes."""
        count = len(self.labelled(rows))
        return f"{count} galaxies have votes" if count < least else None

    def summary(self, rows: Rows) -> str:
        """Count galaxies, votes and questions that were asked."""
        asked = sum(bool(self.target[rows][:, question.columns].any()) for question in self.tree.questions)
        votes = int(self.target[rows].sum(dtype=np.int64))
        return f"{len(self.labelled(rows))} galaxies with {votes:,} votes on {asked} questions"

    def head(self, rows: Rows) -> VotesHead:  # noqa: ARG002 - the tree says all
        """State the question tree."""
        return VotesHead(questions=tuple(self.tree.to_json()))

    def losses(self, layer: VotesLayer, embedding: Tensor, target: Tensor) -> Tensor:
        """Dirichlet-Multinomial, summed over questions."""
        table = self._table.to(embedding.device)
        return dirichlet_multinomial_nll(target, layer(embedding), table).sum(dim=1)

    def fit(self, layer: VotesLayer, views: NDArray[np.float32], rows: Rows, seed: int) -> None:
        """Minimise the same loss with a penalty on the weights."""
        weight, bias = fit_votes(views, self.target[rows], self.weight[rows], self.tree, seed)
        with torch.no_grad():
            layer.linear.weight.copy_(torch.from_numpy(weight))
            layer.linear.bias.copy_(torch.from_numpy(bias))

    def metrics(self, predicted: Floats, rows: Rows) -> dict[str, float]:
        """Measure the loss and the error of vote fractions."""
        return vote_metrics(predicted, self.target[rows], self.weight[rows], self.tree)

    def calibrate(self, predicted: Floats, rows: Rows) -> VotesCalibration | None:
        """Fit certainty, sharpness and shifts of each question."""
        return calibrate_votes(predicted, self.target[rows], self.tree)

    def columns(self, predicted: Floats, rows: Rows) -> dict[str, NDArray[Any]]:
        """Votes for each answer, and its expected fraction."""
        names, fractions = self.tree.vote_columns, expected_fractions(predicted, self.tree)
        votes = {name: self.target[rows, a] for a, name in enumerate(names)}
        return votes | {f"{name}_f": fractions[:, a] for a, name in enumerate(names)}

    @cached_property
    def _table(self) -> Tensor:
        return answer_table(self.tree)


def read_votes(frame: pd.DataFrame, tree: DecisionTree, where: str, campaign: str) -> NDArray[np.int32]:
    """Read columns of counts, ``{question}{suffix}_{answer}``.

    Parameters
    ----------
    frame : DataFrame
        The table.
    tree : DecisionTree
        Its questions; those without a column are taken as not asked.
    where, campaign : str
        Names of table and tree, for errors.

    Returns
    -------
    int32, shape (N, A)

    Raises
    ------
    gzsurvey.errors.TableError
        Votes on a question or answer that the tree lacks, no votes at all, or no counts; names columns or rows.
    """
    _refuse_strangers(frame, tree, where, campaign)
    return counts_from_table(VoteTable(frame, ColumnMap(), where), tree)


def _refuse_strangers(frame: pd.DataFrame, tree: DecisionTree, where: str, campaign: str) -> None:
    """Refuse votes on questions or answers that the tree lacks, known by the campaign's suffix."""
    questions = {question.name: question for question in tree.questions}
    suffixes = tuple({question.suffix for question in tree.questions} - {""})
    for column in map(str, frame.columns):
        name, separator, answer = column.rpartition("_")
        if not separator or not suffixes or not name.endswith(suffixes):
            continue
        if name not in questions:
            raise TableError(where, f"column {column!r} holds votes on a question that {campaign!r} lacks; it has "
                             f"{', '.join(questions)}")  # fmt: skip
        question = questions[name]
        totals = ColumnMap().total_columns(question.label, question.suffix)
        if answer not in question.answers and column not in totals:
            raise TableError(where, f"column {column!r} holds votes for an answer that {campaign!r} lacks; {name!r} "
                             f"has {', '.join(question.answers)}")  # fmt: skip
