"""Pictures of labelled galaxies, prepared as the survey's will be, mapped rather than held.

Letters: N labelled galaxies, S pixels on a side.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gzsurvey.cutouts.collection import ImageCollection, decode, open_collection
from gzsurvey.cutouts.index_file import pixel_scale_arcsec
from gzsurvey.cutouts.open import check_source, open_source
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.dataset.store import Store
from gzsurvey.errors import CutoutUnavailable, RecipeError, TableError, TrainingError
from gzsurvey.images.frame import field_of_view
from gzsurvey.images.prepare import frame_of, prepare_cutout, prepare_picture
from gzsurvey.progress import Progress
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.training import FinetuneRecipe
from gzsurvey.sky import healpix
from gzsurvey.training.labels import Labels, read_sizes
from gzsurvey.training.tasks.several import refuse_lacking

logger = logging.getLogger(__name__)
THREADS = 4
BLOCK = 256
"""Cutouts asked of a survey at once, so that few are in memory."""
ROWS_AT_A_TIME = 1024
WITHIN_ARCSEC = 1.0
"""Labels without ids belong to the nearest galaxy of the store within this."""
UNMATCHED, IMAGES = "unmatched.csv", "images.npy"
NO_IMAGE = "there is no image of this name"

Reasons = NDArray[np.object_]
"""Why each galaxy has no image, shape (N,); empty: it has one."""


@dataclass(frozen=True)
class Survey:
    """Images cut out of a survey by position."""

    spec: SourceSpec
    size_column: str | None = None
    """Half-light radius in the table of labels; None: found by its usual names."""

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return self.spec.text


@dataclass(frozen=True)
class Pictures:
    """Labelled galaxies with their images."""

    labels: Labels
    images: NDArray[Any]
    """uint8, or float32 flux, shape (N, S, S, 3), mapped from disk."""
    published: NDArray[np.str_] | None
    """Split of each galaxy in the store it comes from, shape (N,)."""


@dataclass(frozen=True)
class _Read:
    """What was found of all labels."""

    labels: Labels
    images: NDArray[Any]
    reasons: Reasons
    published: NDArray[np.str_] | None = None


def open_images(images: Path | str, recipe: FinetuneRecipe) -> Path | Survey:
    """Return what ``--images`` names: a path that exists, or else a cutout SOURCE.

    Raises
    ------
    gzsurvey.errors.RecipeError
        It is neither.
    gzsurvey.errors.SourceError
        The SOURCE is misspelt.
    """
    if Path(images).exists():
        return Path(images)
    if ":" not in str(images):
        raise RecipeError(str(images), "does not exist; give a store, directory, zip, tar, parquet or a cutout SOURCE")
    return Survey(SourceSpec.parse(str(images), recipe.bands, recipe.zeropoints), recipe.size_column)


def collect(labels: Labels, images: Path | Survey, preparation: Preparation, out: Path) -> Pictures:
    """Find and prepare the image of every label.

    Labels without an image are listed in ``OUT/unmatched.csv``, with the reason, and left out.

    Parameters
    ----------
    labels : Labels
        By id, by image name, or (in a store or a survey) by position.
    images : Path or Survey
        A STORE, directory, zip, tar or parquet, or a source of cutouts.
    preparation : Preparation
        The model's.
    out : Path
        OUT; holds the prepared images until training ends.

    Raises
    ------
    gzsurvey.errors.TableError
        No label has an image, or too few are left of a class; names ids.
    gzsurvey.errors.TrainingError
        The store was prepared for another model, or the images are pictures where the model takes flux.
    gzsurvey.errors.SourceError
        The source cannot be opened.
    """
    size, pixel = preparation.image_size, preparation.input_type
    mapped = np.lib.format.open_memmap(out / IMAGES, mode="w+", dtype=pixel, shape=(len(labels), size, size, 3))
    if isinstance(images, Survey):
        read = _from_survey(labels, images, preparation, mapped)
    elif is_store(images):
        read = _from_store(labels, Store(images), preparation, mapped)
    elif preparation.is_flux:
        raise TrainingError(f"{images} holds ready pictures, and the model takes flux; give a store or a cutout SOURCE")
    else:
        read = _from_collection(labels, open_collection(images), preparation, mapped)
    return _matched(read, str(images if isinstance(images, Path) else images.name), out)


def is_store(images: Path | Survey) -> TypeGuard[Path]:
    """Whether `images` is a training store."""
    return isinstance(images, Path) and (images / "store.json").is_file()


def _from_store(labels: Labels, store: Store, preparation: Preparation, mapped: NDArray[Any]) -> _Read:
    if store.info.preparation != preparation:
        what = _difference(store.info.preparation, preparation)
        raise TrainingError(f"{store.path} was prepared differently from the checkpoint's training images: {what}")
    found = rows_by_id(labels, store) if labels.ids is not None else _rows_by_position(labels, store)
    here = found >= 0
    for start in range(0, len(found), ROWS_AT_A_TIME):
        part = np.flatnonzero(here[start : start + ROWS_AT_A_TIME]) + start
        mapped[part] = store.images(found[part])
    ra, dec = labels.ra.copy(), labels.dec.copy()
    ra[here], dec[here] = (store.numbers(name, found[here]) for name in ("ra", "dec"))
    published = np.full(len(found), "", dtype="U10")
    published[here] = store.texts("split", found[here])
    lost = f"no galaxy of the store within {WITHIN_ARCSEC:g} arcsec" if labels.ids is None else "no galaxy of this id"
    return _Read(labels.placed(ra, dec), mapped, np.where(here, "", lost).astype(object), published)


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
    asked = healpix.unit_vectors(np.nan_to_num(labels.ra), np.nan_to_num(labels.dec))
    distance, nearest = cKDTree(healpix.unit_vectors(ra[known], dec[known])).query(asked, distance_upper_bound=chord)
    near = np.isfinite(distance) & np.isfinite(labels.ra)
    found = np.where(near, known[np.where(near, nearest, 0)], -1).astype(np.int64)
    rows, counts = np.unique(found[near], return_counts=True)
    twice = np.flatnonzero(np.isin(found, rows[counts > 1]))
    if len(twice):
        raise TableError(labels.where, f"several labels lie within {WITHIN_ARCSEC:g} arcsec of one galaxy; keep one: "
                         f"{labels.names(twice)}", labels.rows[twice].tolist())  # fmt: skip
    return found


def _from_collection(
    labels: Labels, collection: ImageCollection, preparation: Preparation, mapped: NDArray[Any]
) -> _Read:
    names = _members(labels, collection)
    reasons = np.full(len(labels), "", dtype=object)
    shown = Progress("read images", len(labels), "images")

    def picture(name: str | None) -> NDArray[np.uint8] | str:
        if name is None:
            return NO_IMAGE
        try:
            return prepare_picture(decode(collection.read(name), name), preparation)
        except CutoutUnavailable as error:
            return error.reason

    with ThreadPoolExecutor(THREADS) as pool:
        for row, found in enumerate(pool.map(picture, names)):
            shown.advance()
            if isinstance(found, str):
                reasons[row] = found
            else:
                mapped[row] = found
    return _Read(labels, mapped, reasons)


def _members(labels: Labels, collection: ImageCollection) -> list[str | None]:
    if labels.ids is None and labels.images is None:
        raise TableError(labels.where, f"needs ids or image names to find its images in {collection.path}")
    ids = labels.ids if labels.ids is not None else labels.images
    named = labels.images if labels.images is not None else np.full(len(labels), "")
    assert ids is not None
    return [collection.find(str(i), str(image)) for i, image in zip(ids, named, strict=True)]


def _from_survey(labels: Labels, survey: Survey, preparation: Preparation, mapped: NDArray[Any]) -> _Read:
    reasons = np.full(len(labels), "its position is not known", dtype=object)
    for request, answer in cut_out(labels, survey, preparation):
        if not isinstance(answer, Cutout):
            reasons[request.row] = answer.reason
        elif np.isinf(answer.pixels).any():
            reasons[request.row] = "pixels are infinite"
        else:
            reasons[request.row] = ""
            mapped[request.row] = prepare_cutout(answer.pixels, preparation)
    return _Read(labels, mapped, reasons)


def cut_out(labels: Labels, survey: Survey, preparation: Preparation) -> Iterator[tuple[Request, Cutout | Miss]]:
    """Cut images out as `classify` does, in the order of the sky, so that each tile is opened once.

    Parameters
    ----------
    labels : Labels
        Whose positions, ids and sizes are used.
    survey : Survey
        The source.
    preparation : Preparation
        The model's.

    Yields
    ------
    Request, Cutout or Miss
        Once for each galaxy whose position is known; the request's row is that of `labels`.

    Raises
    ------
    gzsurvey.errors.SourceError
        The source cannot be opened.
    gzsurvey.errors.TableError
        Galaxies lack positions, or the sizes that the model's scale rule asks for.
    """
    index = check_source(survey.spec, preparation)
    source = open_source(survey.spec, preparation, index)
    width = _widths(labels, survey, preparation, index)
    known = np.isfinite(labels.ra) | (survey.spec.kind == "images")
    ids = labels.ids if labels.ids is not None else labels.images
    cells = healpix.cells(labels.ra, labels.dec)
    order = np.argsort(cells, kind="stable")
    order = order[known[order]]
    shown = Progress("cut out images", len(order), "images")
    for start in range(0, len(order), BLOCK):
        requests = {
            int(row): Request(
                row=int(row),
                target_id=str(row) if ids is None else str(ids[row]),
                ra_deg=float(labels.ra[row]),
                dec_deg=float(labels.dec[row]),
                frame=frame_of(preparation, float(width[row])),
                image="" if labels.images is None else str(labels.images[row]),
            )
            for row in order[start : start + BLOCK]
        }
        for row, answer in source.fetch(list(requests.values())):
            yield requests[row], answer
            shown.advance()
    shown.finish()


def _widths(labels: Labels, survey: Survey, preparation: Preparation, index: Path | None) -> NDArray[np.float64]:
    """Return the field of view of each galaxy, arcsec, shape (N,)."""
    if survey.spec.kind == "images":
        return np.full(len(labels), float(preparation.image_size))
    if not np.isfinite(labels.ra).any():
        raise TableError(labels.where, f"has no positions, by which {survey.name} finds images; add columns ra and dec")
    rule = preparation.scale_rule
    if rule.kind == "fixed":
        return field_of_view(rule, np.zeros(len(labels)))
    r50, r90 = read_sizes(labels, survey.size_column, None if index is None else partial(pixel_scale_arcsec, index))
    if r50 is None:
        raise TableError(labels.where, "has no size, and this model sizes its cutouts by the half-light radius; add a "
                         "column r50 (arcsec), or name one by size_column")  # fmt: skip
    unknown = ~np.isfinite(r50)
    if unknown.any():
        Progress.say(f"{unknown.sum():,} labels have no size: they get the smallest cutout")
    return field_of_view(rule, np.where(unknown, 0.0, r50), r90)


def _matched(read: _Read, images: str, out: Path) -> Pictures:
    """Keep labels with an image; list the others; refuse what cannot be trained on."""
    labels, found = read.labels, read.reasons == ""
    lost = np.flatnonzero(~found)
    (out / UNMATCHED).unlink(missing_ok=True)
    if len(lost):
        unmatched = pd.DataFrame(labels.take(lost).described()).assign(reason=read.reasons[lost])
        unmatched.to_csv(out / UNMATCHED, index=False)
    if len(lost) == len(labels):
        raise TableError(labels.where, f"no label has an image in {images} ({read.reasons[0]}): {labels.names(lost)}")
    place = f"with an image in {images}"
    if len(lost):
        logger.warning("%d of %d labels have no image in %s: %s", len(lost), len(labels), images, labels.names(lost))
        place += f" (without one: {labels.names(lost)})"
    kept = np.flatnonzero(found)
    for start in range(0, len(kept), ROWS_AT_A_TIME):
        part = kept[start : start + ROWS_AT_A_TIME]
        read.images[start : start + len(part)] = read.images[part]
    labels = labels.take(kept)
    refuse_lacking(labels.tasks, np.arange(len(labels)), 2, place)
    published = None if read.published is None else read.published[kept]
    return Pictures(labels, read.images[: len(kept)], published)


def _difference(store: Preparation, model: Preparation) -> str:
    ours, theirs = store.model_dump(), model.model_dump()
    return "; ".join(f"{key} is {ours[key]} there, {theirs[key]} here" for key in ours if ours[key] != theirs[key])
