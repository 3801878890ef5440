"""``sdss``: cutouts from whole frames of the Sloan Digital Sky Survey, found through astroquery."""

from __future__ import annotations

import bz2
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import astropy.units as u
import numpy as np
import requests
import scipy
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

from gzsurvey.cutouts.ahead import answer_each
from gzsurvey.cutouts.held import Held, Visits
from gzsurvey.cutouts.outline import unit_vectors
from gzsurvey.cutouts.planes import Flux, Plane
from gzsurvey.cutouts.remote.client import Client, UnfitReply
from gzsurvey.cutouts.remote.decode import FitsImage, fits_image
from gzsurvey.cutouts.source import Cutout, Demand, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import CutoutUnavailable, SourceError, SourceFault
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.status import Status

BANDS = frozenset("ugriz")
RELEASE = 17
"""Data release that is asked where the SOURCE names none: the last one of the imaging."""
FRAMES = "https://data.sdss.org/sas"
"""Where frames lie; at a server that the SOURCE names, below ``/sas``."""
TARGETS_AT_ONCE = 200
"""Of one question for the nearest catalogued objects, whose frames show the targets."""
NEAREST_ARCMIN = 1.0
FRAMES_HELD = 18
"""Of 12 MB each."""
FRAME_BYTES = 64 << 20
"""A frame that unpacks to more is refused."""


@dataclass(frozen=True, order=True, slots=True)
class Field:
    """One exposure of the camera, as frames are named."""

    run: int
    rerun: int
    camcol: int
    field: int

    def __str__(self) -> str:
        return f"{self.run:06d}-{self.camcol}-{self.field:04d}"

    @property
    def neighbours(self) -> tuple[Field, Field]:
        """Fields before and after it in the scan: they overlap it."""
        return replace(self, field=self.field - 1), replace(self, field=self.field + 1)


@dataclass(frozen=True, slots=True)
class _Object:
    """A catalogued object, and the field that it was measured in."""

    ra_deg: float
    dec_deg: float
    field: Field


