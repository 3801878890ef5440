"""From images with a WCS of their own to the planes of a cutout, in nanomaggies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from gzsurvey.cutouts import headers
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import CutoutUnavailable, SourceError
from gzsurvey.images.affine import affine_maps, laid
from gzsurvey.images.frame import Frame
from gzsurvey.images.resample import resample
from gzsurvey.recipes.preparation import Preparation, Resampling, Stretch
from gzsurvey.status import Status

GRID_PX = 1e-3
"""An image nearer than this to a frame's pixels, in pixels, is not resampled."""

PLAIN_AXES = ("RA---TAN", "DEC--TAN")
UNTURNED = {"CD1_2": 0, "CD2_1": 0, "PC1_1": 1, "PC1_2": 0, "PC2_1": 0, "PC2_2": 1, "LONPOLE": 180}
"""What an image with north up says, if it says it at all."""

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Flux:
    """What the counts of a source's images mean, and what the model wants of them."""

    source: str
    bands: tuple[str, ...]
    """The source's names for the model's bands, in the model's order."""
    zeropoints: tuple[float | str, ...] | None
    pixel_arcsec: float | None
    """Side of the pixels that counts refer to; None: the image's own."""
    stretch: Stretch
    """Of the model: says to which pixels its fluxes refer."""
    resampling: Resampling = "mean"

    @classmethod
    def of(cls, spec: SourceSpec, preparation: Preparation) -> Flux:
        """Return what a SOURCE and a model's preparation say."""
        bands = spec.bands or preparation.bands
        return cls(
            spec.text, bands, spec.zeropoints, spec.pixel_scale_arcsec, preparation.stretch, preparation.resampling
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Each band of the source once."""
        return tuple(dict.fromkeys(self.bands))

    def nanomaggies(self, band: str, header: fits.Header | None = None) -> float:
        """Nanomaggies of one count.

        Raises
        ------
        gzsurvey.errors.SourceError
            No zero point is known.
        """
        given = None if self.zeropoints is None else self.zeropoints[self.bands.index(band)]
        known = given if isinstance(given, float) else headers.zeropoint(header or fits.Header(), given)
        if known is None:
            raise SourceError(self.source, f"says no zero point of band {band!r}; give it with --zeropoints")
        return float(10 ** ((headers.NANOMAGGY_ZEROPOINT - known) / 2.5))

    def brightness(self, band: str, pixel_arcsec: float) -> float:
        """Nanomaggies per square arcsecond of one count, where counts are those of pixels of this scale."""
        return self.nanomaggies(band) / pixel_arcsec**2

    def unit_arcsec2(self, frame: Frame) -> float:
        """Square arcseconds to which the fluxes of a frame refer."""
        return self.stretch.unit_arcsec(frame.scale_arcsec) ** 2

    def plane(self, pixels: Plane, header: fits.Header, per_count: float, request: Request) -> Plane:
        """Put one image on a request's frame, in the unit of the model.

        Parameters
        ----------
        pixels : float32, shape (h, w)
            Counts, NaN where there is no data.
        header : astropy.io.fits.Header
            Their WCS. An image on the frame's own grid is taken as it is.
        per_count : float
            Nanomaggies of one count.
        request : Request
            Names the frame.

        Returns
        -------
        float32, shape (S, S)
            NaN where there is no data.
        """
        frame = request.frame
        if is_on_frame(header, pixels.shape, request):
            area = (self.pixel_arcsec or frame.scale_arcsec) ** 2
            own: Plane = pixels * np.float32(per_count * self.unit_arcsec2(frame) / area)
            return own
        wcs = headers.celestial_wcs(header)
        if wcs is None:
            raise CutoutUnavailable(Status.UNREADABLE, "a FITS image without celestial WCS")
        ra, dec, scale = (np.array([value]) for value in (request.ra_deg, request.dec_deg, frame.scale_arcsec))
        affine = laid(affine_maps(wcs, ra, dec, scale, frame.size_px)[0], frame.size_px, self.resampling)
        if not affine.known:
            return np.full((frame.size_px, frame.size_px), np.nan, dtype=np.float32)
        own_area = frame.scale_arcsec**2 / float(affine.area_px)
        area = own_area if self.pixel_arcsec is None else self.pixel_arcsec**2
        column0, row0, column1, row1 = affine.bounds(frame.size_px).tolist()
        column, row = max(column0, 0), max(row0, 0)
        part = pixels[row : max(row1, row), column : max(column1, column)]
        if not part.size:
            return np.full((frame.size_px, frame.size_px), np.nan, dtype=np.float32)
        (brightness,) = resample(part[None], affine.shifted(column, row), frame.size_px)
        plane: Plane = brightness * np.float32(per_count * self.unit_arcsec2(frame) / area)
        return plane

    def cutout(self, planes: Mapping[str, Plane], image_id: str, missing_limit: float) -> Cutout | Miss:
        """Join the planes of all bands; too little data is a miss."""
        missing = max(float(np.isnan(planes[band]).mean()) for band in self.names)
        if all(np.isnan(plane).all() for plane in planes.values()):
            return Miss(Status.NO_IMAGE, "no data here", missing, image_id, self.source)
        if missing > missing_limit:
            reason = f"{missing:.0%} of the pixels have no data"
            return Miss(Status.MISSING_PIXELS, reason, missing, image_id, self.source)
        pixels = np.stack([planes[band] for band in self.bands])
        return Cutout(pixels, missing, image_id=image_id, image_set=self.source)


def is_on_frame(header: fits.Header, shape: tuple[int, ...], request: Request) -> bool:
    """Whether a header says, in the plainest way, that an image lies on a request's own pixels."""
    frame, step = request.frame, request.frame.scale_arcsec / 3600
    middle, near = (frame.size_px + 1) / 2, step * GRID_PX
    if shape != (frame.size_px, frame.size_px) or (header.get("CTYPE1"), header.get("CTYPE2")) != PLAIN_AXES:
        return False
    wanted = (
        (("CRVAL1",), request.ra_deg, near),
        (("CRVAL2",), request.dec_deg, near),
        (("CRPIX1",), middle, GRID_PX),
        (("CRPIX2",), middle, GRID_PX),
        (("CD1_1", "CDELT1"), -step, near / frame.size_px),
        (("CD2_2", "CDELT2"), step, near / frame.size_px),
    )
    for names, value, tolerance in wanted:
        said = next((header[name] for name in names if name in header), None)
        if not isinstance(said, int | float) or abs(said - value) > tolerance:
            return False
    return all(header.get(name, value) == value for name, value in UNTURNED.items())


def picture_cutout(picture: NDArray[np.uint8], source: str, image_id: str, missing: float = 0.0) -> Cutout | Miss:
    """Return a ready picture, if it shows something."""
    if picture.min() == picture.max():
        return Miss(Status.NO_IMAGE, "a blank picture", image_id=image_id, image_set=source)
    return Cutout(picture, missing, image_id=image_id, image_set=source)


def or_miss(
    answer: Callable[[Request], Cutout | Miss], source: str, image_id: str
) -> Callable[[Request], Cutout | Miss]:
    """Turn what a service does not give into a miss."""

    def answered(request: Request) -> Cutout | Miss:
        try:
            return answer(request)
        except CutoutUnavailable as error:
            return Miss(Status(error.status), error.reason, image_id=image_id, image_set=source)

    return answered
