"""Where everything lies: regions cut into tiles, targets placed in them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from gzsurvey.recipes.simulation import Region, SimulationRecipe
from gzsurvey.simulation.draw import Galaxies
from gzsurvey.simulation.population import population
from gzsurvey.simulation.profiles import EDGE

FIRST_TARGET, FIRST_TRAINING = 1_000_001, 500_000_001
"""Ids of the first mosaic target and of the first training galaxy."""
_MARGIN_ARCSEC = 20.0
_GAP_ARCSEC = 90.0
"""Side of the gaps: holes in one band, as between the chips of a camera."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of a region's pixel grid, one FITS image per band."""

    name: str
    column: int
    """First column of the region's grid."""
    row: int
    width: int
    height: int


@dataclass(frozen=True)
class Gap:
    """A hole in one band."""

    band: int
    column: int
    row: int
    side: int


@dataclass(frozen=True)
class Field:
    """One region with its pixel grid, targets and gaps.

    Every tile is a window on the region's one grid, so that tiles share pixels exactly.
    """

    region: Region
    seed: int
    width: int
    """Native pixels."""
    height: int
    galaxies: Galaxies
    """Targets, dtype `population.GALAXY`; stars and artefacts by `kind`."""
    columns: NDArray[np.float64]
    """Where the targets lie in the region's grid, zero-based."""
    rows: NDArray[np.float64]
    gaps: tuple[Gap, ...]

    @property
    def code(self) -> int:
        """Number made of the region's name, for seeds."""
        return zlib.crc32(self.region.name.encode())

    @cached_property
    def wcs(self) -> WCS:
        """TAN projection of the region's grid."""
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = [self.region.ra, self.region.dec]
        wcs.wcs.crpix = [(self.width + 1) / 2, (self.height + 1) / 2]
        step = self.region.pixel_scale_arcsec / 3600
        wcs.wcs.cdelt = [-step, step]
        wcs.wcs.cunit = ["deg", "deg"]
        wcs.wcs.radesys = "ICRS"
        return wcs

    def positions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Right ascension and declination of the targets, deg ICRS."""
        ra, dec = self.wcs.all_pix2world(self.columns, self.rows, 0)
        return np.asarray(ra) % 360.0, np.asarray(dec)

    def near(self, tile: Tile) -> NDArray[np.intp]:
        """Targets whose light may reach a tile."""
        extent = (1 + (self.galaxies["companion_ratio"] > 0)) * 1.15 * EDGE * self.galaxies["r_major"]
        reach = (extent + 5) / self.region.pixel_scale_arcsec
        inside = (self.columns > tile.column - reach) & (self.columns < tile.column + tile.width + reach)
        inside &= (self.rows > tile.row - reach) & (self.rows < tile.row + tile.height + reach)
        return np.flatnonzero(inside)


def tiles(field: Field, tile_px: int, overlap_px: int) -> list[Tile]:
    """Cut a region into overlapping tiles, row by row."""
    step = tile_px - overlap_px
    starts = [range(0, max(length - overlap_px, 1), step) for length in (field.height, field.width)]
    return [
        Tile(
            f"{field.region.name}{i:02d}{j:02d}",
            column,
            row,
            min(tile_px, field.width - column),
            min(tile_px, field.height - row),
        )
        for i, row in enumerate(starts[0])
        for j, column in enumerate(starts[1])
    ]


def lay_out(recipe: SimulationRecipe) -> list[Field]:
    """Place the targets of every region, in the recipe's order."""
    counts = shares(recipe.targets, [region.share for region in recipe.regions])
    first = FIRST_TARGET
    fields = []
    for number, (region, count) in enumerate(zip(recipe.regions, counts, strict=True)):
        astray = shares(min(recipe.astray_targets, recipe.targets // 20), [1.0] * len(counts))[number]
        fields.append(_field(recipe, region, range(first, first + count), astray))
        first += count
    return fields


def shares(total: int, weights: list[float]) -> list[int]:
    """Split `total` into whole parts by weight."""
    ends = np.round(np.cumsum([0.0, *weights]) / sum(weights) * total).astype(int)
    return [int(n) for n in np.diff(ends)]


def _field(recipe: SimulationRecipe, region: Region, ids: range, astray: int) -> Field:
    rng = np.random.default_rng([recipe.seed, zlib.crc32(region.name.encode())])
    galaxies = population(recipe.seed, ids)
    cell = recipe.spacing_arcsec / region.pixel_scale_arcsec
    margin = _MARGIN_ARCSEC / region.pixel_scale_arcsec
    across = max(int(np.ceil(np.sqrt(len(ids)))), 1)
    down = max(int(np.ceil(len(ids) / across)), 1)
    width, height = int(across * cell + 2 * margin), int(down * cell + 2 * margin)
    place = rng.permutation(across * down)[: len(ids)]
    jitter = rng.uniform(0.17, 0.83, (2, len(ids)))
    columns = margin + (place % across + jitter[0]) * cell
    rows = margin + (place // across + jitter[1]) * cell
    _set_odd(galaxies, recipe, rng)
    gaps = _lead_astray(region, (columns, rows), (width, height), astray)
    return Field(region, recipe.seed, width, height, galaxies, columns, rows, gaps)


def _set_odd(galaxies: Galaxies, recipe: SimulationRecipe, rng: np.random.Generator) -> None:
    """Make some targets stars and artefacts, which real target tables hold too."""
    count = round(recipe.odd_fraction * len(galaxies))
    chosen = rng.choice(len(galaxies), count, replace=False)
    for number, i in enumerate(chosen):
        galaxy = galaxies[i]
        galaxy["kind"] = ("star", "artifact")[number % 2]
        galaxy["r50"] = galaxy["r_major"] = 1.0 if number % 2 == 0 else 4.0
        galaxy["axis_ratio"] = 1.0
        for name in ("inclination", "companion_ratio", "tail_length", "bar_length", "ring_radius"):
            galaxy[name] = 0.0
        for name in ("arm_count", "disturbance", "handedness", "clumps"):
            galaxy[name] = 0
        galaxy["mag_r"] = rng.uniform(14.5, 17.5)
        galaxy["mag_g"], galaxy["mag_z"] = galaxy["mag_r"] + 0.6, galaxy["mag_r"] - 0.4


def _lead_astray(
    region: Region, places: tuple[NDArray[np.float64], NDArray[np.float64]], size: tuple[int, int], count: int
) -> tuple[Gap, ...]:
    """Move the first targets outside the imaging, onto its edge, and into gaps."""
    columns, rows = places
    scale = region.pixel_scale_arcsec
    side = int(_GAP_ARCSEC / scale)
    gaps = []
    for i in range(min(count, len(columns))):
        if i % 3 == 0:
            rows[i] = size[1] + 600 / scale
        elif i % 3 == 1:
            columns[i] = 2.0 / scale
        else:
            gaps.append(Gap(i % 2, int(columns[i]) - side // 2, int(rows[i]) - side // 2, side))
    return tuple(gaps)
