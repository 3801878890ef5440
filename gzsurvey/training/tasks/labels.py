"""Classes that do not exclude each other: tails, shells, streams.

Letters: N labelled galaxies, n some of them, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gzsurvey.card import LabelsCalibration, LabelsHead
from gzsurvey.dataset.tables import numbers, pick
from gzsurvey.errors import TableError
from gzsurvey.model.network import LabelsLayer
from gzsurvey.recipes.training import FinetuneTask
from gzsurvey.training.calibrate import calibrate_labels
from gzsurvey.training.metrics import label_metrics
from gzsurvey.training.probe import fit_labels
from gzsurvey.training.tasks.task import Floats, Rows, Task


@dataclass(frozen=True)
class LabelsTask(Task[LabelsLayer]):
    """`target` is 1 or 0 for each class, NaN where not known: float64, shape (N, K)."""

    @classmethod
    def read(cls, recipe: FinetuneTask, frame: pd.DataFrame, where: str) -> Self:
        """Read one column of 0 and 1 for each class."""
        target = np.column_stack([_zeros_and_ones(frame, name, where) for name in recipe.label_columns])
        return cls(recipe, where, target, np.ones(len(frame)))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the probabilities."""
        return self.recipe.label_columns

    @property
    def given(self) -> NDArray[np.bool_]:
        """Those of which anything is known."""
        return np.asarray(np.isfinite(self.target).any(axis=1))

    @property
    def strata(self) -> Rows:
        """The rarest of each galaxy's classes; K: it has none."""
        having = self.target == 1
        rarest_first = np.argsort(having.sum(axis=0), kind="stable")
        rarest = rarest_first[having[:, rarest_first].argmax(axis=1)]
        return np.asarray(np.where(having.any(axis=1), rarest, having.shape[1]), dtype=np.int64)

    def lacking(self, rows: Rows, least: int) -> str | None:
        """Name the class that fewest galaxies have, or lack."""
        for name, values in zip(self.classes, self.target[rows].T, strict=True):
            for value in (1, 0):
                count = int((values == value).sum())
                if count < least:
                    return f"{name!r} is {value} for {count} galaxies"
        return None

    def summary(self, rows: Rows) -> str:
        """Count each class among those of which it is known."""
        return ", ".join(
            f"{name} {int((values == 1).sum())} of {int(np.isfinite(values).sum())}"
            for name, values in zip(self.classes, self.target[rows].T, strict=True)
        )

    def head(self, rows: Rows) -> LabelsHead:
        """State the share of each class, weights included."""
        values, weight = self.target[rows], self.weight[rows, None]
        share = (np.nan_to_num(values) * weight).sum(axis=0) / (np.isfinite(values) * weight).sum(axis=0).clip(1e-12)
        balance = {name: float(value) for name, value in zip(self.classes, share, strict=True)}
        return LabelsHead(task=self.name, classes=self.classes, balance=balance)

    def losses(self, layer: LabelsLayer, embedding: Tensor, target: Tensor) -> Tensor:
        """Binary cross entropy, summed over the classes that are known."""
        known = torch.isfinite(target)
        logits = layer.logits(embedding)
        truth = target.nan_to_num().to(logits.dtype)
        return (nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * known).sum(dim=1)

    def fit(self, layer: LabelsLayer, views: NDArray[np.float32], rows: Rows, seed: int) -> None:
        """Fit logistic regression, class by class."""
        weight, bias = fit_labels(views, self.target[rows], self.weight[rows], seed)
        with torch.no_grad():
            layer.linear.weight.copy_(torch.from_numpy(weight))
            layer.linear.bias.copy_(torch.from_numpy(bias))

    def metrics(self, predicted: Floats, rows: Rows) -> dict[str, float]:
        """Measure ROC-AUC and average precision, means over the classes, and the loss."""
        return label_metrics(predicted, self.target[rows], self.weight[rows])

    def calibrate(self, predicted: Floats, rows: Rows) -> LabelsCalibration | None:
        """Fit sharpness and shift of each class."""
        return calibrate_labels(predicted, self.target[rows], self.weight[rows])

    def columns(self, predicted: Floats, rows: Rows) -> dict[str, NDArray[Any]]:
        """Label and probability of each class."""
        labels = {f"{self.name}_{name}": self.target[rows, k] for k, name in enumerate(self.classes)}
        return labels | {f"{self.name}_{name}_p": predicted[:, k] for k, name in enumerate(self.classes)}


def _zeros_and_ones(frame: pd.DataFrame, name: str, where: str) -> Floats:
    pick(frame, name, (), where)
    values = numbers(frame, name, where)
    wrong = np.isfinite(values) & (values != 0) & (values != 1) | np.isinf(values)
    if wrong.any():
        first = values[np.flatnonzero(wrong)[0]]
        problem = f"column {name!r} must be 0 or 1, or empty where not known, got {first:g}"
        raise TableError(where, problem, np.flatnonzero(wrong).tolist())
    return values
