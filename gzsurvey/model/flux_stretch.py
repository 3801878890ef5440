"""The stretch inside a network of flux.

Letters: N galaxies, S pixels on a side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gzsurvey.recipes.preparation import Stretch


class FluxStretch(nn.Module):
    """Stretches flux as the look ``asinh`` does, but cuts nothing and rounds nothing.

    Parameters
    ----------
    stretch : Stretch
        Its `scales`, `black` and `white`.
    """

    scales: Tensor

    def __init__(self, stretch: Stretch) -> None:
        super().__init__()
        self.register_buffer("scales", torch.tensor(stretch.scales).view(3, 1, 1), persistent=False)
        self.black = math.asinh(stretch.black)
        self.range = math.asinh(stretch.white) - self.black

    def forward(self, flux: Tensor) -> Tensor:
        """Turn flux (N, 3, S, S) into numbers of which 0 is black and 1 is white."""
        return (torch.asinh(flux / self.scales) - self.black) / self.range


def stretch_flux(encoder: nn.Module, stretch: Stretch) -> None:
    """Let an encoder take flux, which it stretches first; so does whatever is copied from it."""
    encoder.add_module("stretch", FluxStretch(stretch))
    encoder.register_forward_pre_hook(_stretch_first)


def _stretch_first(encoder: nn.Module, images: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    stretch = encoder.get_submodule("stretch")
    return (stretch(images[0]), *images[1:])
