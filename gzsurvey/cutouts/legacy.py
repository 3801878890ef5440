"""``legacy:``: cutouts of the Legacy Surveys viewer, asked for in native pixels and resampled here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import requests
from numpy.typing import NDArray

from gzsurvey.cutouts import headers
from gzsurvey.cutouts.ahead import answer_each
from gzsurvey.cutouts.planes import Flux, or_miss
from gzsurvey.cutouts.remote.client import Client, UnfitReply
from gzsurvey.cutouts.remote.decode import FitsImage, fits_image
from gzsurvey.cutouts.source import Cutout, Demand, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.cutouts.tiles import blank
from gzsurvey.errors import CutoutUnavailable, SourceError
from gzsurvey.images.frame import Frame
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.status import Status

NATIVE_ARCSEC = 0.262
LARGEST_PX = 3000
"""The service cuts wider images to this, and does not say so."""
LAYER = re.compile(r"ls-dr\d+(-[a-z0-9]+)*")
"""Layers in nanomaggies with native pixels of 0.262 arcsec; what it does not know, the service replaces."""
BANDS = frozenset("ugrizy")
MARGIN_PX = 2
PROBE = Request(0, "probe", 180.0, 0.0, Frame(16, NATIVE_ARCSEC))
"""Within all of its layers."""


class LegacySource:
    """Cutouts of one layer of the Legacy Surveys.

    Parameters
    ----------
    spec : SourceSpec
        Names the layer.
    preparation : Preparation
        The model's.
    client : Client
        Of the viewer.
    missing_limit : float
        Share of missing pixels, in the worst band, above which there is a miss.

    Raises
    ------
    gzsurvey.errors.SourceError
        It is no layer in nanomaggies, or a band has no such name.
    """

    def __init__(self, spec: SourceSpec, preparation: Preparation, client: Client, missing_limit: float) -> None:
        self.name, self._layer = spec.text, spec.place
        self._client, self._limit = client, missing_limit
        self._flux = Flux.of(spec, preparation)
        if not LAYER.fullmatch(self._layer):
            raise SourceError(spec.text, f"{self._layer!r} is no layer of the Legacy Surveys; write e.g. ls-dr10")
        unknown = [band for band in self._flux.names if band not in BANDS]
        if unknown:
            raise SourceError(
                spec.text, f"has no band {unknown[0]!r}; name the survey's bands with --bands, e.g. --bands g,r,z"
            )

    def fetch(self, requests: Sequence[Request]) -> Iterator[tuple[int, Cutout | Miss]]:
        """Yield ``(request.row, answer)`` for each request, in order."""
        threads = self._client.politeness.connections
        return answer_each(requests, or_miss(self._answer, self.name, self._layer), threads, 2 * threads)

    def probe(self) -> None:
        """Ask for a few pixels in the middle of the survey.

        Raises
        ------
        gzsurvey.errors.SourceError
            The service cannot be reached, or does not know layer and bands.
        """
        try:
            self._image(PROBE, tries=2)
        except CutoutUnavailable as error:
            raise SourceError(self.name, error.reason) from None

    def demand(
        self, ra_deg: NDArray[np.float64], _dec_deg: NDArray[np.float64], _fov_arcsec: NDArray[np.float64]
    ) -> Demand:
        """Return one request per target, for all bands."""
        return self._client.demand(len(ra_deg))

    def _answer(self, request: Request) -> Cutout | Miss:
        image = self._image(request)
        if image.header.get("OVERLAP", True) in (False, "F"):
            raise CutoutUnavailable(Status.NO_IMAGE, "outside the survey")
        planes = {}
        for band, pixels in zip(self._flux.names, image.pixels, strict=True):
            height, width = pixels.shape
            known = np.where(blank(pixels, (0, 0, width, height), (height, width)), np.float32(np.nan), pixels)
            planes[band] = self._flux.plane(known, image.header, self._nanomaggies(band), request)
        return self._flux.cutout(planes, self._layer, self._limit)

    def _nanomaggies(self, band: str) -> float:
        return 1.0 if self._flux.zeropoints is None else self._flux.nanomaggies(band)

    def _image(self, request: Request, tries: int | None = None) -> FitsImage:
        asked = _Asked.of(self._layer, self._flux.names, request)

        def decode(body: bytes) -> FitsImage:
            return asked.checked(fits_image(body))

        def ask(server: str) -> requests.Response:
            return self._client.session.get(f"{server.rstrip('/')}/cutout.fits", params=asked.params)

        return self._client.fetch(ask, decode, f"{self._client.servers[0]} {asked}", tries)


@dataclass(frozen=True)
class _Asked:
    """One image, as the viewer is asked for it: nothing is left to its defaults."""

    layer: str
    bands: tuple[str, ...]
    ra_deg: float
    dec_deg: float
    size_px: int

    @classmethod
    def of(cls, layer: str, bands: tuple[str, ...], request: Request) -> _Asked:
        """Ask for all native pixels that a frame needs; at the native scale, on the frame's own grid."""
        needed = math.ceil(request.frame.fov_arcsec / NATIVE_ARCSEC - 1e-6)
        size = needed + 2 * MARGIN_PX + (needed - request.frame.size_px) % 2
        if size > LARGEST_PX:
            reason = f"needs {size:,} native pixels on a side, and the service cuts at {LARGEST_PX:,}"
            raise CutoutUnavailable(Status.NO_IMAGE, reason)
        return cls(layer, bands, request.ra_deg, request.dec_deg, size)

    @property
    def params(self) -> dict[str, str]:
        return {
            "ra": f"{self.ra_deg:.7f}",
            "dec": f"{self.dec_deg:.7f}",
            "layer": self.layer,
            "pixscale": str(NATIVE_ARCSEC),
            "size": str(self.size_px),
            "bands": "".join(self.bands),
        }

    def checked(self, image: FitsImage) -> FitsImage:
        """Refuse what the service sends in place of what it did not understand."""
        pixels = image.pixels if image.pixels.ndim == 3 else image.pixels[None]
        wanted = (len(self.bands), self.size_px, self.size_px)
        if pixels.shape != wanted:
            raise UnfitReply(f"an image of shape {pixels.shape}, {wanted} was asked for")
        said = str(image.header.get("BANDS", "")).strip()
        if said and said != "".join(self.bands):
            raise UnfitReply(f"bands {said!r}, {''.join(self.bands)!r} were asked for")
        wcs = image.wcs()
        if abs(headers.scale_arcsec(wcs) / NATIVE_ARCSEC - 1) > 0.01:
            raise UnfitReply(f"pixels of {headers.scale_arcsec(wcs):.3f} arcsec, {NATIVE_ARCSEC} were asked for")
        middle = np.array(wcs.all_world2pix(self.ra_deg, self.dec_deg, 0)) - (self.size_px - 1) / 2
        if not np.abs(middle).max() < 1:
            raise UnfitReply("another place than was asked for")
        return FitsImage(pixels, image.header, image.keywords)
