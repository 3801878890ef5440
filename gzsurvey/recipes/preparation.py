"""How pixels become a model's input: pinned in stores, checkpoints and cards."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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


STRETCH_SCALES: dict[str, tuple[float, float, float]] = {
    "gz_decals": (0.008, 0.014, 0.019),
    "legacy": (6.0, 3.4, 2.2),
    "lupton": (2.5, 1.5, 1.0),
}
"""Each look's usual numbers for three bands, bluest first (g, r, z)."""


class Stretch(Section):
    """From surface brightness to an 8-bit picture; see `gzsurvey.images.stretch`.

    ``gz_decals``: the Galaxy Zoo DECaLS look; fluxes are divided by `scales`.
    ``legacy``: the Legacy Surveys viewer's; fluxes are multiplied by `scales`.
    ``lupton``: asinh of SDSS pictures (Lupton et al. 2004); fluxes are multiplied by `scales`.
    """

    kind: Literal["gz_decals", "legacy", "lupton"] = "gz_decals"
    scales: tuple[float, float, float] = STRETCH_SCALES["gz_decals"]
    """Per band, in the order of `Preparation.bands`; the look's usual numbers if not given."""
    reference_scale_arcsec: Annotated[float, Field(gt=0.01, le=10)] = 0.262
    """Fluxes reach the stretch in nanomaggies per pixel of this scale."""
    lupton_q: Annotated[float, Field(gt=0, le=100)] = 8.0
    """Softening of `lupton`: how soon it bends from linear to logarithmic."""
    lupton_range: Annotated[float, Field(gt=0, le=1e4)] = 0.3
    """Flux of `lupton` where its linear part would reach white, in nanomaggies per reference pixel."""

    @model_validator(mode="before")
    @classmethod
    def _usual_scales(cls, content: Any) -> Any:
        if isinstance(content, dict) and "scales" not in content and content.get("kind") in STRETCH_SCALES:
            return {**content, "scales": STRETCH_SCALES[content["kind"]]}
        return content

    @model_validator(mode="after")
    def _scales_are_positive(self) -> Stretch:
        if min(self.scales) <= 0:
            raise ValueError("'scales' must be above 0")
        return self


Resampling = Literal["mean", "native"]


class Preparation(Section):
    """Everything that must be equal in training and survey."""

    image_size: Annotated[int, Field(ge=16, le=1024)]
    """Pixels on a side of the model's input."""
    bands: tuple[str, str, str] = ("g", "r", "z")
    """The model's bands, bluest first."""
    stretch: Stretch = Stretch()
    scale_rule: ScaleRule = ScaleRule()
    resampling: Resampling = "mean"
    """``mean``: means over the frame's pixels, see `gzsurvey.images.resample`. ``native``: where an image has the
    frame's pixel scale and orientation, its own pixels, so that a target lies up to half a pixel off the middle;
    elsewhere as ``mean``."""
    crop: Annotated[float, Field(gt=0.1, le=1.0)] = 1.0
    """Central share of a ready image's side that is kept, before resizing."""
