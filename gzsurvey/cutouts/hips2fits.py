"""``hips2fits:``: cutouts that a service resamples from HiPS tiles, through astroquery."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import astropy.units as u
import numpy as np
import requests
from astropy.coordinates import Angle, Latitude, Longitude
from numpy.typing import NDArray

from gzsurvey.cutouts.ahead import answer_each
from gzsurvey.cutouts.planes import Flux, Plane, or_miss, picture_cutout
from gzsurvey.cutouts.remote.client import Client, UnfitReply
from gzsurvey.cutouts.remote.decode import FitsImage, fits_image, picture
from gzsurvey.cutouts.source import Cutout, Demand, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import CutoutUnavailable, SourceError
from gzsurvey.images.frame import Frame
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.status import Status

FULL_ID = re.compile(r"(ivo://)?[^/\s]+/[A-Z]+/\S+")
"""Authority, kind, survey: of a shorter one the service takes any that matches."""
PROBE_PX = 16
T = TypeVar("T")


class Hips2fitsSource:
    """Cutouts of one HiPS, or of one per band.

    Parameters
    ----------
    spec : SourceSpec
        With ``{band}`` in the id, or bands: flux from FITS. Neither: ready pictures of a colour HiPS.
    preparation : Preparation
        The model's.
    client : Client
        Of the service and its mirrors.
    missing_limit : float
        Share of missing pixels, in the worst band, above which there is a miss.

    Raises
    ------
    gzsurvey.errors.SourceError
        The id is not a full one, or what its counts mean is not known.
    """

    def __init__(self, spec: SourceSpec, preparation: Preparation, client: Client, missing_limit: float) -> None:
        self.name = spec.text
        self._hips = spec.place
        if not FULL_ID.fullmatch(self._hips):
            raise SourceError(
                spec.text,
                f"{self._hips!r} is no full HiPS id, and the service takes any that matches; write e.g. CDS/P/DSS2/red",
            )
        self._client, self._limit = client, missing_limit
        self._preparation = preparation
        self._flux = Flux.of(spec, preparation) if spec.is_flux else None
        if self._flux is not None:
            spec.counts_scale()
        self._services = {server: _service(server, client.session) for server in client.servers}

    def fetch(self, requests: Sequence[Request]) -> Iterator[tuple[int, Cutout | Miss]]:
        """Yield ``(request.row, answer)`` for each request, in order."""
        threads = self._client.politeness.connections
        answer = self._pixels if self._flux is not None else self._picture
        return answer_each(requests, or_miss(answer, self.name, self._hips), threads, 2 * threads)

    def probe(self) -> None:
        """Ask for a few pixels of each HiPS.

        Raises
        ------
        gzsurvey.errors.SourceError
            The service cannot be reached, or does not know the HiPS.
        """
        request = Request(0, "probe", 0.0, 0.0, Frame(PROBE_PX, 1.0))
        try:
            if self._flux is None:
                self._colours(request, tries=2)
                return
            for band in self._flux.names:
                self._flux.nanomaggies(band, self._image(band, request, tries=2).keywords)
        except CutoutUnavailable as error:
            raise SourceError(self.name, error.reason) from None

    def demand(
        self, ra_deg: NDArray[np.float64], _dec_deg: NDArray[np.float64], _fov_arcsec: NDArray[np.float64]
    ) -> Demand:
        """Return one request per target and band."""
        return self._client.demand(len(ra_deg) * (1 if self._flux is None else len(self._flux.names)))

    def _pixels(self, request: Request) -> Cutout | Miss:
        flux = self._flux
        assert flux is not None
        planes: dict[str, Plane] = {}
        for band in flux.names:
            image = self._image(band, request)
            planes[band] = flux.plane(image.pixels, image.header, flux.nanomaggies(band, image.keywords), request)
        return flux.cutout(planes, self._hips, self._limit)

    def _image(self, band: str, request: Request, tries: int | None = None) -> FitsImage:
        asked = _Asked(
            self._hips.format(band=band),
            "fits",
            request.frame.size_px,
            request.frame.fov_arcsec,
            request.ra_deg,
            request.dec_deg,
        )

        def checked(body: bytes) -> FitsImage:
            image = fits_image(body)
            asked.check(image.pixels.shape)
            return image

        return self._get(asked, checked, tries)

    def _picture(self, request: Request) -> Cutout | Miss:
        colours = self._colours(request)
        if colours.min() < colours.max() and (colours == colours[:, :, :1]).all():
            reason = "a grey picture, stretched by percentiles of its own: ask for flux with --bands and --zeropoints"
            return Miss(Status.UNREADABLE, reason, image_id=self._hips, image_set=self.name)
        return picture_cutout(colours, self.name, self._hips)

    def _colours(self, request: Request, tries: int | None = None) -> NDArray[np.uint8]:
        """The picture of the whole field: a model that crops ready images crops it too."""
        crop = self._preparation.crop
        size, fov = round(request.frame.size_px / crop), request.frame.fov_arcsec / crop
        asked = _Asked(self._hips, "jpg", size, fov, request.ra_deg, request.dec_deg)

        def checked(body: bytes) -> NDArray[np.uint8]:
            colours = picture(body)
            asked.check(colours.shape[:2])
            return colours

        return self._get(asked, checked, tries)

    def _get(self, asked: _Asked, decode: Callable[[bytes], T], tries: int | None) -> T:
        def ask(server: str) -> requests.Response:
            return asked.of(self._services[server])

        return self._client.fetch(ask, decode, f"{self._client.servers[0]} {asked}", tries)


@dataclass(frozen=True)
class _Asked:
    """One image, as the service is asked for it."""

    hips: str
    format: str
    size_px: int
    fov_arcsec: float
    ra_deg: float
    dec_deg: float

    def of(self, service: Any) -> requests.Response:
        response: requests.Response = service.query_async(
            hips=self.hips,
            width=self.size_px,
            height=self.size_px,
            projection="TAN",
            ra=Longitude(self.ra_deg, u.deg),
            dec=Latitude(self.dec_deg, u.deg),
            fov=Angle(self.fov_arcsec / 3600, u.deg),
            coordsys="icrs",
            rotation_angle=Angle(0, u.deg),
            format=self.format,
            min_cut=0.5,
            max_cut=99.5,
            stretch="linear",
            cmap="Greys_r",
        )
        return response

    def check(self, shape: tuple[int, ...]) -> None:
        if shape != (self.size_px, self.size_px):
            size = f"{self.size_px} x {self.size_px}"
            raise UnfitReply(f"an image of {' x '.join(map(str, shape))} pixels, {size} were asked for")


def _service(server: str, session: requests.Session) -> Any:
    """Return the client of astroquery, pointed at one server, through our session.

    Its option `conf.server` takes no address but its own two, and its session writes every reply into a log.
    """
    from astroquery.hips2fits import hips2fitsClass

    service = hips2fitsClass()
    service.server = server
    service._session = session
    return service
