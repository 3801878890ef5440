"""Columns of target tables in the units and frame that a survey works in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import TableError
from gzsurvey.sky.tables import ColumnInfo

_PIXELS = {"pix", "pixel", "pixels"}


def degrees(values: Any, info: ColumnInfo, hours_to_degrees: float, notes: list[str]) -> NDArray[np.float64]:
    """Return an angle in degrees.

    Parameters
    ----------
    values : masked array, shape (N,)
        Numbers in the column's unit (degrees without one), or sexagesimal text.
    info : ColumnInfo
        The column.
    hours_to_degrees : float
        15 where sexagesimal text counts hours, 1 where it counts degrees.
    notes : list of str
        Gets a line where something was converted.

    Raises
    ------
    gzsurvey.errors.TableError
        The unit is no angle, or the text is none.
    """
    from astropy import units

    if values.dtype.kind not in "fiu":
        return _sexagesimal(values, info, hours_to_degrees, notes)
    plain: NDArray[np.float64] = np.ma.filled(values.astype(np.float64), np.nan)
    name = {"h": "hourangle", "hr": "hourangle", "hour": "hourangle", "hours": "hourangle", "degrees": "deg"}.get(
        info.unit.strip().lower(), info.unit.strip()
    )
    if name in {"", "deg"}:
        return plain
    try:
        factor = units.Unit(name).to(units.deg)
    except (ValueError, units.UnitConversionError):
        raise TableError(f"column {info.name!r}", f"has unit {info.unit!r}, which is no angle") from None
    notes.append(f"{info.name} converted from {info.unit} to deg")
    converted: NDArray[np.float64] = plain * factor
    return converted


def _sexagesimal(values: Any, info: ColumnInfo, factor: float, notes: list[str]) -> NDArray[np.float64]:
    from astropy.coordinates import Angle

    text = np.ma.filled(values, "").astype(str)
    out = np.full(len(text), np.nan)
    known = text != ""
    unit = "hourangle" if factor == 15.0 else "deg"
    try:
        out[known] = Angle(text[known], unit=unit).deg
    except (ValueError, TypeError) as error:
        raise TableError(f"column {info.name!r}", f"is neither a number nor sexagesimal: {error}") from None
    notes.append(f"{info.name} converted from sexagesimal ({unit}) to deg")
    return out


def to_icrs(
    lon_deg: NDArray[np.float64], lat_deg: NDArray[np.float64], frame: str, notes: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ICRS positions, right ascension in [0, 360).

    Parameters
    ----------
    lon_deg, lat_deg : float64, shape (N,)
        Degrees in `frame`.
    frame : str
        ``icrs``, ``fk5``, ``fk4`` or ``galactic``.
    notes : list of str
        Gets a line where something was converted.
    """
    from astropy.coordinates import SkyCoord

    if frame == "icrs":
        return lon_deg % 360.0, lat_deg
    notes.append(f"positions converted from {frame} to ICRS")
    coordinates = SkyCoord(lon_deg, lat_deg, unit="deg", frame=frame).icrs
    return np.asarray(coordinates.ra.deg) % 360.0, np.asarray(coordinates.dec.deg)


def arcsec(
    values: Any, info: ColumnInfo, unit: str | None, pixel_scale_arcsec: Callable[[], float] | None, notes: list[str]
) -> NDArray[np.float64]:
    """Return a size in arcsec.

    Parameters
    ----------
    values : masked array, shape (N,)
        Sizes.
    info : ColumnInfo
        The column.
    unit : str or None
        What the user said; None: the column's unit, ``pix`` where its name ends in ``_pix``,
        else arcsec.
    pixel_scale_arcsec : callable or None
        Asks the source for its pixel scale; None: it has none.
    notes : list of str
        Gets a line where something was converted.

    Raises
    ------
    gzsurvey.errors.TableError
        The column holds no numbers, or its unit is no angle, or pixels of unknown scale.
    """
    from astropy import units

    if values.dtype.kind not in "fiu":
        raise TableError(f"column {info.name!r}", "holds no numbers; sizes are arcsec, or say --size-unit")
    plain: NDArray[np.float64] = np.ma.filled(values.astype(np.float64), np.nan)
    name = unit or info.unit or ("pix" if info.name.lower().endswith("_pix") else "arcsec")
    if name.lower() in _PIXELS:
        if pixel_scale_arcsec is None:
            raise TableError(f"column {info.name!r}", "is in pixels, and this source has no pixel scale; give arcsec")
        scale = pixel_scale_arcsec()
        notes.append(f"{info.name} converted from pixels of {scale:.4g} arcsec to arcsec")
        return plain * scale
    try:
        factor = units.Unit(name).to(units.arcsec)
    except (ValueError, units.UnitConversionError):
        raise TableError(f"column {info.name!r}", f"has unit {name!r}, which is no angle; see --size-unit") from None
    if factor != 1.0:
        notes.append(f"{info.name} converted from {name} to arcsec")
    sizes: NDArray[np.float64] = plain * factor
    return sizes


def identifiers(columns: Sequence[Any], where: str, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return ids as int64, or as text where they do not fit, or where several are joined with ``_``.

    Parameters
    ----------
    columns : sequence of masked array, shape (N,)
        One or more columns.
    where : str
        The table, for errors.
    rows : int64, shape (N,)
        Row numbers, for errors.

    Raises
    ------
    gzsurvey.errors.TableError
        An id is missing, or is a fractional number.
    """
    missing = np.zeros(len(rows), dtype=bool)
    for column in columns:
        missing |= np.ma.getmaskarray(column)
        if column.dtype.kind == "f":
            missing |= np.isnan(column.data)
        elif column.dtype.kind not in "iub":
            missing |= np.char.equal(column.data.astype(str), "")
    if missing.any():
        raise TableError(where, "a target has no id", rows[missing].tolist())
    plain = [_whole(np.asarray(column.data), where, rows) for column in columns]
    if len(plain) == 1:
        return plain[0]
    joined = plain[0].astype(str)
    for column in plain[1:]:
        joined = np.char.add(np.char.add(joined, "_"), column.astype(str))
    return joined


def _whole(values: NDArray[Any], where: str, rows: NDArray[np.int64]) -> NDArray[Any]:
    if values.dtype.kind == "f":
        bad = (values != np.round(values)) | (np.abs(values) > 2**53)
        if bad.any():
            raise TableError(where, "an id is no whole number; keep ids as integers or text", rows[bad].tolist())
        return values.astype(np.int64)
    if values.dtype.kind == "u" and len(values) and values.max() > np.iinfo(np.int64).max:
        return values.astype(str)
    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    return values.astype(str)
