"""How pixels become a model's input: pinned in stores, checkpoints and cards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gzsurvey.recipes.base import Section


class ScaleRule(Section):
    """Field of view of a cutout.

    ``fixed``: `fov_arcsec`. ``gz_decals``: the Galaxy Zoo DECaLS rule,
    ``424 px * max(min(0.04 * r50, 0.02 * r90), 0.1)`` arcsec on a side; where there is
    no r90, ``424 px * max(0.04 * r50, 0.1)``.
    """

    kind: Literal["fixed", "gz_decals"] = "gz_decals"
    fov_arcsec: Annotated[float, Field(gt=0.5, le=3600)] | None = None
    max_fov_arcsec: Annotated[float, Field(gt=0.5, le=3600)] = 600.0
    """Wider fields are cut to this, so that a wrong size cannot ask for a whole survey."""

    @model_validator(mode="after")
    def _fixed_has_a_field(self) -> ScaleRule:
        if (self.kind == "fixed") != (self.fov_arcsec is not None):
            raise ValueError("'fov_arcsec' belongs to kind 'fixed', and only there")
        return self


class Stretch(Section):
    """From surface brightness to an 8-bit picture; see `gzsurvey.images.stretch`.

    ``gz_decals``: the Galaxy Zoo DECaLS look. ``legacy``: the Legacy Surveys viewer's.
    ``lupton``: asinh of SDSS pictures (Lupton et al. 2004).
    """

    kind: Literal["gz_decals", "legacy", "lupton"] = "gz_decals"
    scales: tuple[float, float, float] = (0.008, 0.014, 0.019)
    """Per band, in the order of `Preparation.bands`."""
    reference_scale_arcsec: Annotated[float, Field(gt=0.01, le=10)] = 0.262
    """Fluxes reach the stretch in nanomaggies per pixel of this scale."""


class Preparation(Section):
    """Everything that must be equal in training and survey."""

    image_size: Annotated[int, Field(ge=16, le=1024)]
    """Pixels on a side of the model's input."""
    bands: tuple[str, str, str] = ("g", "r", "z")
    """The model's bands, bluest first."""
    stretch: Stretch = Stretch()
    scale_rule: ScaleRule = ScaleRule()
    crop: Annotated[float, Field(gt=0.1, le=1.0)] = 1.0
    """Central share of a ready image's side that is kept, before resizing."""
