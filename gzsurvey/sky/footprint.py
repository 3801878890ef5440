"""Footprints: regions of the sky that a user asks for, or leaves out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import RecipeError
from gzsurvey.sky.healpix import unit_vectors

_SHAPE = re.compile(r"^\s*(circle|box|polygon)\s*\(([^()]*)\)\s*$", re.IGNORECASE)
MOC_ORDER = 14
"""Order of the MOC of a drawn shape: cells of 13 arcsec."""


class Footprint(Protocol):
    """A region of the sky."""

    @property
    def text(self) -> str:
        """As the user wrote it."""
        ...

    def contains(self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which positions (ICRS degrees, shape (N,)) lie inside, bool, shape (N,)."""
        ...

    def moc(self) -> Any:
        """Return the region as a `mocpy.MOC`."""
        ...


@dataclass(frozen=True)
class Circle:
    """Positions at most `radius_deg` from a centre."""

    text: str
    ra_deg: float
    dec_deg: float
    radius_deg: float

    def contains(self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which positions lie inside, bool, shape (N,)."""
        centre = unit_vectors(np.array([self.ra_deg]), np.array([self.dec_deg]))
        chord = np.linalg.norm(unit_vectors(ra_deg, dec_deg) - centre, axis=-1)
        inside: NDArray[np.bool_] = chord <= 2 * np.sin(np.radians(self.radius_deg) / 2)
        return inside

    def moc(self) -> Any:
        """Return the region as a `mocpy.MOC`."""
        from astropy.coordinates import Angle, Latitude, Longitude
        from mocpy import MOC

        lon, lat = Longitude(self.ra_deg, "deg"), Latitude(self.dec_deg, "deg")
        return MOC.from_cone(lon, lat, radius=Angle(self.radius_deg, "deg"), max_depth=MOC_ORDER)


@dataclass(frozen=True)
class Polygon:
    """Positions inside a polygon whose sides are great circles, smaller than half the sky."""

    text: str
    corners: tuple[tuple[float, float], ...]
    """(ra, dec), degrees."""

    def contains(self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which positions lie inside, bool, shape (N,)."""
        x, y, front = self._project(unit_vectors(ra_deg, dec_deg))
        corner_x, corner_y, _ = self._project(self._vectors)
        inside = np.zeros(len(ra_deg), dtype=bool)
        for i in range(len(corner_x)):
            x1, y1, x2, y2 = corner_x[i - 1], corner_y[i - 1], corner_x[i], corner_y[i]
            crosses = (y1 > y) != (y2 > y)
            at = x1 + (y - y1) * (x2 - x1) / np.where(y2 == y1, 1.0, y2 - y1)
            inside ^= crosses & (x < at)
        both: NDArray[np.bool_] = inside & front
        return both

    def moc(self) -> Any:
        """Return the region as a `mocpy.MOC`."""
        from astropy.coordinates import SkyCoord
        from mocpy import MOC

        corners = SkyCoord(*np.array(self.corners).T, unit="deg")
        return MOC.from_polygon_skycoord(corners, max_depth=MOC_ORDER)

    @cached_property
    def _vectors(self) -> NDArray[np.float64]:
        ra, dec = np.array(self.corners).T
        return unit_vectors(ra, dec)

    @cached_property
    def _axes(self) -> NDArray[np.float64]:
        centre = self._vectors.mean(axis=0)
        centre = centre / np.linalg.norm(centre)
        helper = np.eye(3)[np.argmin(np.abs(centre))]
        east = np.cross(helper, centre)
        east = east / np.linalg.norm(east)
        return np.stack([east, np.cross(centre, east), centre])

    def _project(self, points: NDArray[np.float64]) -> tuple[Any, Any, Any]:
        """Project on the tangent plane, where great circles are straight lines."""
        east, north, towards = self._axes @ points.T
        front = towards > 0.01
        depth = np.where(front, towards, 1.0)
        return east / depth, north / depth, front


@dataclass(frozen=True)
class MocFile:
    """The region of a MOC file, FITS or JSON."""

    text: str
    path: Path

    def contains(self, ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which positions lie inside, bool, shape (N,)."""
        from astropy.coordinates import Latitude, Longitude

        if len(ra_deg) == 0:
            return np.zeros(0, dtype=bool)
        return np.asarray(self._moc.contains_lonlat(Longitude(ra_deg, "deg"), Latitude(dec_deg, "deg")), dtype=bool)

    def moc(self) -> Any:
        """Return the region as a `mocpy.MOC`."""
        return self._moc

    @cached_property
    def _moc(self) -> Any:
        return _load_moc(self.path)


def parse_footprint(text: str) -> Footprint:
    """Return the region that a user means.

    Parameters
    ----------
    text : str
        A MOC file (FITS or JSON), ``circle(RA,DEC,RADIUS)``, ``box(RA,DEC,WIDTH,HEIGHT)`` or
        ``polygon(RA,DEC,RA,DEC,…)``; degrees, ICRS. Sides are great circles; a box's width
        and height are measured on the sky, through its centre.

    Raises
    ------
    gzsurvey.errors.RecipeError
        It is none of these, or holds numbers that are not on the sky.
    """
    match = _SHAPE.match(text)
    if match is None:
        return _moc_file(text)
    numbers = _numbers(match[2], text)
    shape = match[1].lower()
    if shape == "polygon":
        return _polygon(text, numbers)
    needed = {"circle": 3, "box": 4}[shape]
    if len(numbers) != needed:
        raise RecipeError(text, f"{shape} takes {needed} numbers, got {len(numbers)}")
    _check_position(numbers[0], numbers[1], text)
    if any(not 0 < size <= 180 for size in numbers[2:]) or (shape == "box" and max(numbers[2:]) >= 170):
        raise RecipeError(text, "sizes are degrees, above 0 and below 170")
    if shape == "circle":
        return Circle(text, numbers[0], numbers[1], numbers[2])
    return Polygon(text, _box_corners(numbers[0], numbers[1], numbers[2], numbers[3]))


def parse_cone(text: str) -> Circle:
    """Return the circle that a user means by a position and a radius.

    Parameters
    ----------
    text : str
        ``RA DEC RADIUS``: degrees, ICRS; the radius with a unit of angle (``30arcsec``, ``2arcmin``,
        ``0.5deg``), without one in degrees.

    Raises
    ------
    gzsurvey.errors.RecipeError
        It is no position and radius, or the radius has another unit.
    """
    parts = text.replace(",", " ").split(maxsplit=2)
    if len(parts) != 3:
        raise RecipeError(f"cone {text!r}", "give RA DEC RADIUS, e.g. '150.1 2.2 30arcsec'")
    ra, dec = _numbers(f"{parts[0]},{parts[1]}", f"cone {text!r}")
    _check_position(ra, dec, f"cone {text!r}")
    radius = parse_radius(parts[2])
    return Circle(text, ra, dec, radius)


def parse_radius(text: str) -> float:
    """Return a radius in degrees: ``30arcsec``, ``0.5deg``, or a plain number of degrees.

    Raises
    ------
    gzsurvey.errors.RecipeError
        It has no unit of angle, or is not above 0 and at most 180 degrees.
    """
    from astropy.units import Quantity, UnitConversionError, deg

    where = f"radius {text.strip()!r}"
    try:
        quantity = Quantity(text)
        radius = float(quantity.value if quantity.unit == "" else quantity.to_value(deg))
    except UnitConversionError:
        raise RecipeError(where, "its unit is no angle; give deg, arcmin or arcsec, e.g. 30arcsec") from None
    except (TypeError, ValueError):
        raise RecipeError(where, "is no number with a unit; give e.g. 30arcsec, 2arcmin or 0.5deg") from None
    if not 0 < radius <= 180:
        raise RecipeError(where, "must be above 0 and at most 180 degrees")
    return radius


def _moc_file(text: str) -> MocFile:
    path = Path(text)
    if not path.is_file():
        raise RecipeError(text, "is no MOC file, and none of circle(…), box(…), polygon(…) in degrees")
    footprint = MocFile(text, path)
    if footprint.moc().empty():
        raise RecipeError(text, "is an empty MOC: no target can lie in it")
    return footprint


def _load_moc(path: Path) -> Any:
    import gzip
    import tempfile

    from mocpy import MOC

    content = path.read_bytes()
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        kind = "json" if content.lstrip().startswith(b"{") else "fits"
        with tempfile.NamedTemporaryFile(suffix=f".{kind}") as plain:
            Path(plain.name).write_bytes(content)
            return MOC.load(plain.name, format=kind)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(str(path), f"cannot be read as a MOC: {' '.join(str(error).split())}") from None


def _polygon(text: str, numbers: list[float]) -> Polygon:
    if len(numbers) < 6 or len(numbers) % 2:
        raise RecipeError(text, f"polygon takes RA,DEC of at least 3 corners, got {len(numbers)} numbers")
    corners = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    for ra, dec in corners:
        _check_position(ra, dec, text)
    vectors = unit_vectors(np.array(numbers[::2]), np.array(numbers[1::2]))
    centre = vectors.mean(axis=0)
    if np.linalg.norm(centre) < 1e-6 or (vectors @ centre <= 0.01).any():
        raise RecipeError(text, "polygon must be smaller than half the sky; split it, or use a MOC file")
    return Polygon(text, corners)


def _box_corners(ra: float, dec: float, width: float, height: float) -> tuple[tuple[float, float], ...]:
    x, y = np.tan(np.radians(width) / 2), np.tan(np.radians(height) / 2)
    a, d = np.radians(ra), np.radians(dec)
    towards = np.array([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    east = np.array([-np.sin(a), np.cos(a), 0.0])
    north = np.cross(towards, east)
    corners = []
    for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        point = towards + sx * x * east + sy * y * north
        point = point / np.linalg.norm(point)
        corner_ra = float(np.degrees(np.arctan2(point[1], point[0]))) % 360
        corners.append((corner_ra, float(np.degrees(np.arcsin(point[2])))))
    return tuple(corners)


def _numbers(inside: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in re.split(r"[,\s]+", inside.strip())]
    except ValueError:
        raise RecipeError(text, "holds something that is no number; give degrees, e.g. circle(180,-1,0.5)") from None
    if not np.isfinite(numbers).all():
        raise RecipeError(text, "holds a number that is not finite")
    return numbers


def _check_position(ra: float, dec: float, text: str) -> None:
    if not -360 <= ra <= 360 or not -90 <= dec <= 90:
        raise RecipeError(text, f"({ra:g}, {dec:g}) is not on the sky: degrees, ICRS, right ascension first")
