"""The sources of a run: asked in order, the first that covers a target serves it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gzsurvey.cutouts.open import open_source
from gzsurvey.cutouts.source import Cutout, CutoutSource, Miss, Request
from gzsurvey.images.frame import Frame
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.status import Status
from gzsurvey.survey.record import RunRecord
from gzsurvey.survey.targets_file import Columns

Answer = tuple[int, Cutout | Miss]


def open_sources(run: Path, record: RunRecord, preparation: Preparation) -> tuple[CutoutSource, ...]:
    """Open the sources of a run, from the indexes that `plan` left in it."""
    recipe = record.recipe
    return tuple(
        open_source(
            source.spec,
            preparation,
            run / source.index if source.index else None,
            recipe.missing_limit,
            recipe.politeness,
        )
        for source in record.sources
    )


def requests(targets: Columns, rows: Sequence[int], preparation: Preparation) -> list[Request]:
    """Return what to ask a source for.

    Parameters
    ----------
    targets : dict of str to array, shape (n,)
        Targets of one block.
    rows : sequence of int
        Which of them.
    preparation : Preparation
        From the model's card.
    """
    size = preparation.image_size
    image = targets.get("image")
    widths = np.where(np.isfinite(targets["cutout_width"]), targets["cutout_width"], size)
    return [
        Request(
            row=row,
            target_id=str(targets["id"][row]),
            ra_deg=float(targets["ra"][row]),
            dec_deg=float(targets["dec"][row]),
            frame=Frame(size, float(widths[row]) / size),
            image="" if image is None else str(image[row]),
        )
        for row in rows
    ]


def answers(sources: Sequence[CutoutSource], wanted: Sequence[Request], missing_limit: float) -> Iterator[Answer]:
    """Yield one answer for each request, in any order.

    Parameters
    ----------
    sources : sequence of CutoutSource
        The first that has a target's pixels serves it.
    wanted : sequence of Request
        A block's.
    missing_limit : float
        Cutouts with a larger share of missing pixels are misses.

    Yields
    ------
    (int, Cutout or Miss)
        Row of the request. A `Miss` is the first source's, unless a later one came nearer.
    """
    left = list(wanted)
    misses: dict[int, Miss] = {}
    for source in sources:
        for row, answer in source.fetch(left):
            judged = _judged(answer, missing_limit)
            if isinstance(judged, Cutout):
                misses.pop(row, None)
                yield row, judged
            elif row not in misses or _nearer(judged, misses[row]):
                misses[row] = judged
        left = [request for request in left if request.row in misses]
        if not left:
            return
    yield from misses.items()


def _judged(answer: Cutout | Miss, missing_limit: float) -> Cutout | Miss:
    if isinstance(answer, Miss):
        return answer
    if answer.missing_fraction > missing_limit:
        reason = f"{answer.missing_fraction:.0%} of the pixels have no data, {missing_limit:.0%} are allowed"
        return Miss(Status.MISSING_PIXELS, reason, answer.missing_fraction, answer.image_id, answer.image_set)
    if answer.pixels.dtype.kind == "f" and not _finite_but_for_gaps(answer.pixels):
        return Miss(
            Status.PIXELS_NOT_FINITE, "pixels are infinite", answer.missing_fraction, answer.image_id, answer.image_set
        )
    return answer


def _finite_but_for_gaps(pixels: NDArray[np.generic]) -> bool:
    """Whether pixels are numbers, some of them NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(pixels.sum()):  # no pixel is NaN or infinite: a quarter of the time that asking each takes
            return True
    return not np.isinf(pixels).any() and not np.isnan(pixels).all()


def _nearer(miss: Miss, earlier: Miss) -> bool:
    """Prefer a source that had the field, and one that failed: asking it again may help."""
    rank = {
        Status.OUTSIDE_IMAGING: 0, Status.NO_IMAGE: 0, Status.BAND_MISSING: 1, Status.SOURCE_FAILED: 3,
    }  # fmt: skip
    return rank.get(miss.status, 2) > rank.get(earlier.status, 2)
