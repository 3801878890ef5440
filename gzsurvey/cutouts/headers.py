"""What the headers of FITS images say: place on the sky, band, zero point."""

from __future__ import annotations

import re
import threading
import warnings
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from math import log10
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area
from numpy.typing import NDArray

READ_ERRORS = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zlib.error, fits.VerifyError)
"""What reading a damaged FITS file raises."""

BAND_KEYWORDS = ("FILTER", "BAND", "FILTNAM", "FILTER1")
ZEROPOINT_KEYWORDS = ("MAGZERO", "MAGZPT", "PHOTZP", "PHOTZPT", "MAGZP", "ZEROPNT", "ZEROPT", "MAG_ZP", "ZPT", "ZP")
UNIT_ZEROPOINTS = {
    "nanomaggy": 22.5, "nanomaggies": 22.5, "nanomaggie": 22.5, "nmgy": 22.5, "maggy": 0.0, "maggies": 0.0,
    "jy": 8.9, "mjy": 16.4, "ujy": 23.9, "microjy": 23.9, "µjy": 23.9, "μjy": 23.9, "njy": 31.4,
}  # fmt: skip
"""AB magnitude of one unit, by the lower-case name of a flux unit."""
NANOMAGGY_ZEROPOINT = UNIT_ZEROPOINTS["nanomaggy"]
SOME_BANDS = frozenset(["u", "g", "r", "i", "z", "y", "U", "B", "V", "R", "I", "Z", "Y", "J", "H", "K", "Ks", "VIS"])
"""Names that mean a band when they stand alone in a file name."""
SUFFIXES = (".fits", ".fits.fz", ".fits.gz", ".fits.bz2", ".fit", ".fit.gz", ".fits.fz.gz")


AUXILIARY = frozenset(
    re.findall(
        r"\w+",
        "weight weights wht wmap invvar ivar invar rms noise err error errors sigma stddev var variance mask "
        "masks maskbits msk flag flags dq quality badpix bpm model models mod resid residual residuals chi chi2 "
        "blobmodel psf psfsize psfex background bkg back stack stk seg segm segmentation exp exptime expmap nexp "
        "depth galdepth psfdepth coverage cov context",
    )
)
"""Words in a file or extension name that mean something else than the image itself."""


_ONE_AT_A_TIME = threading.Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """Let astropy say nothing of odd headers; filters of warnings belong to the process, so threads take turns."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        yield


def auxiliary_kind(name: str, wanted: Collection[str] = ()) -> str:
    """The word in a name that says it is no image of the sky (weight, mask, PSF, …), unless wanted; empty if none."""
    return next((word for word in map(str.lower, words(name)) if word in AUXILIARY and word not in wanted), "")


def is_fits(path: Path) -> bool:
    """Whether the name is that of a FITS file, compressed or not."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: str | Path) -> str:
    """File name without the endings of a FITS file."""
    name = Path(path).name
    endings = [suffix for suffix in SUFFIXES if name.lower().endswith(suffix)]
    return name[: -max(map(len, endings))] if endings else name


def words(text: str) -> list[str]:
    """Words of a name, parted by anything but letters and digits; endings of FITS files left out."""
    return [word for word in re.split(r"[^A-Za-z0-9]+", stem(text)) if word]


def images_of(path: Path) -> Iterator[tuple[int, fits.Header, fits.Header]]:
    """Yield number, own header and keywords of each two-dimensional image of a FITS file.

    Among the keywords are those of the primary header, where an extension has none of its own
    (band and zero point often stand there); its WCS is never taken for an extension's.

    Raises
    ------
    any of READ_ERRORS
        The file is damaged.
    """
    with fits.open(path, memmap=True, lazy_load_hdus=True) as hdus:
        primary = hdus[0].header
        for number, hdu in enumerate(hdus):
            if hdu.is_image and plane_shape(hdu.header) is not None:
                keywords = hdu.header.copy()
                keywords.extend(primary.cards, unique=True, strip=True)
                yield number, hdu.header.copy(), keywords


def plane_shape(header: fits.Header) -> tuple[int, int] | None:
    """Rows and columns of an image; None if it is no single plane."""
    lengths = [int(header.get(f"NAXIS{axis + 1}", 0)) for axis in range(int(header.get("NAXIS", 0)))]
    if len(lengths) < 2 or min(lengths) < 1 or any(length != 1 for length in lengths[2:]):
        return None
    return lengths[1], lengths[0]


def celestial_wcs(header: fits.Header) -> WCS | None:
    """The celestial WCS of an image, or None."""
    with quiet():
        try:
            wcs = WCS(header).celestial
            usable = wcs.has_celestial and proj_plane_pixel_area(wcs) > 0
        except READ_ERRORS:
            return None
    return wcs if usable else None


def pixel_to_icrs(
    wcs: WCS, columns: NDArray[np.floating], rows: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """ICRS degrees of zero-based pixels."""
    sky = wcs.pixel_to_world(columns, rows).icrs
    return np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)


def scale_arcsec(wcs: WCS) -> float:
    """Side of a square as large as a pixel at the reference point, arcsec."""
    return float(np.sqrt(proj_plane_pixel_area(wcs))) * 3600


def header_band(header: fits.Header, asked: Sequence[str]) -> str | None:
    """Band by the header: one of those asked for if it is named there, else as written; None if not said."""
    said = next((str(header[key]).strip() for key in BAND_KEYWORDS if str(header.get(key, "")).strip()), None)
    if said is None or said in asked:
        return said
    named = {word for word in words(said) if word in asked}
    return named.pop() if len(named) == 1 else said


def name_band(path: Path, asked: Sequence[str]) -> str | None:
    """Band by the file name: its last word that is a band; None if there is none."""
    found = [word for word in words(path.name) if word in asked or word in SOME_BANDS]
    wanted = [word for word in found if word in asked]
    last = (wanted or found)[-1:]
    return last[0] if last else None


def zeropoint(header: fits.Header, keyword: str | None = None) -> float | None:
    """AB magnitude of one count by the header, or None.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Of the image.
    keyword : str, optional
        The only keyword to believe.
    """
    if keyword is not None:
        return _number(header, keyword)
    unit = re.sub(r"[\s_]|/pix(el)?$", "", str(header.get("BUNIT", "")).lower())
    if unit in UNIT_ZEROPOINTS:
        return UNIT_ZEROPOINTS[unit]
    for key in ZEROPOINT_KEYWORDS:
        if (value := _number(header, key)) is not None:
            return value
    flux = _number(header, "FLUXMAG0")
    return 2.5 * log10(flux) if flux is not None and flux > 0 else None


def _number(header: fits.Header, keyword: str) -> float | None:
    value = header.get(keyword)
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None
