"""Classes that exclude each other.

Letters: N labelled galaxies, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gzsurvey.card import ClassesCalibration, ClassesHead
from gzsurvey.dataset.tables import pick
from gzsurvey.errors import TableError
from gzsurvey.model.network import ClassesLayer
from gzsurvey.recipes.training import FinetuneTask
from gzsurvey.training.calibrate import calibrate_classes
from gzsurvey.training.metrics import class_metrics
from gzsurvey.training.probe import fit_probe
from gzsurvey.training.tasks.task import TWO, Floats, Rows, Task

UNKNOWN = -1
"""Stands for an unknown class."""


@dataclass(frozen=True)
class ClassesTask(Task[ClassesLayer]):
    """`target` is the index of the class: int64, shape (N,), -1 where not known."""

    classes: tuple[str, ...]
    """Names, in the order of the probabilities."""

    @classmethod
    def read(cls, recipe: FinetuneTask, frame: pd.DataFrame, where: str) -> Self:
        """Read text or whole numbers."""
        pick(frame, recipe.label_column, (), where)
        names = _class_of_each(frame[recipe.label_column], where, recipe.class_names)
        classes = _in_order(names[names != ""])
        numbers = {name: number for number, name in enumerate(classes)} | {"": UNKNOWN}
        target = np.array([numbers[name] for name in names.tolist()], dtype=np.int64)
        return cls(recipe, where, target, np.ones(len(frame)), classes)

    def check(self) -> None:
        """Refuse a single class, and classes with one example."""
        counts = dict(zip(self.classes, self._counts(np.arange(len(self.target))), strict=True))
        if len(counts) < 2:
            ((name, number),) = counts.items()
            raise TableError(self.where, f"all {number} labels are {name!r}; at least two classes are needed")
        rare = [number for number, count in enumerate(counts.values()) if count < 2]
        if rare and len(counts) > 50:
            column = self.recipe.label_column
            raise TableError(self.where, f"column {column!r} holds {len(counts)} different values; are these classes?")
        if rare:
            problem = f"class {self.classes[rare[0]]!r} has one example, {TWO}"
            raise TableError(self.where, problem, np.flatnonzero(np.isin(self.target, rare)).tolist())

    @property
    def given(self) -> NDArray[np.bool_]:
        """Those that have a class."""
        return np.asarray(self.target != UNKNOWN)

    @property
    def strata(self) -> Rows:
        """The classes."""
        return np.asarray(self.target, dtype=np.int64)

    def lacking(self, rows: Rows, least: int) -> str | None:
        """Name the rarest class."""
        counts = self._counts(rows)
        rarest = int(counts.argmin())
        return f"class {self.classes[rarest]!r} has {counts[rarest]} labels" if counts[rarest] < least else None

    def summary(self, rows: Rows) -> str:
        """Count each class."""
        return ", ".join(f"{name} {count}" for name, count in zip(self.classes, self._counts(rows), strict=True))

    def balanced(self, rows: Rows) -> Self:
        """Weigh classes by their numbers among `rows`; the mean weight over these is kept."""
        if self.recipe.class_weights == "none":
            return self
        counts = self._counts(rows)
        by_class = len(self.labelled(rows)) / (len(counts) * np.maximum(counts, 1))
        return replace(self, weight=self.weight * np.where(self.given, by_class[self.target], 1.0))

    def head(self, rows: Rows) -> ClassesHead:
        """State the share of each class, weights included."""
        rows = self.labelled(rows)
        counts = np.bincount(self.target[rows], weights=self.weight[rows], minlength=len(self.classes))
        balance = {name: float(n / counts.sum()) for name, n in zip(self.classes, counts, strict=True)}
        return ClassesHead(task=self.name, classes=self.classes, balance=balance)

    def losses(self, layer: ClassesLayer, embedding: Tensor, target: Tensor) -> Tensor:
        """Cross entropy."""
        return nn.functional.cross_entropy(layer.logits(embedding), target, reduction="none")

    def fit(self, layer: ClassesLayer, views: NDArray[np.float32], rows: Rows, seed: int) -> None:
        """Fit logistic regression."""
        fitted = fit_probe(views, self.target[rows], self.weight[rows], len(self.classes), seed)
        with torch.no_grad():
            layer.linear.weight.copy_(torch.from_numpy(fitted.weight))
            layer.linear.bias.copy_(torch.from_numpy(fitted.bias))

    def metrics(self, predicted: Floats, rows: Rows) -> dict[str, float]:
        """Measure accuracy, ROC-AUC and cross entropy."""
        return class_metrics(predicted, self.target[rows], self.weight[rows])

    def calibrate(self, predicted: Floats, rows: Rows) -> ClassesCalibration | None:
        """Fit sharpness and shifts."""
        return calibrate_classes(predicted, self.target[rows], self.weight[rows])

    def columns(self, predicted: Floats, rows: Rows) -> dict[str, NDArray[Any]]:
        """Label by name, and the probability of each class."""
        label = np.array([*self.classes, ""])[self.target[rows]]
        return {self.name: label} | {f"{self.name}_{c}_p": predicted[:, k] for k, c in enumerate(self.classes)}

    def _counts(self, rows: Rows) -> Rows:
        return np.bincount(self.target[self.labelled(rows)], minlength=len(self.classes)).astype(np.int64)


def _class_of_each(labels: pd.Series, where: str, class_names: Mapping[str, str]) -> NDArray[np.str_]:
    """Return the name of each row's class, empty where there is none."""
    given = (labels.notna() & (labels.astype(str).str.strip() != "")).to_numpy(dtype=np.bool_)
    if not given.any():
        raise TableError(where, f"column {labels.name!r} is empty or NaN in all rows")
    if pd.api.types.is_bool_dtype(labels):
        labels = labels.astype("Int64")
    if pd.api.types.is_float_dtype(labels):
        fractional = given & (labels % 1 != 0).to_numpy()
        if fractional.any():
            problem = f"column {labels.name!r} holds fractions, not classes; give whole numbers or text"
            raise TableError(where, f"{problem}, or say kind=number", np.flatnonzero(fractional).tolist())
        labels = labels.astype("Int64")
    text = labels.astype(str).str.strip()
    unused = sorted(set(class_names) - set(text[given]))
    if unused:
        raise TableError(where, f"no row has the label {unused[0]!r} that class_names renames")
    named = text.map(lambda label: class_names.get(label, label)).where(given, "")
    return named.to_numpy(dtype=np.str_)


def _in_order(names: NDArray[np.str_]) -> tuple[str, ...]:
    """Return the classes: whole numbers by value, text by alphabet."""
    classes = [str(name) for name in np.unique(names)]
    if all(name.lstrip("-").isdecimal() for name in classes):
        classes.sort(key=int)
    return tuple(classes)
