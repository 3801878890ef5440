"""The index of a mosaic: which images there are, of which band, and where on the sky.

Built once per set of files, in parallel, in the user's cache (disks with surveys are
read-only); a run keeps its own copy, which is what workers read.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from gzsurvey.cutouts import headers
from gzsurvey.cutouts.files import Candidate, list_files
from gzsurvey.cutouts.outline import Outlines
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import SourceError
from gzsurvey.processes import worker_processes
from gzsurvey.progress import Progress
from gzsurvey.recipes.base import Section
from gzsurvey.recipes.cluster import cores

logger = logging.getLogger(__name__)

VERSION = 2
"""Of the index file; another version is built anew."""
PROCESSES_FROM = 128
"""Files from which header reading is spread over processes; starting them costs seconds."""
SAME_SCALE = 0.01
"""Relative difference up to which two pixel scales are one (distortions vary them)."""
SAME_ZEROPOINT = 1e-3
"""Magnitudes."""


class Tile(Section):
    """One image of a mosaic."""

    path: str
    hdu: int
    band: str
    """The source's name."""
    shape: tuple[int, int]
    """Rows and columns."""
    scale_arcsec: float
    zeropoint: float
    """AB magnitude of one count."""
    corners_deg: tuple[tuple[float, float], ...]
    """Right ascension and declination of its outer corners, in order around it."""

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from all other images."""
        return self.path, self.hdu


class MosaicIndex(Section):
    """All that a worker needs to know of a mosaic."""

    version: int = VERSION
    source: str
    """The SOURCE as the user wrote it."""
    bands: tuple[str, ...]
    """The source's names for the model's bands, in the model's order."""
    tiles: tuple[Tile, ...]
    masks: tuple[Tile, ...] = ()
    mask_bits: int = -1
    layers: dict[str, tuple[Tile, ...]] = {}
    """Maps that are read at each target, by the name of their column."""
    left_out: dict[str, int] = {}
    """Files that are no image of a band asked for, counted by reason."""


@dataclass
class _Found:
    """What one file holds."""

    tiles: list[Tile] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is looked for in each file."""

    source: str
    bands: tuple[str, ...]
    zeropoints: dict[str, float | str]
    by_pattern: bool
    """Whether the user named the files by a pattern with ``{band}`` or one by one."""
    wanted: frozenset[str] = frozenset()
    """Words in an extension's name that would leave it out elsewhere."""


def build_index(spec: SourceSpec, bands: Sequence[str]) -> MosaicIndex:
    """Read the headers of a mosaic's files.

    Parameters
    ----------
    spec : SourceSpec
        A ``mosaic:`` source.
    bands : sequence of str
        The model's bands; used where `spec` names none.

    Raises
    ------
    gzsurvey.errors.SourceError
        There is no image of a band, no celestial WCS, no zero point, or two images contradict each other.
    """
    names = tuple(spec.bands or bands)
    asked = _Asked(spec.text, names, _zeropoints(spec, names), "{band}" in spec.address)
    found = _read_all(list_files(spec, names), asked)
    tiles = sorted((tile for part in found for tile in part.tiles), key=_sky_order)
    left_out = sum((part.left_out for part in found), Counter[str]())
    _refuse_missing_bands(spec, names, tiles, left_out)
    for band in dict.fromkeys(names):
        _refuse_contradictions(spec, [tile for tile in tiles if tile.band == band])
    _refuse_bands_apart(spec, tuple(dict.fromkeys(names)), tiles)
    if left_out:
        logger.info("%s: %s", spec.text, ", ".join(f"{n} left out as {why}" for why, n in sorted(left_out.items())))
    return MosaicIndex(
        source=spec.text, bands=names, tiles=tuple(tiles), left_out=dict(sorted(left_out.items())),
        masks=_maps(spec.mask, "mask") if spec.mask else (), mask_bits=spec.mask_bits,
        layers={layer.name: _maps(layer.files, layer.name) for layer in spec.layers},
    )  # fmt: skip


def outlines(tiles: Iterable[Tile]) -> Outlines:
    """Outlines of `tiles`, in their order."""
    return Outlines(np.array([tile.corners_deg for tile in tiles], dtype=np.float64).reshape(-1, 4, 2))


