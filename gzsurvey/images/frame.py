"""The pixel grid of a cutout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gzsurvey.recipes.preparation import ScaleRule

GALAXY_ZOO_PX = 424
"""Pixels on a side of Galaxy Zoo's subject images; the scale rule is written for them."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The pixel grid of a cutout: square, north up, east left, centred on its target."""

    size_px: int
    """Pixels on a side, at least 8."""
    scale_arcsec: float
    """Pixel scale, arcsec per pixel."""

    def __post_init__(self) -> None:
        if self.size_px < 8:
            raise ValueError(f"'size_px' must be at least 8, got {self.size_px}")
        if not 0.001 <= self.scale_arcsec <= 60:
            raise ValueError(f"'scale_arcsec' must be in [0.001, 60], got {self.scale_arcsec}")

    @property
    def fov_arcsec(self) -> float:
        """Width of the field of view, arcsec."""
        return self.size_px * self.scale_arcsec


def field_of_view(
    rule: ScaleRule, r50_arcsec: NDArray[np.floating], r90_arcsec: NDArray[np.floating] | None = None
) -> NDArray[np.float64]:
    """Width of each target's field of view by a model's scale rule.

    Parameters
    ----------
    rule : ScaleRule
        From the model's card.
    r50_arcsec : float, shape (N,)
        Half-light radius, arcsec; ignored by a fixed rule.
    r90_arcsec : float, shape (N,), optional
        90 % light radius, arcsec.

    Returns
    -------
    float64, shape (N,)
        Arcsec; NaN where the rule needs a size and the target has none.

    Notes
    -----
    The Galaxy Zoo DECaLS rule gives arcsec per pixel of a 424-pixel image:
    ``max(min(0.04 r50, 0.02 r90), 0.1)`` (Walmsley et al. 2022).
    """
    r50 = np.asarray(r50_arcsec, dtype=np.float64)
    if rule.kind == "fixed":
        assert rule.fov_arcsec is not None
        return np.full(r50.shape, rule.fov_arcsec)
    by_r50 = 0.04 * r50
    scale = by_r50 if r90_arcsec is None else np.fmin(by_r50, 0.02 * np.asarray(r90_arcsec, dtype=np.float64))
    fov = GALAXY_ZOO_PX * np.maximum(scale, 0.1)
    limited: NDArray[np.float64] = np.minimum(fov, rule.max_fov_arcsec)
    return limited
