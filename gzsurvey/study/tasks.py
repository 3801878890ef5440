"""Downstream tasks: their labels and images, and the proof that no test galaxy trained anything.

Letters: N galaxies, S pixels on a side.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gzsurvey.dataset.groups import SAME_GALAXY_ARCSEC, near
from gzsurvey.dataset.store import Store
from gzsurvey.dataset.tables import read_table
from gzsurvey.errors import TableError, TrainingError
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.study import LabelsRecipe, StudyRecipe, TaskRecipe
from gzsurvey.recipes.training import FinetuneTask
from gzsurvey.training.labels import read_labels
from gzsurvey.training.pictures import Pictures, collect

LABELS, ROWS = "labels.csv", "rows.npz"


@dataclass(frozen=True)
class Task:
    """A downstream task, its images mapped from disk."""

    name: str
    classes: tuple[str, ...]
    images: NDArray[np.uint8]
    """Shape (N, S, S, 3)."""
    target: NDArray[np.int64]
    """Class of each, shape (N,)."""
    ids: NDArray[np.str_]
    ra: NDArray[np.float64]
    """Degrees ICRS, shape (N,), NaN where not known."""
    dec: NDArray[np.float64]
    pool: NDArray[np.int64]
    """Rows that may be learnt from, where the test galaxies are fixed."""
    test: NDArray[np.int64]
    """Rows to be tested on; with cross-validation all of them, in turn."""


def prepare_tasks(recipe: StudyRecipe, root: Path, store: Store, folder: Path) -> None:
    """Read labels and images of every task into ``FOLDER/TASK/``, once.

    Parameters
    ----------
    recipe : StudyRecipe
        The study.
    root : Path
        Where its relative paths start.
    store : Store
        What is pretrained on; its preparation is every image's.
    folder : Path
        Of all tasks.
    """
    for task in recipe.tasks:
        own = folder / task.name
        if not (own / ROWS).is_file():
            _prepare(task, root, store, own)


def load_task(name: str, folder: Path) -> Task:
    """Open a task that `prepare_tasks` made."""
    with np.load(folder / name / ROWS) as rows:
        values = {key: rows[key] for key in rows.files}
    classes = tuple(str(word) for word in values.pop("classes"))
    return Task(name=name, classes=classes, images=np.load(folder / name / "images.npy", mmap_mode="r"), **values)


def _prepare(task: TaskRecipe, root: Path, store: Store, own: Path) -> None:
    parts = [_pictures(task.labels, root, store, own / "labelled")]
    if task.test is not None:
        parts.append(_pictures(task.test, root, store, own / "test"))
    classes, *others = (part.labels.only_task.classes for part in parts)
    if any(other != classes for other in others):
        raise TableError(parts[1].labels.where, f"has classes {others[0]}, the task has {classes}")
    target = np.concatenate([part.labels.only_task.target for part in parts])
    pool, test = _parts(task, parts)
    if task.balance == "equal":
        pool, test = _equal(target, pool), _equal(target, test)
    kept = np.union1d(pool, test)
    _write_images(parts, kept, own)
    for part in own.glob("*/images.npy"):
        part.unlink()
    place = np.full(len(target), -1)
    place[kept] = np.arange(len(kept))
    names = [part.labels.ids for part in parts]
    np.savez(
        own / "rows.partial.npz",
        classes=np.array(classes),
        target=target[kept],
        ids=np.concatenate([name for name in names if name is not None])[kept],
        ra=np.concatenate([part.labels.ra for part in parts])[kept],
        dec=np.concatenate([part.labels.dec for part in parts])[kept],
        pool=place[pool],
        test=place[test],
    )
    (own / "rows.partial.npz").replace(own / ROWS)


def _pictures(labels: LabelsRecipe, root: Path, store: Store, folder: Path) -> Pictures:
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / LABELS
    derived_labels(labels, root).to_csv(table, index=False)
    preparation = store.info.preparation
    if labels.crop is not None:
        preparation = preparation.model_copy(update={"crop": labels.crop})
    images = store.path if labels.images is None else root / labels.images
    return collect(read_labels(table, (FinetuneTask(),)), images, Preparation.model_validate(preparation), folder)


def derived_labels(labels: LabelsRecipe, root: Path) -> pd.DataFrame:
    """Make a plain table of classes: id, image and position where known, label.

    Raises
    ------
    gzsurvey.errors.TableError
        A column is missing.
    """
    frame = read_table(root / labels.table)
    wanted = [labels.column, *([labels.id_column] if labels.id_column else [])]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise TableError(str(root / labels.table), f"has no column {missing[0]!r}")
    label = _classes(frame[labels.column], labels)
    columns: dict[str, Any] = {"label": label}
    if labels.image_column in frame.columns:
        columns["image"] = frame[labels.image_column]
    source = labels.id_column or ("id" if "id" in frame.columns else labels.image_column)
    columns["id"] = frame[source].astype(str)
    columns |= {name: frame[name] for name in ("ra", "dec") if name in frame.columns}
    return pd.DataFrame(columns)[label.notna()]


def _classes(values: pd.Series, labels: LabelsRecipe) -> pd.Series:
    """Return the class of each row, missing where it belongs to none."""
    if labels.cut is not None:
        number = values.astype(float)
        made = np.where(number > labels.cut.at, labels.cut.above, labels.cut.below)
        return pd.Series(made, index=values.index).where(number.notna())
    words = values.astype(str)
    if not labels.classes:
        return words
    return words.map({word: name for name, words in labels.classes.items() for word in words})


def _parts(task: TaskRecipe, parts: list[Pictures]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pool and test as rows of all parts together."""
    first = len(parts[0].labels)
    every = np.arange(first, dtype=np.int64)
    if task.test is not None:
        return every, first + np.arange(len(parts[1].labels), dtype=np.int64)
    if task.folds is not None:
        return every, every
    published = parts[0].published
    assert published is not None
    return np.flatnonzero(published == "train"), np.flatnonzero(published == "test")