def _sky_order(tile: Tile) -> tuple[int, float, str, int]:
    """In strips of declination, so that neighbours in the list are neighbours on the sky."""
    ra, dec = tile.corners_deg[0]
    return (int(dec // 0.25), ra, tile.path, tile.hdu)


def _zeropoints(spec: SourceSpec, names: Sequence[str]) -> dict[str, float | str]:
    chosen: dict[str, float | str] = {}
    for band, value in zip(names, spec.zeropoints or (), strict=False):
        if chosen.setdefault(band, value) != value:
            raise SourceError(spec.text, f"--zeropoints names {chosen[band]} and {value} for the same band {band!r}")
    return chosen


def _read_all(files: Sequence[Candidate], asked: _Asked) -> list[_Found]:
    if len(files) < PROCESSES_FROM:
        return [_read(file, asked) for file in files]
    with worker_processes(cores()) as pool:
        jobs = pool.map(_read, files, [asked] * len(files), chunksize=16)
        return list(Progress("index", len(files), "files").watch(jobs))


def _read(file: Candidate, asked: _Asked) -> _Found:
    """Tiles of one file; refuses what can never work, naming it."""
    found = _Found()
    if file.left_out:
        found.left_out[file.left_out] += 1
        return found
    path = Path(file.path)
    try:
        images = list(headers.images_of(path))
    except headers.READ_ERRORS as error:
        raise SourceError(file.path, f"cannot be read as FITS: {' '.join(str(error).split())}") from None
    kept = [image for image in images if not headers.auxiliary_kind(str(image[1].get("EXTNAME", "")), asked.wanted)]
    if not kept:
        found.left_out["without a two-dimensional image"] += 1
    for hdu, header, keywords in kept:
        band = _band(file, keywords, asked)
        if band is None or band not in asked.bands:
            found.left_out["without a band" if band is None else f"band {band}"] += 1
        else:
            wcs, shape = _wcs(path, hdu, header), headers.plane_shape(header)
            assert shape is not None
            found.tiles.append(
                Tile(
                    path=str(path.absolute()), hdu=hdu, band=band, shape=shape, scale_arcsec=headers.scale_arcsec(wcs),
                    zeropoint=_zeropoint(path, keywords, band, asked), corners_deg=_corners(path, wcs, shape),
                )
            )  # fmt: skip
    return found


def _band(file: Candidate, header: fits.Header, asked: _Asked) -> str | None:
    if file.band is not None:
        return file.band
    path = Path(file.path)
    said, named = headers.header_band(header, asked.bands), headers.name_band(path, asked.bands)
    if said is None or named is None or said == named:
        return said or named
    if said in headers.words(path.name) or (named not in asked.bands and said not in asked.bands):
        return said
    pattern = with_band_placeholder(path, named)
    raise SourceError(
        path.name, f"its header says band {said!r}, its name {named!r}; write mosaic:{pattern} to go by the names"
    )


def with_band_placeholder(path: Path, band: str) -> str:
    """`path` with the last `band` in its file name replaced by ``{band}``."""
    stem = headers.stem(path)
    found = list(re.finditer(rf"(?<![A-Za-z0-9]){re.escape(band)}(?![A-Za-z0-9])", stem))
    if not found:
        return str(path)
    start, end = found[-1].span()
    return str(path.with_name(f"{path.name[:start]}{{band}}{path.name[end:]}"))


def _wcs(path: Path, hdu: int, header: fits.Header) -> WCS:
    wcs = headers.celestial_wcs(header)
    if wcs is None:
        raise SourceError(str(path), f"image {hdu} has no celestial WCS, so no target can be found on it")
    return wcs


def _zeropoint(path: Path, keywords: fits.Header, band: str, asked: _Asked) -> float:
    chosen = asked.zeropoints.get(band)
    if isinstance(chosen, float):
        return chosen
    value = headers.zeropoint(keywords, chosen)
    if value is None:
        lacking = f"no keyword {chosen!r}" if chosen else "neither a flux unit (BUNIT) nor a zero point"
        raise SourceError(str(path), f"its header has {lacking}; give the AB magnitude of one count by --zeropoints")
    return value


def _corners(path: Path, wcs: WCS, shape: tuple[int, int]) -> tuple[tuple[float, float], ...]:
    low, right, top = -0.5, shape[1] - 0.5, shape[0] - 0.5
    ra, dec = headers.pixel_to_icrs(wcs, np.array([low, right, right, low]), np.array([low, low, top, top]))
    if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        raise SourceError(str(path), "the WCS puts its corners nowhere on the sky")
    return tuple((float(a), float(b)) for a, b in zip(ra, dec, strict=True))


def _maps(pattern: str, name: str) -> tuple[Tile, ...]:
    """Images of one quantity that is no brightness, whatever their names and headers say."""
    spec = SourceSpec(f"mosaic:{pattern}", (name,) * 3, (0.0,) * 3)
    asked = _Asked(spec.text, (name,), {name: 0.0}, True, headers.AUXILIARY)
    files = [Candidate(file.path, name) for file in list_files(spec, (name,))]
    tiles = [tile for part in _read_all(files, asked) for tile in part.tiles]
    if not tiles:
        raise SourceError(spec.text, f"has no two-dimensional image for {name!r}")
    return tuple(sorted(tiles, key=_sky_order))


def _refuse_missing_bands(
    spec: SourceSpec, names: Sequence[str], tiles: Sequence[Tile], left_out: Counter[str]
) -> None:
    missing = [band for band in dict.fromkeys(names) if not any(tile.band == band for tile in tiles)]
    if not missing:
        return
    there = sorted({tile.band for tile in tiles} | {why[5:] for why in left_out if why.startswith("band ")})
    what = f"bands there: {', '.join(there)}" if there else "no image with a band there"
    counted = ", ".join(f"{count} {why}" for why, count in sorted(left_out.items()))
    rest = f" (left out: {counted})" if counted else ""
    quoted = ", ".join(map(repr, missing))
    raise SourceError(spec.text, f"has no image of band {quoted}; {what}{rest}; name the source's bands by --bands")


def _refuse_contradictions(spec: SourceSpec, tiles: Sequence[Tile]) -> None:
    """Two images of one band that no rule can join."""
    if len(tiles) < 2:
        return
    where = outlines(tiles)
    pairs = where.pairs()
    scales = np.array([tile.scale_arcsec for tile in tiles])
    zeropoints = np.array([tile.zeropoint for tile in tiles])
    one, other = pairs.T
    scaled = np.abs(scales[one] / scales[other] - 1) > SAME_SCALE
    apart_px = np.degrees(np.linalg.norm(where.centres[one] - where.centres[other], axis=1)) * 3600 / scales[one]
    for a, b in pairs[~scaled & (apart_px < 1)]:
        if tiles[a].shape == tiles[b].shape:
            raise SourceError(spec.text, _ambiguous(tiles[a], tiles[b], "have the same outline"))
    if "{band}" in spec.address:
        return
    for a, b in pairs[scaled | (np.abs(zeropoints[one] - zeropoints[other]) > SAME_ZEROPOINT)]:
        if where.overlap(int(a), int(b)):
            difference = _difference(tiles[a], tiles[b])
            raise SourceError(spec.text, _ambiguous(tiles[a], tiles[b], f"overlap with another {difference}"))


def _refuse_bands_apart(spec: SourceSpec, bands: Sequence[str], tiles: Sequence[Tile]) -> None:
    """Bands that lie nowhere on the same sky serve no target."""
    first, *others = [[tile for tile in tiles if tile.band == band] for band in bands]
    for band, other in zip(bands[1:], others, strict=True):
        both = outlines([*first, *other])
        if not any(both.overlap(int(a), int(b)) for a, b in np.sort(both.pairs(), axis=1) if a < len(first) <= b):
            raise SourceError(spec.text, f"bands {bands[0]!r} and {band!r} overlap nowhere, so no target has both")


def _difference(a: Tile, b: Tile) -> str:
    if abs(a.zeropoint - b.zeropoint) > SAME_ZEROPOINT:
        return f"zero point ({a.zeropoint:g} and {b.zeropoint:g})"
    return f"pixel scale ({a.scale_arcsec:.3f} and {b.scale_arcsec:.3f} arcsec)"


def _ambiguous(a: Tile, b: Tile, what: str) -> str:
    one, other = Path(a.path), Path(b.path)
    names = f"{one.name}[{a.hdu}] and {other.name}[{b.hdu}]"
    pattern = with_band_placeholder(one, a.band)
    return f"{names}, both band {a.band!r}, {what}; say which to use, e.g. mosaic:{pattern}"
