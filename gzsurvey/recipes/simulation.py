"""Recipes of a simulated survey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gzsurvey.recipes.base import Section, load
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.resources import RECIPES, find

Positive = Annotated[float, Field(gt=0)]
Bands = tuple[Positive, Positive, Positive]
"""One value per band, in the order g, r, z."""


class Region(Section):
    """A part of the sky imaged by one camera under one set of conditions."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,11}$")]
    ra: Annotated[float, Field(ge=0, lt=360)]
    """Centre, deg ICRS."""
    dec: Annotated[float, Field(ge=-80, le=80)]
    pixel_scale_arcsec: Annotated[float, Field(ge=0.05, le=2)]
    psf_fwhm_arcsec: Bands
    psf_beta: Annotated[float, Field(ge=2, le=8)] = 3.5
    """Moffat index: small values have bright wings."""
    depth_mag: Bands
    """5 sigma depth of a point source, AB magnitudes."""
    gain: Bands
    """Detected photons per nanomaggy: sets the galaxies' own noise."""
    zeropoint: Annotated[float, Field(ge=0, le=40)] = 22.5
    """AB magnitude of one count."""
    bunit: Literal["nanomaggy", "adu"] = "nanomaggy"
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of all mosaic galaxies, and of all training galaxies."""

    @model_validator(mode="after")
    def _unit_has_its_zero_point(self) -> Region:
        if self.bunit == "nanomaggy" and self.zeropoint != 22.5:
            raise ValueError("the zero point of a nanomaggy is 22.5; use bunit 'adu' for another")
        return self


class SimulationRecipe(Section):
    """What `simulate` draws."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    targets: Annotated[int, Field(ge=1, le=2_000_000)] = 2000
    """Galaxies in the mosaics."""
    training: Annotated[int, Field(ge=1, le=5_000_000)] = 5000
    """Galaxies of the stamps; others than those of the mosaics."""
    unlabelled_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.35
    """Share of training galaxies that no volunteer saw."""
    second_campaign_fraction: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Share of labelled galaxies that a second campaign showed too."""
    odd_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.01
    """Share of targets that are stars or artefacts, as in real target tables."""
    astray_targets: Annotated[int, Field(ge=0, le=1000)] = 6
    """Targets at the edge of the imaging, outside it, or in its gaps."""
    campaigns: dict[str, Positive] = {"gz_decals_dr8": 1.0}
    """How often a labelled galaxy is shown in each campaign, relative to the others."""
    spacing_arcsec: Annotated[float, Field(ge=30, le=600)] = 66.0
    """Mean distance of mosaic galaxies."""
    tile_px: Annotated[int, Field(ge=256, le=8192)] = 1024
    overlap_px: Annotated[int, Field(ge=0, le=1024)] = 96
    """Pixels that neighbouring tiles share."""
    regions: Annotated[tuple[Region, ...], Field(min_length=1, max_length=10)]
    stamps: Preparation = Preparation(image_size=128)
    """How native pixels become the stamps' pictures."""

    @model_validator(mode="after")
    def _parts_fit(self) -> SimulationRecipe:
        total = sum(region.share for region in self.regions)
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"the regions' shares must add up to 1, not {total:g}")
        if len({region.name for region in self.regions}) < len(self.regions):
            raise ValueError("regions must have different names")
        if self.overlap_px * 2 > self.tile_px:
            raise ValueError("'overlap_px' must be at most half of 'tile_px'")
        if self.stamps.is_flux:
            raise ValueError("'stamps' are pictures; the stretch 'flux' makes none")
        return self


def load_simulation_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> SimulationRecipe:
    """Read a simulation recipe.

    Parameters
    ----------
    name_or_path : str
        A shipped name (``simulate``) or a ``.yaml`` file.
    overrides : sequence of str
        ``section.key=value``, each replacing one value.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such recipe, a misspelt key or a value out of range.
    """
    return load(find(RECIPES, name_or_path), SimulationRecipe, overrides)
