"""From gathered rows to prepared pictures, in order, several at once, few in memory."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
from gzsurvey.processes import worker_processes
from gzsurvey.recipes.cluster import cores
from gzsurvey.recipes.dataset import SourceRecipe
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.status import Status

IMAGES_PER_TASK = 32
AHEAD = 2
"""Tasks in work for each worker: bounds memory."""
PROCESSES_FROM = 20_000
"""Images from which worker processes are worth their start: threads share Python's lock, which small images hold
most of the time."""
BLOCK = 256
"""Cutouts asked of a survey at once, for the same reason."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One prepared picture."""

    row: int
    """Its place in its source."""
    pixels: NDArray[Any]
    """Shape (S, S, 3), uint8, or float32 flux."""
    sha256: str
    """Of the pixels."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a galaxy has no picture."""

    row: int
    reason: str


@contextmanager
def picture_workers(count: int) -> Iterator[Executor]:
    """Offer workers for `count` ready images: threads, or processes where those are worth their start."""
    if count < PROCESSES_FROM or cores() == 1:
        with ThreadPoolExecutor(min(8, cores()), thread_name_prefix="prepare") as threads:
            yield threads
        return
    with worker_processes(cores()) as processes:
        yield processes


def pictures(
    source: Gathered, rows: pd.DataFrame, preparation: Preparation, workers: Executor, start: int = 0
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
    workers : Executor
        Of `picture_workers`; they prepare ready images.
    start : int
        First row wanted.
    """
    if source.recipe.crop is not None:
        preparation = preparation.model_copy(update={"crop": source.recipe.crop})
    if source.collection is None:
        yield from _from_survey(source.recipe, rows, preparation, start)
    else:
        yield from _from_images(source.collection, rows, preparation, workers, start)


def _from_images(
    collection: ImageCollection, rows: pd.DataFrame, preparation: Preparation, workers: Executor, start: int
) -> Iterator[Picture | Reject]:
    names = list(zip(rows["id"], rows["image"], strict=True))
    pending: deque[Future[list[Picture | Reject]]] = deque()
    for first in range(start, len(names), IMAGES_PER_TASK):
        some = names[first : first + IMAGES_PER_TASK]
        pending.append(workers.submit(_from_members, collection, first, some, preparation))
        if len(pending) >= AHEAD * cores():
            yield from pending.popleft().result()
    while pending:
        yield from pending.popleft().result()


def _from_members(
    collection: ImageCollection, first: int, names: Sequence[tuple[str, str]], preparation: Preparation
) -> list[Picture | Reject]:
    return [_from_member(collection, first + i, name, preparation) for i, name in enumerate(names)]


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


def checked(row: int, pixels: NDArray[Any]) -> Picture | Reject:
    """Return a picture, or a reject where every pixel is the same: all such look like one galaxy."""
    if (pixels == pixels[0, 0]).all():
        return Reject(row, "the image is blank")
    return Picture(row, pixels, hashlib.sha256(pixels.tobytes()).hexdigest())
