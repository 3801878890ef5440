"""``images:PATH``: ready images, matched to targets by name or by id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gzsurvey.cutouts.ahead import answer_each
from gzsurvey.cutouts.collection import ImageCollection, decode, open_collection
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.errors import CutoutUnavailable
from gzsurvey.status import Status

THREADS = 4
"""Decoding leaves Python's lock, so threads pay."""
AHEAD = 16
"""Pictures decoded before they are asked for: bounds memory."""


class ImagesSource:
    """Ready images of a directory, tar, zip or parquet.

    Parameters
    ----------
    path : Path or str
        As `open_collection` takes it.
    """

    def __init__(self, path: Path | str) -> None:
        self.name = f"images:{path}"
        self.collection: ImageCollection = open_collection(path)

    def fetch(self, requests: Sequence[Request]) -> Iterator[tuple[int, Cutout | Miss]]:
        """Yield ``(request.row, answer)`` for each request, in order.

        A request's image is the member it names, or else the one whose stem is its id.
        """
        return answer_each(requests, self._answer, THREADS, AHEAD)

    def _answer(self, request: Request) -> Cutout | Miss:
        member = self.collection.find(request.target_id, request.image)
        if member is None:
            wanted = repr(request.image) if request.image else f"for id {request.target_id!r}"
            return Miss(Status.NO_IMAGE, f"{self.collection.path.name} has no image {wanted}", image_set=self.name)
        try:
            pixels = decode(self.collection.read(member), member)
        except CutoutUnavailable as error:
            return Miss(Status(error.status), error.reason, image_id=member, image_set=self.name)
        return Cutout(pixels, image_id=member, image_set=self.name)