def _equal(target: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep as many galaxies of each class as the rarest has."""
    least = int(np.bincount(target[rows])[np.unique(target[rows])].min())
    drawn = [
        np.random.default_rng([int(k), least]).permutation(rows[target[rows] == k])[:least]
        for k in np.unique(target[rows])
    ]
    return np.sort(np.concatenate(drawn))


def _write_images(parts: list[Pictures], kept: NDArray[np.int64], own: Path) -> None:
    shape = (len(kept), *parts[0].images.shape[1:])
    mapped = np.lib.format.open_memmap(own / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    start, filled = 0, 0
    for part in parts:
        rows = kept[(kept >= start) & (kept < start + len(part.labels))] - start
        mapped[filled : filled + len(rows)] = part.images[rows]
        start, filled = start + len(part.labels), filled + len(rows)
    mapped.flush()


def check_held_out(tasks: dict[str, Task], store: Store) -> dict[str, Any]:
    """Make sure that no test galaxy trained any arm, labelled or not.

    Returns
    -------
    dict
        By task: test galaxies, how many could be compared by position, and which sources of the
        store could only be compared by their pixels.

    Raises
    ------
    gzsurvey.errors.TrainingError
        A test galaxy is in the store's train or validation split; names it.
    """
    rows = store.galaxies[store.galaxies["split"] != "test"]
    seen_at = (rows["ra"].to_numpy(dtype=np.float64), rows["dec"].to_numpy(dtype=np.float64))
    ids, pixels = set(rows["id"].astype(str)), set(rows["image_sha256"].astype(str))
    said: dict[str, Any] = {}
    for name, task in tasks.items():
        hashes = np.array([hashlib.sha256(task.images[row].tobytes()).hexdigest() in pixels for row in task.test])
        signs = {
            "id": np.isin(task.ids[task.test], list(ids)),
            f"position within {SAME_GALAXY_ARCSEC:g} arcsec":
                near(task.ra[task.test], task.dec[task.test], seen_at, SAME_GALAXY_ARCSEC),
            "pixels": hashes,
        }  # fmt: skip
        for sign, found in signs.items():
            if found.any():
                names = ", ".join(task.ids[task.test][found][:3])
                raise TrainingError(f"task {name!r}: {int(found.sum())} test galaxies are among the pretraining "
                                    f"galaxies by {sign} ({names}); hold their source out")  # fmt: skip
        said[name] = {
            "test_galaxies": len(task.test),
            "with_position": int(np.isfinite(task.ra[task.test]).sum()),
            "compared_with": len(rows),
            "sources_compared_by_pixels_alone": list(store.info.without_positions),
        }
    return said
