"""``skyview:``: cutouts that NASA's SkyView resamples from its surveys, through astroquery."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import astropy.units as u
import numpy as np
import requests
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

from gzsurvey.cutouts.ahead import answer_each
from gzsurvey.cutouts.planes import Flux, or_miss
from gzsurvey.cutouts.remote.client import Client, UnfitReply
from gzsurvey.cutouts.remote.decode import FitsImage, fits_image
from gzsurvey.cutouts.source import Cutout, Demand, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.cutouts.tiles import blank
from gzsurvey.errors import SourceError
from gzsurvey.recipes.preparation import Preparation

REQUESTS_PER_IMAGE = 2
"""A page with a link to the image, and the image."""
SAMPLER = "LI"
"""Bilinear, as our own; the service's usual one takes the nearest pixel."""


class SkyviewSource:
    """Cutouts of one of SkyView's surveys, or of one per band.

    Parameters
    ----------
    spec : SourceSpec
        With ``{band}`` in the survey's name, or one band alone; zero points and pixel scale.
    preparation : Preparation
        The model's.
    client : Client
        Of the service.
    missing_limit : float
        Share of missing pixels, in the worst band, above which there is a miss.

    Raises
    ------
    gzsurvey.errors.SourceError
        Several bands are asked of one survey, or what its counts mean is not known.
    """

    def __init__(self, spec: SourceSpec, preparation: Preparation, client: Client, missing_limit: float) -> None:
        self.name = spec.text
        self._client, self._limit = client, missing_limit
        self._flux = Flux.of(spec, preparation)
        spec.counts_scale()
        self._surveys = {band: spec.place.replace("{band}", band) for band in self._flux.names}
        if len(set(self._surveys.values())) < len(self._surveys):
            raise SourceError(spec.text, "is one survey for several bands; write {band} in its name, or --bands r,r,r")
        self._services = {server: _service(server, client.session) for server in client.servers}

    def fetch(self, requests: Sequence[Request]) -> Iterator[tuple[int, Cutout | Miss]]:
        """Yield ``(request.row, answer)`` for each request, in order."""
        threads = self._client.politeness.connections
        answer = or_miss(self._pixels, self.name, self._surveys[self._flux.names[0]])
        return answer_each(requests, answer, threads, 2 * threads)

    def probe(self) -> None:
        """Ask which surveys there are.

        Raises
        ------
        gzsurvey.errors.SourceError
            The service cannot be reached, or does not know the survey.
        """
        try:
            listed = self._services[self._client.servers[0]].survey_dict.values()
        except (requests.RequestException, _Refused):
            raise SourceError(self.name, "the host cannot be reached, or does not list its surveys") from None
        known = [name for names in listed for name in names]
        for band, survey in self._surveys.items():
            if survey not in known:
                near = get_close_matches(survey, known, n=1)
                raise SourceError(
                    self.name, f"SkyView has no survey {survey!r}" + (f"; did you mean {near[0]!r}?" if near else "")
                )
            if self._flux.zeropoints is None:
                raise SourceError(self.name, f"says no zero point of band {band!r}; give it with --zeropoints")

    def demand(
        self, ra_deg: NDArray[np.float64], _dec_deg: NDArray[np.float64], _fov_arcsec: NDArray[np.float64]
    ) -> Demand:
        """Return two requests per target and band."""
        return self._client.demand(REQUESTS_PER_IMAGE * len(ra_deg) * len(self._surveys))

    def _pixels(self, request: Request) -> Cutout | Miss:
        planes = {}
        for band, survey in self._surveys.items():
            image = self._image(survey, request)
            planes[band] = self._flux.plane(image.pixels, image.header, self._flux.nanomaggies(band), request)
        return self._flux.cutout(planes, self._surveys[self._flux.names[0]], self._limit)

    def _image(self, survey: str, request: Request) -> FitsImage:
        size, fov = request.frame.size_px, request.frame.fov_arcsec

        def ask(server: str) -> requests.Response:
            try:
                links = self._services[server].get_image_list(
                    _Exact(request.ra_deg, request.dec_deg, unit="deg"), survey, coordinates="ICRS",
                    projection="Tan", pixels=str(size), sampler=SAMPLER, width=fov * u.arcsec, height=fov * u.arcsec,
                )  # fmt: skip
            except _Refused as refused:
                return refused.response
            if len(links) != 1:
                raise UnfitReply("a page without a link to one FITS file")
            return self._client.session.get(links[0])

        def checked(body: bytes) -> FitsImage:
            image = fits_image(body)
            if image.pixels.shape != (size, size):
                shape = " x ".join(map(str, image.pixels.shape))
                raise UnfitReply(f"an image of {shape} pixels, {size} x {size} were asked for")
            image.pixels[blank(image.pixels, (0, 0, size, size), (size, size))] = np.nan
            return image

        key = f"{self._client.servers[0]} {survey} {request.ra_deg!r} {request.dec_deg!r} {size} {fov!r}"
        return self._client.fetch(ask, checked, key)


class _Refused(Exception):
    """A page that the service did not give."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(response)
        self.response = response


class _Exact(SkyCoord):  # type: ignore[misc]
    """An ICRS position that astroquery writes out in full: of others it writes six digits, that is two arcseconds."""

    @property
    def fk5(self) -> SkyCoord:
        return self

    def to_string(self, *_: Any, **__: Any) -> str:
        return f"{self.ra.deg:.8f} {self.dec.deg:.8f}"


def _service(server: str, session: requests.Session) -> Any:
    """Return the client of astroquery, pointed at one server, through our session; it asks for its form once."""
    from astroquery.skyview import SkyViewClass

    class Service(SkyViewClass):  # type: ignore[misc]
        URL = server
        _form: requests.Response | None = None

        def _request(self, method: str, url: str, **options: Any) -> requests.Response:
            if self._form is not None and url == self.URL:
                return self._form
            response = session.request(method, url, params=options.get("params"))
            if response.status_code != 200:
                raise _Refused(response)
            if url == self.URL:
                self._form = response
            return response

    return Service()
