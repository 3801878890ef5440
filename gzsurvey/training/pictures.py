"""Pictures of labelled galaxies, prepared as the survey's will be, mapped rather than held.

Letters: N labelled galaxies, S pixels on a side.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gzsurvey.cutouts.collection import ImageCollection, decode, open_collection
from gzsurvey.dataset.store import Store
from gzsurvey.errors import CutoutUnavailable, TableError, TrainingError
from gzsurvey.images.prepare import prepare_picture
from gzsurvey.progress import Progress
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.sky.healpix import unit_vectors
from gzsurvey.training.labels import Labels

logger = logging.getLogger(__name__)
THREADS = 4
WITHIN_ARCSEC = 1.0
"""Labels without ids belong to the nearest galaxy of the store within this."""
UNMATCHED = "unmatched.csv"


@dataclass(frozen=True)
class Pictures:
    """Labelled galaxies with their images."""

    labels: Labels
    images: NDArray[np.uint8]
    """Shape (N, S, S, 3), mapped from disk."""
    published: NDArray[np.str_] | None
    """Split of each galaxy in the store it comes from, shape (N,)."""
    store: Store | None
    """Where the images come from, if from a store."""


def collect(labels: Labels, images: Path, preparation: Preparation, out: Path) -> Pictures:
    """Find and prepare the image of every label.

    Labels without an image are listed in ``OUT/unmatched.csv`` and left out.

    Parameters
    ----------
    labels : Labels
        By id, by image name, or (in a store) by position.
    images : Path
        A STORE, directory, zip, tar or parquet.
    preparation : Preparation
        The model's.
    out : Path
        OUT; holds the prepared images until training ends.

    Raises
    ------
    gzsurvey.errors.TableError
        No label has an image, or too few are left of a class; names ids.
    gzsurvey.errors.TrainingError
        The store was prepared for another model.
    """
    if is_store(images):
        return _from_store(labels, Store(images), preparation, out)
    return _from_collection(labels, open_collection(images), preparation, out)


def is_store(images: Path) -> bool:
    """Whether `images` is a training store."""
    return (images / "store.json").is_file()


def _from_store(labels: Labels, store: Store, preparation: Preparation, out: Path) -> Pictures:
    if store.info.preparation != preparation:
        what = _difference(store.info.preparation, preparation)
        raise TrainingError(f"{store.path} was prepared differently from the checkpoint's training images: {what}")
    found = rows_by_id(labels, store) if labels.ids is not None else _rows_by_position(labels, store)
    labels, kept = _matched(labels, found >= 0, store.path, out)
    rows = found[kept]
    ra, dec = (store.numbers(name, rows) for name in ("ra", "dec"))
    placed = Labels(labels.where, labels.ids, labels.images, ra, dec, labels.classes, labels.target, labels.weight)
    mapped = _open_images(out, len(rows), preparation.image_size)
    for start in range(0, len(rows), 1024):
        mapped[start : start + 1024] = store.images(rows[start : start + 1024])
    return Pictures(placed, mapped, store.texts("split", rows), store)


def rows_by_id(labels: Labels, store: Store) -> NDArray[np.int64]:
    """Return the row of `store` with each label's id, int64, shape (N,), -1 where there is none.

    A galaxy that several sources show with the same pixels is taken once.

    Raises
    ------
    gzsurvey.errors.TableError
        An id stands for different pictures of several sources.
    """
    assert labels.ids is not None
    wanted, named = store.find(labels.ids)
    found = pd.DataFrame({"id": named, "pixels": store.texts("image_sha256", wanted)}, index=wanted).drop_duplicates()
    twice = found.loc[found["id"].duplicated(), "id"]
    if len(twice):
        raise TableError(labels.where, f"id {twice.iloc[0]!r} stands for galaxies of several sources of {store.path}; "
                         "give ra and dec instead of ids")  # fmt: skip
    place = pd.Index(found["id"]).get_indexer(pd.Index(labels.ids))
    return np.where(place >= 0, np.append(found.index, -1)[place], -1).astype(np.int64)


def _rows_by_position(labels: Labels, store: Store) -> NDArray[np.int64]:
    from scipy.spatial import cKDTree

    ra, dec = (store.numbers(name) for name in ("ra", "dec"))
    known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    if not len(known):
        raise TableError(labels.where, f"has positions but no ids, and {store.path} has no positions; add an id column")
    chord = 2.0 * np.sin(np.radians(WITHIN_ARCSEC / 3600.0) / 2.0)
    asked = unit_vectors(np.nan_to_num(labels.ra), np.nan_to_num(labels.dec))
    distance, nearest = cKDTree(unit_vectors(ra[known], dec[known])).query(asked, distance_upper_bound=chord)
    near = np.isfinite(distance) & np.isfinite(labels.ra)
    return np.where(near, known[np.where(near, nearest, 0)], -1).astype(np.int64)


def _from_collection(labels: Labels, collection: ImageCollection, preparation: Preparation, out: Path) -> Pictures:
    names = _members(labels, collection)
    labels, kept = _matched(labels, np.array([name is not None for name in names]), collection.path, out)
    chosen = [names[row] for row in kept]
    mapped = _open_images(out, len(chosen), preparation.image_size)
    readable = np.ones(len(chosen), dtype=bool)
    shown = Progress("read images", len(chosen), "images")
    with ThreadPoolExecutor(THREADS) as pool:
        for row, picture in enumerate(pool.map(lambda name: _read(collection, str(name), preparation), chosen)):
            shown.advance()
            readable[row] = picture is not None
            if picture is not None:
                mapped[row] = picture
    if not readable.all():
        labels, kept = _matched(labels, readable, collection.path, out)
        mapped[: len(kept)] = mapped[kept]
    return Pictures(labels, mapped[: len(labels)], None, None)


def _members(labels: Labels, collection: ImageCollection) -> list[str | None]:
    if labels.ids is None and labels.images is None:
        raise TableError(labels.where, f"needs ids or image names to find its images in {collection.path}")
    ids = labels.ids if labels.ids is not None else labels.images
    named = labels.images if labels.images is not None else np.full(len(labels), "")
    assert ids is not None
    return [collection.find(str(i), str(image)) for i, image in zip(ids, named, strict=True)]


def _read(collection: ImageCollection, name: str, preparation: Preparation) -> NDArray[np.uint8] | None:
    try:
        return prepare_picture(decode(collection.read(name), name), preparation)
    except CutoutUnavailable as error:
        logger.warning("%s", error)
        return None


def _matched(labels: Labels, found: NDArray[np.bool_], images: Path, out: Path) -> tuple[Labels, NDArray[np.int64]]:
    """Keep labels with an image; list the others; refuse what cannot be trained on."""
    lost = np.flatnonzero(~found)
    if len(lost) == len(labels):
        raise TableError(labels.where, f"no label has an image in {images}: {labels.names(lost)}")
    if len(lost):
        logger.warning("%d of %d labels have no image in %s: %s", len(lost), len(labels), images, labels.names(lost))
        with (out / UNMATCHED).open("a", newline="") as file:
            csv.writer(file).writerows(_described(labels, lost))
    kept = np.flatnonzero(found).astype(np.int64)
    counts = np.bincount(labels.target[kept], minlength=len(labels.classes))
    if counts.min() < 2:
        name = labels.classes[int(counts.argmin())]
        problem = f"class {name!r} has {counts.min()} labels with an image in {images}, at least two are needed"
        raise TableError(labels.where, f"{problem}; without one: {labels.names(lost)}")
    return labels.take(kept), kept


def _described(labels: Labels, rows: NDArray[np.int64]) -> Iterator[tuple[object, ...]]:
    for row in rows:
        name = "" if labels.ids is None else labels.ids[row]
        yield name, labels.ra[row], labels.dec[row], labels.classes[labels.target[row]]


def _open_images(out: Path, n: int, size: int) -> NDArray[np.uint8]:
    return np.lib.format.open_memmap(out / "images.npy", mode="w+", dtype=np.uint8, shape=(n, size, size, 3))


def _difference(store: Preparation, model: Preparation) -> str:
    ours, theirs = store.model_dump(), model.model_dump()
    return "; ".join(f"{key} is {ours[key]} there, {theirs[key]} here" for key in ours if ours[key] != theirs[key])
