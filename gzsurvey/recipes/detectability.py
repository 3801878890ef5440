"""Recipe of `detectability`: what is done to galaxies, step by step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, model_validator

from gzsurvey.recipes.base import Section, load
from gzsurvey.resources import RECIPES, find

Steps = Annotated[tuple[float, ...], Field(min_length=2)]


class DetectabilityRecipe(Section):
    """Galaxies made fainter, smaller, blurred and noisier, and what the model and volunteers then see."""

    sky: str = "simulate"
    """Simulation recipe whose camera takes the pictures; real cutouts have their own."""
    region: str | None = None
    """Of that recipe; None: its first."""
    psf_fwhm_arcsec: Annotated[float, Field(gt=0.0)] | None = None
    """Of real cutouts."""
    bands: tuple[str, ...] | None = None
    """Of real cutouts: the source's names for the model's bands, in the model's order."""
    zeropoints: tuple[str, ...] | None = None
    """Of real cutouts: AB magnitude of one count, or a header keyword, by band."""
    size_column: str | None = None
    """Of real galaxies: half-light radius; None: by its usual names."""
    campaign: str | None = None
    """Whose volunteers are imitated; None: the checkpoint's most voted one."""
    galaxies: Annotated[int, Field(ge=20, le=100_000)] = 300
    """Drawn from those that are large and bright enough for their features to be plain."""
    least_size: Annotated[float, Field(gt=0.0)] = 4.0
    """Half-light radius over half of the PSF's width (FWHM) that a galaxy has before anything is done to it."""
    faintest_mag: float = 16.5
    """r magnitude of simulated ones, likewise."""
    plain: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.6
    """An answer is followed on the galaxies of which at least this share of volunteers gives it before."""
    least_galaxies: Annotated[int, Field(ge=1)] = 10
    """Answers with fewer such galaxies are left out, by name."""
    fainter_mag: Steps = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    """Magnitudes that are added."""
    smaller: Steps = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18)
    """Factors of the size; the flux shrinks as its square, so that surface brightness stays."""
    blurred: Steps = (1.0, 1.4, 2.0, 2.8, 4.0)
    """Factors of the PSF's width."""
    noisier_mag: Steps = (0.0, 1.0, 2.0, 3.0, 4.0)
    """Magnitudes by which the depth shrinks."""
    seed: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _begins_with_nothing(self) -> DetectabilityRecipe:
        for name, nothing in (("fainter_mag", 0.0), ("smaller", 1.0), ("blurred", 1.0), ("noisier_mag", 0.0)):
            if getattr(self, name)[0] != nothing:
                raise ValueError(f"{name!r} must begin with {nothing:g}, the galaxy as it is")
        return self


def load_detectability_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> DetectabilityRecipe:
    """Load a shipped recipe or a YAML file.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such recipe, or a wrong key or value.
    """
    return load(find(RECIPES, name_or_path), DetectabilityRecipe, overrides)
