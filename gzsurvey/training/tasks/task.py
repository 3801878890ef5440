"""What every kind of task can do.

Letters: N labelled galaxies, n some of them, V views of each, D embedding, W columns of the output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gzsurvey.card import Calibration, Head
from gzsurvey.errors import TableError
from gzsurvey.recipes.training import FinetuneTask

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Layer = TypeVar("Layer", bound=nn.Module)
TWO = "at least two are needed (one to learn, one to check)"


@dataclass(frozen=True)
class Task(ABC, Generic[Layer]):
    """The labels of one task, and all that depends on its kind.

    `rows` are always rows of the labelled galaxies; methods that measure or learn from them,
    except `loss`, expect those that are `known`.
    """

    recipe: FinetuneTask
    where: str
    """The table, for errors."""
    target: NDArray[Any]
    """First axis N; what follows, and what stands for an unknown label, depends on the kind."""
    weight: Floats
    """Of each galaxy in the loss, shape (N,)."""

    @classmethod
    @abstractmethod
    def read(cls, recipe: FinetuneTask, frame: pd.DataFrame, where: str) -> Self:
        """Read the labels of a table; empty ones are unknown, all weights are 1.

        Raises
        ------
        gzsurvey.errors.TableError
            Columns are missing or hold something else; names rows or values.
        """

    @property
    @abstractmethod
    def given(self) -> NDArray[np.bool_]:
        """Which galaxies have a label, shape (N,)."""

    @property
    @abstractmethod
    def strata(self) -> Rows:
        """Groups from which validation galaxies are drawn alike, shape (N,)."""

    @abstractmethod
    def lacking(self, rows: Rows, least: int) -> str | None:
        """Say what `rows` have fewer of than `least`, or are too equal in; None: nothing."""

    @abstractmethod
    def summary(self, rows: Rows) -> str:
        """Say how many labels of what there are."""

    @abstractmethod
    def head(self, rows: Rows) -> Head:
        """Describe the output, learnt from `rows`."""

    @abstractmethod
    def losses(self, layer: Layer, embedding: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood of the labels of n galaxies: float, shape (n,).

        Parameters
        ----------
        layer : nn.Module
            The task's, of the network.
        embedding : float, shape (n, D)
            What it reads.
        target : Tensor, first axis n
            As `Task.target`, known.
        """

    @abstractmethod
    def fit(self, layer: Layer, views: NDArray[np.float32], rows: Rows, seed: int) -> None:
        """Put a linear head on a frozen encoder into `layer`.

        Parameters
        ----------
        layer : nn.Module
            The task's, of the network.
        views : float32, shape (V, n, D)
            Embeddings of `rows`: the images as they are, then augmented copies.
        rows : int64, shape (n,)
            Training galaxies.
        seed : int
            Of the cross-validation that chooses the regularisation.
        """

    @abstractmethod
    def metrics(self, predicted: Floats, rows: Rows) -> dict[str, float]:
        """Measure predictions (n, W) of `rows`; ``loss`` is their weighted mean negative log-likelihood."""

    @abstractmethod
    def calibrate(self, predicted: Floats, rows: Rows) -> Calibration | None:
        """Fit a calibration of uncalibrated predictions (n, W) of `rows`; None: too few."""

    @abstractmethod
    def columns(self, predicted: Floats, rows: Rows) -> dict[str, NDArray[Any]]:
        """Labels and predictions (n, W) of any `rows` as columns of a table, empty where not known."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which galaxies have a label that counts, of a weight above 0, shape (N,)."""
        return self.given & (self.weight > 0)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.recipe.task

    @property
    def output(self) -> str:
        """Name of the network's output."""
        return self.recipe.output

    @property
    def described(self) -> dict[str, Any]:
        """What a checkpoint says besides, by field of `CheckpointInfo`."""
        return {}

    def check(self) -> None:
        """Refuse labels from which nothing can be learnt.

        Raises
        ------
        gzsurvey.errors.TableError
            Says what is lacking.
        """
        lacking = self.lacking(np.arange(len(self.target)), 2)
        if lacking is not None:
            raise TableError(self.where, f"task {self.name!r}: {lacking}, {TWO}")

    def take(self, rows: Rows) -> Self:
        """Return some of the labels, in the order of `rows`."""
        return replace(self, target=self.target[rows], weight=self.weight[rows])

    def weighted(self, weight: Floats) -> Self:
        """Return the same labels with these weights."""
        return replace(self, weight=weight)

    def balanced(self, rows: Rows) -> Self:  # noqa: ARG002 - some kinds look at them
        """Return the same labels, weighted as the recipe asks for by what `rows` hold."""
        return self

    def labelled(self, rows: Rows) -> Rows:
        """Return those of `rows` that have a label."""
        return rows[self.known[rows]]

    def start(self, layer: Layer, rows: Rows) -> None:
        """Tell `layer` what it has to know of the labels of `rows` before it learns."""

    def loss(self, layer: Layer, embedding: Tensor, rows: Rows) -> Tensor:
        """Weighted mean of the losses of those of `rows` that have a label; 0 if none has."""
        known = self.known[rows]
        if not known.all():
            rows, embedding = rows[known], embedding[torch.from_numpy(known).to(embedding.device)]
        if not len(rows):
            return embedding.sum() * 0.0
        target = torch.from_numpy(self.target[rows]).to(embedding.device)
        weight = torch.from_numpy(self.weight[rows]).to(embedding.device, torch.float32)
        return (self.losses(layer, embedding, target) * weight).sum() / weight.sum().clamp(min=1e-12)
