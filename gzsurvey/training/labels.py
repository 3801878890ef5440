"""A user's own labels: read, checked, matched with their images, divided.

Letters: N labelled galaxies, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gzsurvey.dataset.tables import ID_COLUMNS, numbers, pick, positions, read_table, texts
from gzsurvey.errors import TableError
from gzsurvey.sky.columns import IMAGE_NAMES

WEIGHT_COLUMNS = ("weight", "confidence")


@dataclass(frozen=True)
class Labels:
    """Labelled galaxies, in the order of their table."""

    where: str
    """The table, for errors."""
    ids: NDArray[np.str_] | None
    """Shape (N,); None: the table has positions only."""
    images: NDArray[np.str_] | None
    """File names, shape (N,), where the table names them."""
    ra: NDArray[np.float64]
    """Degrees ICRS, shape (N,), NaN where not known."""
    dec: NDArray[np.float64]
    classes: tuple[str, ...]
    """Names, in the order of the probabilities."""
    target: NDArray[np.int64]
    """Index of each galaxy's class, shape (N,)."""
    weight: NDArray[np.float64]
    """Shape (N,); 1 where the table has no weights."""

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: NDArray[np.int64]) -> Labels:
        """Return some of the labels, in the order of `rows`."""
        return Labels(
            self.where,
            None if self.ids is None else self.ids[rows],
            None if self.images is None else self.images[rows],
            self.ra[rows],
            self.dec[rows],
            self.classes,
            self.target[rows],
            self.weight[rows],
        )

    def names(self, rows: NDArray[np.int64]) -> str:
        """Name the first few of `rows`, for errors."""
        shown = [self.ids[r] if self.ids is not None else f"{self.ra[r]:.5f} {self.dec[r]:+.5f}" for r in rows[:5]]
        return ", ".join(shown) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def read_labels(path: Path, label_column: str, class_names: Mapping[str, str]) -> Labels:
    """Read a table of classes.

    Parameters
    ----------
    path : Path
        FITS, CSV, ECSV, VOTable or Parquet with ``id`` (or ``ra`` and ``dec``), the label, and
        perhaps ``weight`` or ``confidence`` and ``image``.
    label_column : str
        Holds text or whole numbers.
    class_names : mapping
        Names for labels as they stand in the table: ``{"1": "ring", "0": "no_ring"}``.

    Raises
    ------
    gzsurvey.errors.TableError
        A column is missing, a label is empty, an id stands twice, there is one class only, or a
        class has one example.
    """
    where = str(path)
    frame = read_table(path)
    pick(frame, label_column, (), where)
    names = _class_of_each(frame[label_column], where, class_names)
    classes = _in_order(names)
    _check_classes(names, classes, where, label_column)
    ra, dec = positions(frame, None, None, where)
    id_column, image_column = pick(frame, None, ID_COLUMNS, where), pick(frame, None, IMAGE_NAMES, where)
    if id_column is None and not np.isfinite(ra).any():
        raise TableError(where, f"has neither an id ({', '.join(ID_COLUMNS)}) nor ra and dec; rename a column")
    ids = None if id_column is None else texts(frame[id_column], where)
    _refuse_repeated(ids, where)
    return Labels(
        where=where,
        ids=ids,
        images=None if image_column is None else texts(frame[image_column], where),
        ra=ra,
        dec=dec,
        classes=classes,
        target=np.array([classes.index(name) for name in names], dtype=np.int64),
        weight=_weights(frame, where),
    )


def _class_of_each(labels: pd.Series, where: str, class_names: Mapping[str, str]) -> NDArray[np.str_]:
    """Return the name of each row's class."""
    empty = labels.isna().to_numpy() | (labels.astype(str).str.strip() == "").to_numpy()
    if empty.any():
        problem = f"column {labels.name!r} is empty or NaN; remove these rows"
        raise TableError(where, problem, np.flatnonzero(empty).tolist())
    if pd.api.types.is_bool_dtype(labels):
        labels = labels.astype(int)
    if pd.api.types.is_float_dtype(labels):
        fractional = (labels % 1 != 0).to_numpy()
        if fractional.any():
            problem = f"column {labels.name!r} holds fractions, not classes; give whole numbers or text"
            raise TableError(where, problem, np.flatnonzero(fractional).tolist())
        labels = labels.astype(np.int64)
    text = labels.astype(str).str.strip()
    unused = sorted(set(class_names) - set(text))
    if unused:
        raise TableError(where, f"no row has the label {unused[0]!r} that class_names renames")
    return text.map(lambda label: class_names.get(label, label)).to_numpy(dtype=np.str_)


def _in_order(names: NDArray[np.str_]) -> tuple[str, ...]:
    """Return the classes: whole numbers by value, text by alphabet."""
    classes = [str(name) for name in np.unique(names)]
    if all(name.lstrip("-").isdecimal() for name in classes):
        classes.sort(key=int)
    return tuple(classes)


def _check_classes(names: NDArray[np.str_], classes: tuple[str, ...], where: str, column: str) -> None:
    if len(classes) < 2:
        raise TableError(where, f"all {len(names)} labels are {classes[0]!r}; at least two classes are needed")
    counts = {name: int((names == name).sum()) for name in classes}
    rare = [name for name, count in counts.items() if count < 2]
    if rare and len(classes) > 50:
        raise TableError(where, f"column {column!r} holds {len(classes)} different values; are these classes?")
    if rare:
        rows = np.flatnonzero(np.isin(names, rare)).tolist()
        raise TableError(
            where, f"class {rare[0]!r} has one example, at least two are needed (one to learn, one to check)", rows
        )


def _refuse_repeated(ids: NDArray[np.str_] | None, where: str) -> None:
    if ids is None:
        return
    _, first, counts = np.unique(ids, return_index=True, return_counts=True)
    repeated = ids[first[counts > 1]]
    if len(repeated):
        rows = np.flatnonzero(np.isin(ids, repeated)).tolist()
        raise TableError(where, f"id {str(repeated[0])!r} stands more than once; keep one label per galaxy", rows)


def _weights(frame: pd.DataFrame, where: str) -> NDArray[np.float64]:
    column = pick(frame, None, WEIGHT_COLUMNS, where)
    if column is None:
        return np.ones(len(frame))
    weight = numbers(frame, column, where)
    wrong = ~(weight >= 0) | ~np.isfinite(weight)
    if wrong.any():
        raise TableError(where, f"column {column!r} must be 0 or more", np.flatnonzero(wrong).tolist())
    return weight


def divide(target: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose validation galaxies class by class.

    Parameters
    ----------
    target : int64, shape (N,)
        Class of each galaxy; every class has at least two.
    share : float
        For validation; at least one galaxy of each class goes either way.
    seed : int
        Equal seeds divide equally.

    Returns
    -------
    bool, shape (N,)
        True for validation.
    """
    chosen = np.zeros(len(target), dtype=bool)
    for number in np.unique(target):
        rows = np.random.default_rng([seed, int(number)]).permutation(np.flatnonzero(target == number))
        chosen[rows[: min(max(round(share * len(rows)), 1), len(rows) - 1)]] = True
    return chosen