class SdssSource:
    """Cutouts from the frames of one data release.

    Parameters
    ----------
    spec : SourceSpec
        ``sdss``, or ``sdss:RELEASE``; its bands are among u, g, r, i, z.
    preparation : Preparation
        The model's.
    client : Client
        Of the catalogue server.
    missing_limit : float
        Share of missing pixels, in the worst band, above which there is a miss.

    Raises
    ------
    gzsurvey.errors.SourceError
        There is no such release or band.
    """

    def __init__(self, spec: SourceSpec, preparation: Preparation, client: Client, missing_limit: float) -> None:
        self.name = spec.text
        self._client, self._limit = client, missing_limit
        self._flux = replace(Flux.of(spec, preparation), pixel_arcsec=None)
        unknown = [band for band in self._flux.names if band not in BANDS]
        if unknown:
            raise SourceError(spec.text, f"has no band {unknown[0]!r}; name some of u, g, r, i, z with --bands")
        if not (spec.place or str(RELEASE)).isdecimal():
            raise SourceError(spec.text, f"{spec.place!r} is no data release; write e.g. sdss:{RELEASE}")
        self._release = int(spec.place or RELEASE)
        self._frames = f"{client.servers[0]}/sas" if "@" in spec.text else FRAMES
        self._services = {server: _service(server, client.session) for server in client.servers}
        self._held: Held[FitsImage] = Held(FRAMES_HELD)
        self._visits = Visits(self._held.forget_failures)

    def fetch(self, requests: Sequence[Request]) -> Iterator[tuple[int, Cutout | Miss]]:
        """Yield ``(request.row, answer)`` for each request, frame by frame.

        Raises
        ------
        gzsurvey.errors.SourceFault
            The catalogue server does not say which frames show the targets.
        """
        threads = self._client.politeness.connections
        with self._visits.visit():
            fields: dict[int, Field] = {}
            for start in range(0, len(requests), TARGETS_AT_ONCE):
                some = requests[start : start + TARGETS_AT_ONCE]
                try:
                    fields |= self._fields(some)
                except CutoutUnavailable as error:
                    raise SourceFault(
                        self.name, f"does not say which frames show the targets: {error.reason}"
                    ) from None
            covered = [request for request in requests if request.row in fields]
            covered.sort(key=lambda request: fields[request.row])
            yield from (
                (request.row, Miss(Status.NO_IMAGE, "outside the imaging", image_set=self.name))
                for request in requests
                if request.row not in fields
            )
            yield from answer_each(
                covered, lambda request: self._answer(request, fields[request.row]), threads, 2 * threads
            )

    def probe(self) -> None:
        """Ask which frame shows one place.

        Raises
        ------
        gzsurvey.errors.SourceError
            The catalogue server cannot be reached, or does not answer as it should.
        """
        try:
            self._objects(SkyCoord([180.0], [2.0], unit="deg"), tries=2)
        except CutoutUnavailable as error:
            raise SourceError(self.name, error.reason) from None

    def demand(
        self, ra_deg: NDArray[np.float64], _dec_deg: NDArray[np.float64], _fov_arcsec: NDArray[np.float64]
    ) -> Demand:
        """Return one frame per target and band, which is the most there can be: neighbours share frames."""
        return self._client.demand(len(ra_deg) * len(self._flux.names) + -(-len(ra_deg) // TARGETS_AT_ONCE))

    def _fields(self, requests: Sequence[Request]) -> dict[int, Field]:
        """Which field shows each target, by row: that of the nearest object; targets without one are left out."""
        ra, dec = (np.array([getattr(request, name) for request in requests]) for name in ("ra_deg", "dec_deg"))
        objects = self._objects(SkyCoord(ra, dec, unit="deg"))
        if not objects:
            return {}
        there = unit_vectors(*np.array([(one.ra_deg, one.dec_deg) for one in objects]).T)
        away, nearest = map(np.asarray, scipy.spatial.cKDTree(there).query(unit_vectors(ra, dec)))
        close = np.flatnonzero(away < np.radians(NEAREST_ARCMIN / 60))
        return {requests[number].row: objects[int(nearest[number])].field for number in close.tolist()}

    def _objects(self, places: SkyCoord, tries: int | None = None) -> list[_Object]:
        """Ask for the catalogued object that is nearest to each place."""

        def ask(server: str) -> requests.Response:
            try:
                response: requests.Response = self._services[server].query_crossid_async(
                    places, radius=NEAREST_ARCMIN * u.arcmin, data_release=self._release,
                    photoobj_fields=["ra", "dec", "run", "rerun", "camcol", "field"],
                )  # fmt: skip
            except _Refused as refused:
                return refused.response
            return response

        return self._client.fetch(ask, _objects_of, None, tries)

    def _answer(self, request: Request, field: Field) -> Cutout | Miss:
        try:
            planes = {band: self._plane(band, field, request) for band in self._flux.names}
        except CutoutUnavailable as error:
            return Miss(Status(error.status), error.reason, image_id=str(field), image_set=self.name)
        return self._flux.cutout(planes, str(field), self._limit)

    def _plane(self, band: str, field: Field, request: Request) -> Plane:
        """Fill a frame from a field, then from its neighbours where pixels are missing."""
        plane: Plane = np.full((request.frame.size_px,) * 2, np.nan, dtype=np.float32)
        for one in (field, *field.neighbours):
            try:
                image = self._held.get((one, band), lambda one=one: self._image(one, band))  # type: ignore[misc]
            except CutoutUnavailable as error:
                if error.status == Status.NO_IMAGE and one != field:
                    continue
                raise
            new = self._flux.plane(image.pixels, image.header, self._flux.nanomaggies(band, image.keywords), request)
            plane = np.where(np.isnan(plane), new, plane)
            if not np.isnan(plane).any():
                break
        return plane

    def _image(self, field: Field, band: str) -> FitsImage:
        url = self._services[self._client.servers[0]].frame(self._frames, self._release, field, band)
        return self._client.fetch(lambda _: self._client.session.get(url), _unpacked, url)


def _objects_of(body: bytes) -> list[_Object]:
    text = body.decode("utf-8", "replace")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    try:
        table = csv.DictReader(io.StringIO("\n".join(lines)))
        if not {"ra", "dec", "run", "rerun", "camcol", "field"} <= set(table.fieldnames or ()):
            raise ValueError
        return [
            _Object(
                float(row["ra"]), float(row["dec"]),
                Field(*(int(row[name]) for name in ("run", "rerun", "camcol", "field"))),
            )
            for row in table
        ]  # fmt: skip
    except (ValueError, TypeError):
        raise UnfitReply(f"no list of objects but {' '.join(text.split())[:80]!r}") from None


def _unpacked(body: bytes) -> FitsImage:
    """Decode a frame: FITS within bzip2."""
    try:
        plain = bz2.BZ2Decompressor().decompress(body, FRAME_BYTES)
    except (OSError, ValueError):
        raise UnfitReply("a frame that is no bzip2 file") from None
    return fits_image(plain)


class _Refused(Exception):
    """A page that the service did not give."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(response)
        self.response = response


def _service(server: str, session: requests.Session) -> Any:
    """Return the client of astroquery, pointed at one server, through our session.

    Its option that names the server belongs to the whole process, and it downloads frames past any session.
    """
    from astroquery.sdss import SDSSClass

    class Service(SDSSClass):  # type: ignore[misc]
        def _get_crossid_url(self, data_release: int) -> str:
            return server + str(self.XID_URL_SUFFIX_NEW).format(dr=data_release)

        def _get_query_url(self, data_release: int) -> str:
            return server + str(self.QUERY_URL_SUFFIX_DR_NEW).format(dr=data_release)

        def _request(self, method: str, url: str, **options: Any) -> requests.Response:
            known = {name: options[name] for name in ("params", "data", "files") if name in options}
            response = session.request(method, url, **known)
            if response.status_code != 200:
                raise _Refused(response)
            return response

        def frame(self, base: str, release: int, field: Field, band: str) -> str:
            """Address of one frame."""
            instrument = "prior-surveys/sdss4-dr17-eboss" if release > 17 else "eboss" if release > 12 else "boss"
            where = {"base": base, "dr": release, "instrument": instrument, "band": band} | asdict(field)
            return str(self.IMAGING_URL_SUFFIX.format(**where))

    return Service()
