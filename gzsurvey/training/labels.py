"""A user's own labels: read, checked, matched with their galaxies.

Letters: N labelled galaxies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gzsurvey.dataset.tables import ID_COLUMNS, numbers, pick, positions, read_table, texts
from gzsurvey.errors import TableError
from gzsurvey.recipes.training import FinetuneTask
from gzsurvey.sky.columns import IMAGE_NAMES, R50_NAMES, R90_NAMES
from gzsurvey.sky.convert import arcsec
from gzsurvey.sky.tables import open_tables
from gzsurvey.training.tasks import ClassesTask, Tasks, read_tasks

WEIGHT_COLUMNS = ("weight", "confidence")
HISTORY_COLUMNS = ("label_by", "label_time", "chosen_by")
"""Who labelled a galaxy, when, and why this one: kept beside the label."""


@dataclass(frozen=True)
class Labels:
    """Labelled galaxies, in the order of their table."""

    path: Path
    """The table."""
    rows: NDArray[np.int64]
    """Its rows that are meant, shape (N,)."""
    ids: NDArray[np.str_] | None
    """Shape (N,); None: the table has positions only."""
    images: NDArray[np.str_] | None
    """File names, shape (N,), where the table names them."""
    ra: NDArray[np.float64]
    """Degrees ICRS, shape (N,), NaN where not known."""
    dec: NDArray[np.float64]
    tasks: Tasks
    """What the labels say, of each task."""
    history: dict[str, NDArray[np.str_]]
    """``label_by``, ``label_time``, ``chosen_by`` where the table has them, shape (N,)."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def where(self) -> str:
        """The table, for errors."""
        return str(self.path)

    @property
    def only_task(self) -> ClassesTask:
        """The task of a table of classes."""
        (task,) = self.tasks
        assert isinstance(task, ClassesTask)
        return task

    def take(self, rows: NDArray[np.int64]) -> Labels:
        """Return some of the labels, in the order of `rows`."""
        return Labels(
            self.path,
            self.rows[rows],
            None if self.ids is None else self.ids[rows],
            None if self.images is None else self.images[rows],
            self.ra[rows],
            self.dec[rows],
            tuple(task.take(rows) for task in self.tasks),
            {name: values[rows] for name, values in self.history.items()},
        )

    def placed(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> Labels:
        """Return the labels at other positions, degrees ICRS, shape (N,)."""
        return replace(self, ra=ra, dec=dec)

    def described(self) -> dict[str, NDArray[np.generic]]:
        """Which galaxies these are, as columns of a table: id where known, ra, dec, and their history."""
        ids: dict[str, NDArray[np.generic]] = {} if self.ids is None else {"id": self.ids}
        return ids | {"ra": self.ra, "dec": self.dec} | dict(self.history)

    def names(self, rows: NDArray[np.int64]) -> str:
        """Name the first few of `rows`, for errors."""
        shown = [self.ids[r] if self.ids is not None else f"{self.ra[r]:.5f} {self.dec[r]:+.5f}" for r in rows[:5]]
        return ", ".join(shown) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def read_labels(path: Path, tasks: Sequence[FinetuneTask]) -> Labels:
    """Read a table of labels.

    Parameters
    ----------
    path : Path
        FITS, CSV, ECSV, VOTable or Parquet with ``id`` (or ``ra`` and ``dec``), the labels, and
        perhaps ``weight`` or ``confidence``, ``image``, ``label_by``, ``label_time``, ``chosen_by``.
    tasks : sequence of FinetuneTask
        Say which columns hold what.

    Raises
    ------
    gzsurvey.errors.TableError
        A column is missing, a label is empty, an id stands twice, there is one class only, a
        class has one example, or numbers or votes are none.
    """
    where = str(path)
    frame = read_table(path)
    learnt = read_tasks(tasks, frame, where)
    ra, dec = positions(frame, None, None, where)
    id_column, image_column = pick(frame, None, ID_COLUMNS, where), pick(frame, None, IMAGE_NAMES, where)
    if id_column is None and not np.isfinite(ra).any():
        raise TableError(where, f"has neither an id ({', '.join(ID_COLUMNS)}) nor ra and dec; rename a column")
    ids = None if id_column is None else texts(frame[id_column], where)
    _refuse_repeated(ids, where)
    weight = _weights(frame, where)
    return Labels(
        path=path,
        rows=np.arange(len(frame), dtype=np.int64),
        ids=ids,
        images=None if image_column is None else texts(frame[image_column], where),
        ra=ra,
        dec=dec,
        tasks=tuple(task.weighted(weight) for task in learnt),
        history={name: _as_text(frame[name]) for name in HISTORY_COLUMNS if name in frame.columns},
    )


def read_sizes(
    labels: Labels, size_column: str | None, pixel_scale_arcsec: Callable[[], float] | None
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Read the sizes of labelled galaxies, in the units of their columns.

    Parameters
    ----------
    labels : Labels
        Whose.
    size_column : str or None
        Half-light radius; None: by its usual names, with the radius of 90 % of the light.
    pixel_scale_arcsec : callable or None
        Asks the source for its pixel scale, for sizes in pixels; None: it has none.

    Returns
    -------
    r50, r90 : float64, shape (N,), or None
        Arcsec, NaN where not known; None: no such column.

    Raises
    ------
    gzsurvey.errors.TableError
        The column is missing, or is no size.
    """
    frame = read_table(labels.path)
    columns = open_tables(str(labels.path))[0].columns

    by_lower_case = {name.lower(): name for name in reversed(list(columns))}

    def usual(names: Sequence[str]) -> str | None:
        return next((by_lower_case[name] for name in names if name in by_lower_case), None)

    def size(name: str | None) -> NDArray[np.float64] | None:
        if name is None:
            return None
        values = np.ma.masked_invalid(numbers(frame, name, labels.where))
        return arcsec(values, columns[name], None, pixel_scale_arcsec, [])[labels.rows]

    if size_column is not None:
        return size(pick(frame, size_column, (), labels.where)), None
    return size(usual(R50_NAMES)), size(usual(R90_NAMES))


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
    if not weight.any():
        raise TableError(where, f"column {column!r} is 0 in all rows, so that no label counts")
    return weight


def _as_text(values: pd.Series) -> NDArray[np.str_]:
    return values.astype("str").where(values.notna(), "").to_numpy(dtype=np.str_)
