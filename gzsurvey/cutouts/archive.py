"""An archive that speaks SIA, DataLink and SODA, asked through pyvo."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io.votable import parse as parse_votable

from gzsurvey.cutouts import headers
from gzsurvey.cutouts.held import Held
from gzsurvey.cutouts.remote.client import Client, UnfitReply
from gzsurvey.cutouts.remote.decode import FitsImage, fits_image
from gzsurvey.cutouts.source import Request
from gzsurvey.errors import CutoutUnavailable, SourceError
from gzsurvey.status import Status

BAND_COLUMNS = ("lsst_band", "energy_bandpassname", "band_name", "bandpass_name", "filter_name", "filter", "band")
"""Of SIA 2 tables, whose standard has wavelengths but no names of bands; compared in lower case."""
DATALINK = "content=datalink"
SODA_SYNC = "ivo://ivoa.net/std/SODA#sync"
NO_IMAGES = "its table lists no images; is it the query address of an SIA service?"
MARGIN_ARCSEC = 2.0
LINKS = 4096
"""DataLink documents held at a time."""
WHOLE_IMAGES = 8
"""Images held at a time that an archive gives only whole."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArchiveImage:
    """One image that an archive lists."""

    identifier: str
    band: str
    ra_deg: float
    dec_deg: float
    radius_deg: float
    """Half of the diameter of the circle around it."""
    url: str
    is_linked: bool
    """Whether `url` is a DataLink document, not the image."""


class Archive:
    """One SIA service, of version 2 or 1, whichever it answers to.

    Parameters
    ----------
    client : Client
        Of the service.
    collection : str or None
        Only its images.
    product : str or None
        Only images of this ``dataproduct_subtype``.
    """

    def __init__(self, client: Client, collection: str | None, product: str | None) -> None:
        self._client, self._collection, self._product = client, collection, product
        self._searches: tuple[Callable[[float, float, float], Any], ...] = (self._sia2, self._sia1)
        self._links: Held[Any] = Held(LINKS)
        self._whole: Held[FitsImage] = Held(WHOLE_IMAGES)

    def forget(self) -> None:
        """Let go of links, which expire, and of images."""
        self._links.forget()
        self._whole.forget()

    def search(self, ra_deg: float, dec_deg: float, radius_deg: float) -> tuple[list[ArchiveImage], bool]:
        """List the images that touch a circle.

        Returns
        -------
        list of ArchiveImage, bool
            Whether the list is complete: a service may cut it.

        Raises
        ------
        gzsurvey.errors.SourceError
            It is no SIA service, or its table lacks what is needed.
        gzsurvey.errors.CutoutUnavailable
            It does not answer.
        """
        failures = []
        for search in self._searches:
            try:
                results = search(ra_deg, dec_deg, radius_deg)
            except (CutoutUnavailable, SourceError) as error:
                failures.append(error)
                continue
            self._searches = (search,)
            return self._images(results), results.status[0].upper() != "OVERFLOW"
        raise failures[0]

    def cutout(self, image: ArchiveImage, request: Request) -> FitsImage:
        """Return pixels that cover a request's frame, or the whole image where the archive cuts nothing.

        Raises
        ------
        gzsurvey.errors.CutoutUnavailable
            It gives none.
        """
        if not image.is_linked:
            return self._file(image.url)
        links = self._links.get(image.url, lambda: self._votable("DatalinkResults", lambda: self._get(image.url)))
        query = self._soda(links, request)
        if query is not None:
            return self._client.fetch(lambda _: query.submit(), fits_image, f"{query.queryurl} {dict(query)}")
        found = next(iter(links.bysemantics("#this")), None)
        if found is None:
            raise CutoutUnavailable(Status.NO_IMAGE, f"{image.identifier} has no link to its pixels")
        return self._file(str(found.access_url))

    def _file(self, url: str) -> FitsImage:
        return self._whole.get(url, lambda: self._client.fetch(lambda _: self._get(url), fits_image, url))

    def _get(self, url: str) -> Any:
        return self._client.session.get(url)

    def _soda(self, links: Any, request: Request) -> Any:
        """Prepare the question for a cutout, or return None where the archive has no such service."""
        from pyvo.dal.adhoc import SodaQuery

        half = request.frame.fov_arcsec / np.sqrt(2) + MARGIN_ARCSEC
        circle = (request.ra_deg, request.dec_deg, half / 3600) * u.deg
        for row in links.iter_procs():
            service = links.get_adhocservice_by_id(row.service_def)
            if any(p.name == "standardID" and str(p.value).startswith(SODA_SYNC) for p in service.params):
                return SodaQuery.from_resource([row], service, session=self._client.session, circle=circle)
        return None

    def _sia2(self, ra_deg: float, dec_deg: float, radius_deg: float) -> Any:
        from pyvo.dal.sia2 import SIA2Query

        query = SIA2Query(
            self._client.servers[0],
            pos=[(ra_deg, dec_deg, radius_deg)],
            collection=self._collection,
            session=self._client.session,
        )
        results = self._votable("SIA2Results", query.submit)
        if "access_url" not in results.fieldnames:
            raise SourceError(self._client.name, NO_IMAGES)
        return results

    def _sia1(self, ra_deg: float, dec_deg: float, radius_deg: float) -> Any:
        from pyvo.dal.sia import SIAQuery

        query = SIAQuery(
            self._client.servers[0],
            pos=(ra_deg, dec_deg),
            size=2 * radius_deg,
            format="image/fits",
            session=self._client.session,
        )
        results = self._votable("SIAResults", query.submit)
        if not results.fieldname_with_ucd("VOX:Image_AccessReference"):
            raise SourceError(self._client.name, NO_IMAGES)
        return results

    def _votable(self, kind: str, submit: Callable[[], Any]) -> Any:
        from pyvo import dal
        from pyvo.dal.adhoc import DatalinkResults

        kinds = {
            "SIA2Results": dal.sia2.SIA2Results,
            "SIAResults": dal.sia.SIAResults,
            "DatalinkResults": DatalinkResults,
        }

        def decode(body: bytes) -> Any:
            try:
                with headers.quiet():
                    return kinds[kind](parse_votable(io.BytesIO(body)), session=self._client.session)
            except dal.DALQueryError as error:
                raise SourceError(self._client.name, f"the archive says: {' '.join(str(error).split())}") from None
            except (dal.DALFormatError, ValueError, OSError, IndexError, TypeError, SyntaxError) as error:
                raise UnfitReply(f"no VOTable ({' '.join(str(error).split())[:80]})") from None

        return self._client.fetch(lambda _: submit(), decode, None)

    def _images(self, results: Any) -> list[ArchiveImage]:
        names = {name.lower(): name for name in results.fieldnames}
        read = partial(_obscore, names=names, product=self._product) if "access_url" in names else _vox
        found = [read(record) for record in results]
        unplaced = sum(isinstance(image, Unplaced) for image in found)
        if unplaced:
            logger.warning(
                "%s: %d images do not say where or how large they are: left out", self._client.name, unplaced
            )
        return [image for image in found if isinstance(image, ArchiveImage)]


