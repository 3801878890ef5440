"""A number with its uncertainty, taken as normally distributed.

Letters: N labelled galaxies, n some of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gzsurvey.card import NumberCalibration, NumberHead, TrainingRange
from gzsurvey.dataset.tables import numbers, pick
from gzsurvey.errors import TableError
from gzsurvey.model.network import HIGHEST_LOG_DEVIATION, LOWEST_LOG_DEVIATION, NumberLayer
from gzsurvey.recipes.training import FinetuneTask
from gzsurvey.training.calibrate import calibrate_number
from gzsurvey.training.metrics import number_metrics
from gzsurvey.training.probe import fit_number
from gzsurvey.training.tasks.task import Floats, Rows, Task

MOST_STRATA, PER_STRATUM = 10, 10
"""Groups of equal numbers of galaxies by the size of their number, and the fewest galaxies of each."""


@dataclass(frozen=True)
class NumberTask(Task[NumberLayer]):
    """`target` is the number: float64, shape (N,), NaN where not known."""

    @classmethod
    def read(cls, recipe: FinetuneTask, frame: pd.DataFrame, where: str) -> Self:
        """Read one column of numbers."""
        name = recipe.label_column
        pick(frame, name, (), where)
        target = numbers(frame, name, where)
        infinite = np.isinf(target)
        if infinite.any():
            problem = f"column {name!r} is infinite; remove these rows"
            raise TableError(where, problem, np.flatnonzero(infinite).tolist())
        return cls(recipe, where, target, np.ones(len(frame)))

    @property
    def given(self) -> NDArray[np.bool_]:
        """Those whose number is known."""
        return np.asarray(np.isfinite(self.target))

    @property
    def strata(self) -> Rows:
        """Groups of equal size, from the smallest numbers to the largest."""
        known = np.flatnonzero(self.given)
        groups = max(1, min(MOST_STRATA, len(known) // PER_STRATUM))
        strata = np.zeros(len(self.target), dtype=np.int64)
        order = known[np.argsort(self.target[known], kind="stable")]
        strata[order] = np.arange(len(order)) * groups // max(len(order), 1)
        return strata

    def lacking(self, rows: Rows, least: int) -> str | None:
        """Say that there are too few numbers, or that all are the same."""
        values = self.target[self.labelled(rows)]
        if len(values) < least:
            return f"there are {len(values)} numbers"
        return f"all {len(values)} numbers are {values[0]:g}" if least > 1 and np.ptp(values) == 0 else None

    def summary(self, rows: Rows) -> str:
        """Say the range of the numbers."""
        values = self.target[self.labelled(rows)]
        return f"{len(values)} numbers from {values.min():g} to {values.max():g} {self.recipe.unit}".rstrip()

    def head(self, rows: Rows) -> NumberHead:
        """State unit and range."""
        values = self.target[self.labelled(rows)]
        trained_on = TrainingRange(low=float(values.min()), high=float(values.max()))
        return NumberHead(task=self.name, unit=self.recipe.unit, trained_on=trained_on)

    def start(self, layer: NumberLayer, rows: Rows) -> None:
        """Let the layer predict in units of the spread of the training labels."""
        rows = self.labelled(rows)
        values, weight = self.target[rows], self.weight[rows]
        mean = np.average(values, weights=weight)
        spread = float(np.sqrt(np.average((values - mean) ** 2, weights=weight)))
        if not spread > 0:
            raise TableError(self.where, f"all {len(values)} numbers to learn from are {values[0]:g}; give more labels")
        layer.offset.fill_(float(mean))
        layer.scale.fill_(spread)

    def losses(self, layer: NumberLayer, embedding: Tensor, target: Tensor) -> Tensor:
        """Minus the logarithm of the normal density at the number, per unit of the number."""
        mean, log_deviation = layer.standardised(embedding).unbind(dim=1)
        standard = ((target - layer.offset.double()) / layer.scale.double()).to(mean.dtype)
        standard = (standard - mean) * torch.exp(-log_deviation)
        return 0.5 * standard**2 + log_deviation + torch.log(layer.scale) + 0.5 * math.log(2.0 * math.pi)

    def fit(self, layer: NumberLayer, views: NDArray[np.float32], rows: Rows, seed: int) -> None:
        """Fit ridge regression; the deviation is that of cross-validated errors, the same for all galaxies."""
        offset, scale = float(layer.offset), float(layer.scale)
        standard = (self.target[rows] - offset) / scale
        weight, bias, deviation = fit_number(views, standard, self.weight[rows], self.strata[rows], seed)
        log_deviation = np.clip(np.log(max(deviation, 1e-12)), LOWEST_LOG_DEVIATION, HIGHEST_LOG_DEVIATION)
        with torch.no_grad():
            layer.linear.weight.copy_(torch.from_numpy(np.stack([weight, np.zeros_like(weight)])))
            layer.linear.bias.copy_(torch.tensor([bias, log_deviation]))

    def metrics(self, predicted: Floats, rows: Rows) -> dict[str, float]:
        """Measure errors and the loss."""
        return number_metrics(predicted, self.target[rows], self.weight[rows])

    def calibrate(self, predicted: Floats, rows: Rows) -> NumberCalibration | None:
        """Fit the scale of the deviations."""
        return calibrate_number(predicted, self.target[rows], self.weight[rows])

    def columns(self, predicted: Floats, rows: Rows) -> dict[str, NDArray[Any]]:
        """The number, its predicted mean and standard deviation."""
        return {
            self.name: self.target[rows],
            f"{self.name}_mean": predicted[:, 0],
            f"{self.name}_std": predicted[:, 1],
        }
