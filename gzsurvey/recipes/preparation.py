"""How pixels become a model's input: pinned in stores, checkpoints and cards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from gzsurvey.recipes.base import Section

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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


Scale = TypeVar("Scale", float, "NDArray[np.float64]")
Kind = Literal["gz_decals", "legacy", "lupton", "gz_euclid", "low_surface_brightness", "asinh", "percentile", "flux"]
STRETCH_SCALES: dict[Kind, tuple[float, float, float]] = {
    "gz_decals": (0.008, 0.014, 0.019),
    "legacy": (6.0, 3.4, 2.2),
    "lupton": (2.5, 1.5, 1.0),
    "gz_euclid": (691.8, 691.8, 200.0),
    "low_surface_brightness": (138.4, 138.4, 138.4),
    "asinh": (0.008, 0.014, 0.019),
    "percentile": (1.0, 1.0, 1.0),
    "flux": (0.008, 0.014, 0.019),
}
"""Each look's usual numbers for three bands, bluest first (g, r, z). Those of Galaxy Zoo Euclid are per count of the
mosaics: 100 (VIS), 0.2 (Y) and, at low surface brightness, 20 (VIS); here per nanomaggy, with zero points of 24.6 (VIS)
and 30 (Y)."""
EUCLID_SCALE_ARCSEC = 0.1
"""Pixels of Euclid's mosaics, for which the numbers of its looks hold."""


class Stretch(Section):
    """From surface brightness to an 8-bit picture, or a cube of flux; see `gzsurvey.images.stretch`.

    ``gz_decals``: the Galaxy Zoo DECaLS look; fluxes are divided by `scales`.
    ``legacy``: the Legacy Surveys viewer's; fluxes are multiplied by `scales`.
    ``lupton``: asinh of SDSS pictures (Lupton et al. 2004); fluxes are multiplied by `scales`.
    ``gz_euclid``: the Galaxy Zoo Euclid look: asinh of fluxes times `scales`, the third band in red, the first in
    blue, their mean in green (bands VIS, VIS, Y; or VIS three times and equal scales: VIS alone).
    ``low_surface_brightness``: Galaxy Zoo Euclid's look at faint light; fluxes are multiplied by `scales`.
    ``asinh``: each band by itself, fluxes divided by `scales`, from `black` to `white`.
    ``percentile``: each band by itself, linear between `percentiles` of its pixels.
    ``flux``: no picture, but float32 nanomaggies, for models that take flux. A network that is trained here bends them
    as ``asinh`` does, inside the model, and cuts nothing.
    """

    kind: Kind = "gz_decals"
    scales: tuple[float, float, float] = STRETCH_SCALES["gz_decals"]
    """Per band, in the order of `Preparation.bands`; the look's usual numbers if not given."""
    reference_scale_arcsec: Annotated[float, Field(gt=0.01, le=10)] = 0.262
    """Fluxes reach the stretch in nanomaggies per pixel of this scale; 0.1 for the looks of Galaxy Zoo Euclid if not
    given."""
    flux_per: Literal["reference_pixel", "pixel"] = "reference_pixel"
    """Of `flux`: ``reference_pixel`` keeps surface brightness, the same in pixels of any scale. ``pixel`` gives each
    pixel of the cutout its own flux, so that pixels add up to the total flux."""
    lupton_q: Annotated[float, Field(gt=0, le=100)] = 8.0
    """Softening of `lupton`: how soon it bends from linear to logarithmic."""
    lupton_range: Annotated[float, Field(gt=0, le=1e4)] = 0.3
    """Flux of `lupton` where its linear part would reach white, in nanomaggies per reference pixel."""
    black: float = -0.5
    """Flux over scale that `asinh` shows black, and a network of flux takes for 0."""
    white: float = 300.0
    """Flux over scale that `asinh` shows white, and a network of flux takes for 1."""
    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = (0.5, 99.5)
    """Of a cutout's pixels, that `percentile` shows black and white."""

    @property
    def comparable(self) -> bool:
        """Whether equal fluxes look equal in every galaxy; where not, a cutout's own pixels set its range."""
        return self.kind not in {"gz_euclid", "low_surface_brightness", "percentile"}

    def unit_arcsec(self, scale_arcsec: Scale) -> Scale | float:
        """Side of the pixels to which fluxes refer, in a cutout with pixels of `scale_arcsec`."""
        return self.reference_scale_arcsec if self.flux_per == "reference_pixel" else scale_arcsec

    @model_validator(mode="before")
    @classmethod
    def _usual_scales(cls, content: Any) -> Any:
        kind = content.get("kind") if isinstance(content, dict) else None
        if kind not in STRETCH_SCALES:
            return content
        usual: dict[str, Any] = {"scales": STRETCH_SCALES[kind]}
        if kind in {"gz_euclid", "low_surface_brightness"}:
            usual["reference_scale_arcsec"] = EUCLID_SCALE_ARCSEC
        return usual | content

    @model_validator(mode="after")
    def _ranges_are_right(self) -> Stretch:
        if min(self.scales) <= 0:
            raise ValueError("'scales' must be above 0")
        if self.black >= self.white:
            raise ValueError("'black' must be below 'white'")
        if self.percentiles[0] >= self.percentiles[1]:
            raise ValueError("'percentiles' must ascend")
        if self.flux_per == "pixel" and self.kind != "flux":
            raise ValueError("'flux_per: pixel' belongs to kind 'flux': pictures show surface brightness")
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

    @property
    def is_flux(self) -> bool:
        """Whether the model takes flux rather than pictures."""
        return self.stretch.kind == "flux"

    @property
    def input_type(self) -> Literal["uint8", "float32"]:
        """Type of a prepared image."""
        return "float32" if self.is_flux else "uint8"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What whoever uses it should know."""
        if self.stretch.comparable:
            return ()
        return (
            f"stretch {self.stretch.kind!r} takes its range from each cutout: brightness and colour are not comparable "
            "between galaxies",
        )
