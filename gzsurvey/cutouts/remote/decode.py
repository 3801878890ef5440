"""Bodies of replies become images only if they are what was asked for."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from gzsurvey.cutouts import headers
from gzsurvey.cutouts.collection import decode
from gzsurvey.cutouts.remote.client import UnfitReply
from gzsurvey.errors import CutoutUnavailable


@dataclass(frozen=True)
class FitsImage:
    """A FITS image in memory."""

    pixels: NDArray[np.float32]
    """Shape (..., h, w), NaN where blank."""
    header: fits.Header
    """Its own, with its WCS."""
    keywords: fits.Header
    """The same, and those of the file: band and unit often stand there."""

    def wcs(self) -> WCS:
        """Its celestial WCS.

        Raises
        ------
        UnfitReply
            It has none.
        """
        wcs = headers.celestial_wcs(self.header)
        if wcs is None:
            raise UnfitReply("a FITS image without celestial WCS")
        return wcs


def fits_image(body: bytes) -> FitsImage:
    """Decode the first image of a FITS file.

    Parameters
    ----------
    body : bytes
        A whole file; missing padding at the end is forgiven, missing pixels are not.

    Raises
    ------
    UnfitReply
        It is no FITS file, is cut short or damaged.
    """
    if not body.startswith(b"SIMPLE  ="):
        raise UnfitReply(f"no FITS file but {_kind(body)}")
    try:
        with headers.quiet(), fits.open(io.BytesIO(body), memmap=False) as file:
            hdu = next((hdu for hdu in file if hdu.is_image and hdu.header["NAXIS"] >= 2), None)
            if hdu is None:
                raise UnfitReply("a FITS file without image")
            if hdu.header["BITPIX"] > 0 and "BLANK" in hdu.header:
                hdu.header["BLANK"] = int(hdu.header["BLANK"])  # real HiPS tiles write it as a float
            pixels = np.asarray(hdu.data).astype(np.float32)
            keywords = hdu.header
            if hdu is not file[0]:
                keywords = hdu.header.copy()
                keywords.extend(file[0].header.cards, unique=True, strip=True)
            return FitsImage(pixels, hdu.header, keywords)
    except headers.READ_ERRORS as error:
        raise UnfitReply(f"a damaged FITS file: {' '.join(str(error).split())[:120]}") from None


def picture(body: bytes) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG.

    Returns
    -------
    uint8, shape (h, w, 3)

    Raises
    ------
    UnfitReply
        It is neither, or damaged.
    """
    if not body.startswith((b"\xff\xd8", b"\x89PNG")):
        raise UnfitReply(f"no picture but {_kind(body)}")
    try:
        return decode(body, "the reply")
    except CutoutUnavailable as error:
        raise UnfitReply(error.reason) from None


def _kind(body: bytes) -> str:
    start = body[:400].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    return "nothing" if not body else f"{len(body):,} bytes of something else"
