"""From gathered rows to prepared pictures, in order, several at once, few in memory."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gzsurvey.cutouts.collection import ImageCollection, decode
from gzsurvey.cutouts.open import check_source, open_source
from gzsurvey.cutouts.source import Cutout, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.dataset.gather import Gathered
from gzsurvey.errors import CutoutUnavailable
from gzsurvey.images.frame import field_of_view
from gzsurvey.images.prepare import frame_of, prepare_cutout
from gzsurvey.recipes.dataset import SourceRecipe
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.status import Status

AHEAD = 4
"""Pictures in work for each thread: bounds memory."""
BLOCK = 256
"""Cutouts asked of a survey at once, for the same reason."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One prepared picture."""

    row: int
    """Its place in its source."""
    pixels: NDArray[np.uint8]
    """Shape (S, S, 3)."""
    sha256: str
    """Of the pixels."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a galaxy has no picture."""

    row: int
    reason: str


def pictures(
    source: Gathered, rows: pd.DataFrame, preparation: Preparation, start: int = 0
) -> Iterator[Picture | Reject]:
    """Yield a picture or a reject for each row from `start`, in order.

    Parameters
    ----------
    source : Gathered
        Where pixels come from.
    rows : DataFrame
        Its rows, or some of them: columns id, image, ra, dec, r50, r90.
    preparation : Preparation
        The store's; the source's own crop replaces its crop.
    start : int
        First row wanted.
    """
    if source.recipe.crop is not None:
        preparation = preparation.model_copy(update={"crop": source.recipe.crop})
    if source.collection is None:
        yield from _from_survey(source.recipe, rows, preparation, start)
    else:
        yield from _from_images(source.collection, rows, preparation, start)


def _from_images(
    collection: ImageCollection, rows: pd.DataFrame, preparation: Preparation, start: int
) -> Iterator[Picture | Reject]:
    names = list(zip(rows["id"], rows["image"], strict=True))
    threads = max(1, min(8, os.cpu_count() or 1))
    pending: deque[Future[Picture | Reject]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="prepare") as pool:
        for row in range(start, len(names)):
            pending.append(pool.submit(_from_member, collection, row, names[row], preparation))
            if len(pending) >= AHEAD * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _from_member(
    collection: ImageCollection, row: int, name: tuple[str, str], preparation: Preparation
) -> Picture | Reject:
    target_id, image = name
    try:
        member = collection.find(target_id, image)
        if member is None:
            raise CutoutUnavailable(Status.NO_IMAGE, f"no image {image!r}" if image else "no image of this id")
        return checked(row, prepare_cutout(decode(collection.read(member), member), preparation))
    except CutoutUnavailable as error:
        return Reject(row, error.reason)


def _from_survey(
    recipe: SourceRecipe, rows: pd.DataFrame, preparation: Preparation, start: int
) -> Iterator[Picture | Reject]:
    spec = SourceSpec.parse(recipe.images, recipe.bands, recipe.zeropoints)
    survey = open_source(spec, preparation, check_source(spec, preparation))
    r90 = rows["r90"].to_numpy()
    fov = field_of_view(preparation.scale_rule, rows["r50"].to_numpy(), r90 if np.isfinite(r90).any() else None)
    usable = np.isfinite(fov) & np.isfinite(rows["ra"].to_numpy())
    for first in range(start, len(rows), BLOCK):
        block = range(first, min(first + BLOCK, len(rows)))
        requests = [
            Request(row, rows["id"].iloc[row], rows["ra"].iloc[row], rows["dec"].iloc[row],
                    frame_of(preparation, float(fov[row])))
            for row in block if usable[row]
        ]  # fmt: skip
        answers = dict(survey.fetch(requests))
        for row in block:
            answer = answers.get(row)
            if isinstance(answer, Cutout):
                yield checked(row, prepare_cutout(answer.pixels, preparation))
            else:
                yield Reject(row, "its position or size is not known" if answer is None else answer.reason)


def checked(row: int, pixels: NDArray[np.uint8]) -> Picture | Reject:
    """Return a picture, or a reject where every pixel is the same: all such look like one galaxy."""
    if (pixels == pixels[0, 0]).all():
        return Reject(row, "the image is blank")
    return Picture(row, pixels, hashlib.sha256(pixels.tobytes()).hexdigest())
