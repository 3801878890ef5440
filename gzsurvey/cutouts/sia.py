"""``sia:``: cutouts from an archive's images: asked once per block which there are, then for each galaxy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gzsurvey.cutouts.ahead import answer_each
from gzsurvey.cutouts.archive import Archive, ArchiveImage
from gzsurvey.cutouts.held import Visits
from gzsurvey.cutouts.planes import Flux, Plane
from gzsurvey.cutouts.remote.client import Client
from gzsurvey.cutouts.source import Cutout, Demand, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import CutoutUnavailable, SourceError, SourceFault
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.status import Status

IMAGES_TRIED = 4
"""Per target and band: the nearest ones, until no pixel is missing."""
SMALLEST_DEG = 0.001
"""Of a circle asked about."""


class SiaSource:
    """Cutouts from the images of one SIA service.

    Parameters
    ----------
    spec : SourceSpec
        Address, bands as the archive names them, collection and product type.
    preparation : Preparation
        The model's.
    client : Client
        Of the archive.
    missing_limit : float
        Share of missing pixels, in the worst band, above which there is a miss.
    """

    def __init__(self, spec: SourceSpec, preparation: Preparation, client: Client, missing_limit: float) -> None:
        self.name = spec.text
        self._client, self._limit = client, missing_limit
        self._flux = replace(Flux.of(spec, preparation), pixel_arcsec=None)
        self._archive = Archive(client, spec.collection, spec.product)
        self._visits = Visits(self._archive.forget)

    def fetch(self, requests: Sequence[Request]) -> Iterator[tuple[int, Cutout | Miss]]:
        """Yield ``(request.row, answer)`` for each request, in order.

        Raises
        ------
        gzsurvey.errors.SourceFault
            The archive does not say which images it has.
        """
        if not requests:
            return
        threads = self._client.politeness.connections
        with self._visits.visit():
            by_band: defaultdict[str, list[ArchiveImage]] = defaultdict(list)
            for image in self._images(requests).values():
                by_band[image.band].append(image)
            yield from answer_each(requests, lambda request: self._answer(request, by_band), threads, 2 * threads)

    def probe(self) -> None:
        """Ask which images there are at one place.

        Raises
        ------
        gzsurvey.errors.SourceError
            The address cannot be reached, or is no SIA service.
        """
        try:
            self._archive.search(180.0, 0.0, SMALLEST_DEG)
        except CutoutUnavailable as error:
            raise SourceError(self.name, error.reason) from None

    def demand(
        self, ra_deg: NDArray[np.float64], _dec_deg: NDArray[np.float64], _fov_arcsec: NDArray[np.float64]
    ) -> Demand:
        """Return one request per target and band; those for lists and links come on top."""
        return self._client.demand(len(ra_deg) * len(self._flux.names))

    def _images(self, requests: Sequence[Request]) -> dict[tuple[str, str], ArchiveImage]:
        """List what the archive has around some targets; where it cuts its list, around half of them at a time."""
        try:
            found, complete = self._archive.search(*_circle(requests))
        except CutoutUnavailable as error:
            raise SourceFault(self.name, f"does not say which images it has: {error.reason}") from None
        images = {(image.identifier, image.band): image for image in found}
        if complete:
            return images
        if len(requests) == 1:
            raise SourceError(self.name, f"cuts its list of images at {len(found)}; name collection and product type")
        middle = len(requests) // 2
        return self._images(requests[:middle]) | self._images(requests[middle:])

    def _answer(self, request: Request, by_band: dict[str, list[ArchiveImage]]) -> Cutout | Miss:
        nearest = {band: _nearest(by_band.get(band, []), request) for band in self._flux.names}
        without = [band for band, images in nearest.items() if not images]
        if without:
            there = sorted(band for band, images in by_band.items() if _nearest(images, request))
            if not there:
                return Miss(Status.NO_IMAGE, "no image here", image_set=self.name)
            reason = f"no image of band {', '.join(without)} here, only of {', '.join(there)}"
            return Miss(Status.BAND_MISSING, reason, image_set=self.name)
        image_id = nearest[self._flux.names[0]][0].identifier
        try:
            planes = {band: self._plane(band, images, request) for band, images in nearest.items()}
        except CutoutUnavailable as error:
            return Miss(Status(error.status), error.reason, image_id=image_id, image_set=self.name)
        return self._flux.cutout(planes, image_id, self._limit)

    def _plane(self, band: str, images: Sequence[ArchiveImage], request: Request) -> Plane:
        size = request.frame.size_px
        plane: Plane = np.full((size, size), np.nan, dtype=np.float32)
        for image in images[:IMAGES_TRIED]:
            try:
                found = self._archive.cutout(image, request)
            except CutoutUnavailable as error:
                if error.status == Status.NO_IMAGE:
                    continue
                raise
            per_count = self._flux.nanomaggies(band, found.keywords)
            new = self._flux.plane(found.pixels, found.header, per_count, request)
            plane = np.where(np.isnan(plane), new, plane)
            if not np.isnan(plane).any():
                break
        return plane


def _circle(requests: Sequence[Request]) -> tuple[float, float, float]:
    """Return the centre and the radius, degrees, of a circle around all frames."""
    ra, dec = (np.radians([getattr(request, name) for request in requests]) for name in ("ra_deg", "dec_deg"))
    xyz = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    x, y, z = xyz.mean(axis=0)
    centre = np.array([x, y, z]) / np.linalg.norm([x, y, z])
    away = np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(xyz - centre, axis=1) / 2, 0, 1)))
    reach = np.array([request.frame.fov_arcsec for request in requests]) / 3600 / np.sqrt(2)
    ra0, dec0 = np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arctan2(z, np.hypot(x, y)))
    return float(ra0), float(dec0), max(float((away + reach).max()), SMALLEST_DEG)


def _nearest(images: Sequence[ArchiveImage], request: Request) -> list[ArchiveImage]:
    """Images whose circle holds the target, those in whose middle it lies first."""
    if not images:
        return []
    ra, dec = (np.radians([getattr(image, name) for image in images]) for name in ("ra_deg", "dec_deg"))
    here_ra, here_dec = np.radians(request.ra_deg), np.radians(request.dec_deg)
    square = np.sin((dec - here_dec) / 2) ** 2 + np.cos(dec) * np.cos(here_dec) * np.sin((ra - here_ra) / 2) ** 2
    away = np.degrees(2 * np.arcsin(np.sqrt(np.clip(square, 0, 1))))
    radius = np.array([image.radius_deg for image in images])
    order = sorted(np.flatnonzero(away <= radius).tolist(), key=lambda n: (away[n], images[n].identifier))
    return [images[n] for n in order]
