"""``synthetic:``: made-up galaxies, the same for the same target, at next to no cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.recipes.preparation import Preparation

SKY_NOISE = 0.005
"""Of each pixel, nanomaggies per reference pixel: about a Legacy Survey image in g."""


class SyntheticSource:
    """Smooth elliptical galaxies drawn from the target's id, for tests, demos and benchmarks.

    Parameters
    ----------
    preparation : Preparation
        Names the bands; their number is that of the planes.
    """

    name = "synthetic:"

    def __init__(self, preparation: Preparation) -> None:
        self._colours = np.linspace(0.6, 1.6, len(preparation.bands), dtype=np.float32)[:, None, None]

    def fetch(self, requests: Sequence[Request]) -> Iterator[tuple[int, Cutout | Miss]]:
        """Yield ``(request.row, cutout)`` for each request, in order."""
        for request in requests:
            yield request.row, Cutout(self._draw(request), image_id=request.target_id, image_set=self.name)

    def _draw(self, request: Request) -> NDArray[np.float32]:
        rng = np.random.default_rng(crc32(request.target_id.encode()))
        size = request.frame.size_px
        angle, axis_ratio, radius, peak = rng.uniform((0, 0.2, 0.04, 0.05), (np.pi, 1.0, 0.12, 1.0))
        steps = (np.arange(size, dtype=np.float32) - (size - 1) / 2) / size
        along = steps[:, None] * np.cos(angle) + steps * np.sin(angle)
        across = (steps * np.cos(angle) - steps[:, None] * np.sin(angle)) / axis_ratio
        profile = peak * np.exp(-np.hypot(along, across) / radius)
        noise = rng.standard_normal((len(self._colours), size, size), dtype=np.float32) * np.float32(SKY_NOISE)
        pixels: NDArray[np.float32] = self._colours * profile.astype(np.float32) + noise
        return pixels
