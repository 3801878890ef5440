"""Surveys as sources of pixels: ``catalogs/surveys/*.yaml``, or your own file."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from gzsurvey.recipes.base import Section, load
from gzsurvey.resources import SURVEYS, find, shipped_names


class LayerImages(Section):
    """A map of a survey that is read at each target."""

    files: str
    """Pattern of its FITS images."""
    unit: str = ""
    """As the VOUnit standard writes it."""
    description: str = ""
    """What the catalogue says of the column."""


class SurveyImages(Section):
    """Where a survey's pixels come from, and what they mean."""

    title: str
    cutouts: str
    """A SOURCE as `--cutouts` takes it."""
    bands: tuple[str, str, str] | None = None
    """Its names for a model's bands, bluest first; `--bands` says otherwise. None: the model's names, or pictures."""
    zeropoints: float | dict[str, float | str] | None = None
    """AB magnitude of one count: one for all bands, or by band a number or a header keyword."""
    pixel_scale_arcsec: Annotated[float, Field(gt=0.001, le=60)] | None = None
    """Side of the survey's pixels; the counts of a HiPS refer to them."""
    mask: str | None = None
    """Pattern of mask files of a mosaic."""
    mask_bits: int = -1
    """Mask bits to avoid; -1 is any."""
    layers: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,29}$")], LayerImages] = {}
    """Of a mosaic: maps to read at each target (PSF size, exposures), by the name of their column."""
    collection: str | None = None
    """Of an archive that `sia:` asks: only its images."""
    product: str | None = None
    """Of such an archive: only images of this ``dataproduct_subtype``, so that no weight map is taken for one."""
    requests_per_s: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """What its host may be asked for, of all workers together, instead of the recipe's."""
    credit: str
    """The line that a paper owes the survey, or where to find it."""
    licence: str
    """Under which its images may be used."""
    tried: str
    """On which real data this description was tried, or that it was not."""

    @model_validator(mode="after")
    def _layers_need_a_mosaic(self) -> SurveyImages:
        if self.layers and not self.cutouts.startswith("mosaic:"):
            raise ValueError("'layers' are read beside a mosaic: source only")
        return self

    @model_validator(mode="after")
    def _zeropoints_need_bands(self) -> SurveyImages:
        if isinstance(self.zeropoints, dict) and self.bands is not None:
            unknown = [band for band in self.bands if band not in self.zeropoints]
            if unknown:
                raise ValueError(f"'zeropoints' says nothing of band {unknown[0]!r}")
        return self


def is_survey(text: str) -> bool:
    """Whether a SOURCE is the name or the file of a survey."""
    return text.endswith((".yaml", ".yml")) or text in shipped_names(SURVEYS)


def load_survey(name_or_path: str) -> SurveyImages:
    """Read a survey.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such survey, or a mistake in its description.
    """
    return load(find(SURVEYS, name_or_path), SurveyImages)
