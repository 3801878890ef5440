"""The closed list of catalogue status codes: what happened to each target."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """What happened to a target; `DESCRIPTIONS` says it in words."""

    PREDICTED = 0
    OUTSIDE_IMAGING = 10
    BAND_MISSING = 11
    MISSING_PIXELS = 12
    MASKED_CENTRE = 13
    NO_IMAGE = 20
    SOURCE_FAILED = 21
    UNREADABLE = 22
    PIXELS_NOT_FINITE = 30
    PREDICTION_NOT_FINITE = 31
    BLOCK_NOT_FINISHED = 40


DESCRIPTIONS: dict[Status, str] = {
    Status.PREDICTED: "predicted",
    Status.OUTSIDE_IMAGING: "outside the imaging",
    Status.BAND_MISSING: "a band is missing",
    Status.MISSING_PIXELS: "too many missing pixels",
    Status.MASKED_CENTRE: "masked at the centre",
    Status.NO_IMAGE: "the source has no image",
    Status.SOURCE_FAILED: "the source failed after retries",
    Status.UNREADABLE: "the image cannot be read",
    Status.PIXELS_NOT_FINITE: "pixels are not finite",
    Status.PREDICTION_NOT_FINITE: "the prediction is not finite",
    Status.BLOCK_NOT_FINISHED: "its block was not finished",
}