class Unplaced:
    """An image that does not say where it lies, or how large it is."""


def _obscore(record: Any, names: dict[str, str], product: str | None) -> ArchiveImage | Unplaced | None:
    """Read a row of an SIA 2 table; None for products that are not asked for."""
    if product is not None and str(record.get(names.get("dataproduct_subtype", ""), "")) != product:
        return None
    if not record.access_url or not np.isfinite([record["s_ra"], record["s_dec"], record["s_fov"]]).all():
        return Unplaced()
    column = next((names[name] for name in BAND_COLUMNS if name in names), None)
    return ArchiveImage(
        str(record.get("obs_publisher_did") or record.access_url),
        "" if column is None else str(record[column]),
        float(record["s_ra"]),
        float(record["s_dec"]),
        float(record["s_fov"]) / 2,
        str(record.access_url),
        DATALINK in str(record.access_format),
    )


def _vox(record: Any) -> ArchiveImage | Unplaced | None:
    """Read a row of an SIA 1 table; None for what is no FITS image."""
    if "fits" not in str(record.format).lower():
        return None
    scale, naxis = record.getbyucd("VOX:Image_Scale"), record.getbyucd("VOX:Image_Naxis")
    if scale is None or naxis is None:
        return Unplaced()
    size = float((np.abs(np.atleast_1d(scale)) * np.atleast_1d(naxis)).max())
    return ArchiveImage(
        str(record.title or record.acref),
        str(record.bandpass_id or ""),
        float(record.pos.icrs.ra.deg),
        float(record.pos.icrs.dec.deg),
        size / np.sqrt(2),
        str(record.acref),
        DATALINK in str(record.format),
    )
