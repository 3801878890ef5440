"""Views of galaxies: batched, on the device, each galaxy drawn independently.

The order is: rotate, crop, resize (one resampling for the three of them), flip, change
colours, turn grey, blur. The draws come from a seed on the CPU, so that a view is a function of the
seed alone, whatever the device and whatever else is in the batch.

Letters: N galaxies, S pixels on a side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from gzsurvey.errors import TrainingError
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.training import AugmentationRecipe

_LUMA = (0.2989, 0.587, 0.114)
UNZOOMED = (1.0, 1.0)
"""Area and aspect of a view that keeps the scale of its pixels."""
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


@dataclass(frozen=True)
class Draws:
    """What chance decided for each of N galaxies."""

    angle: Tensor
    """Radians, float32, shape (N,)."""
    centre: Tensor
    """Of the crop, as x and y from -1 to 1 across the image, float32, shape (N, 2)."""
    half: Tensor
    """Half the crop's width and height in the same units, float32, shape (N, 2)."""
    flipped: Tensor
    """Left-right and up-down, bool, shape (N, 2)."""
    jittered: Tensor
    """Bool, shape (N,)."""
    factors: Tensor
    """Brightness, contrast, saturation (1: unchanged) and hue (0: unchanged), float32, shape (N, 4)."""
    order: Tensor
    """In which order the four are applied, int64, shape (N, 4)."""
    grey: Tensor
    """Bool, shape (N,)."""
    blurred: Tensor
    """Bool, shape (N,)."""
    sigma: Tensor
    """Of the blur, pixels, float32, shape (N,)."""

    def __getitem__(self, rows: slice) -> Draws:
        """Take the draws of some galaxies."""
        return Draws(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def joined(parts: Sequence[Draws]) -> Draws:
        """Put draws one after the other."""
        return Draws(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Draws)))


def refuse_meaningless(recipe: AugmentationRecipe, preparation: Preparation) -> None:
    """Refuse views that no galaxy could have: fluxes are measurements, so their colours stay.

    Raises
    ------
    gzsurvey.errors.TrainingError
        Says which keys to change.
    """
    if not preparation.is_flux:
        return
    if recipe.jitter or recipe.greyscale:
        raise TrainingError(
            "images are flux, whose colours are measurements; set augmentation.jitter=0 and augmentation.greyscale=0"
        )
    if preparation.stretch.flux_per == "pixel" and (recipe.area, recipe.aspect) != (UNZOOMED, UNZOOMED):
        raise TrainingError(
            "images are flux per pixel, which a zoom would change; set augmentation.area=[1,1] and "
            "augmentation.aspect=[1,1]"
        )


def draw(recipe: AugmentationRecipe, n: int, seed: int) -> Draws:
    """Draw the views of `n` galaxies.

    Parameters
    ----------
    recipe : AugmentationRecipe
        Ranges and probabilities.
    n : int
        Galaxies.
    seed : int
        Equal seeds give equal draws.

    Returns
    -------
    Draws
        On the CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand((n, 12), generator=generator)
    width, height = _crop_size(recipe, u[:, 0], u[:, 1])
    half = torch.stack([width, height], dim=1)
    strengths = (recipe.brightness, recipe.contrast, recipe.saturation)
    around_one = [1.0 + strength * (2.0 * u[:, 2 + i] - 1.0) for i, strength in enumerate(strengths)]
    hue = recipe.hue * (2.0 * torch.rand(n, generator=generator) - 1.0)
    order = torch.rand((n, 4), generator=generator).argsort(dim=1)
    v = torch.rand((n, 2), generator=generator)
    least, most = recipe.blur_sigma
    return Draws(
        angle=math.radians(recipe.rotation_deg) * (2.0 * u[:, 5] - 1.0),
        centre=(1.0 - half) * (2.0 * u[:, 6:8] - 1.0),
        half=half,
        flipped=u[:, 8:10] < recipe.flip,
        jittered=u[:, 10] < recipe.jitter,
        factors=torch.stack([*around_one, hue], dim=1),
        order=order,
        grey=u[:, 11] < recipe.greyscale,
        blurred=v[:, 0] < recipe.blur,
        sigma=least + (most - least) * v[:, 1],
    )


def _crop_size(recipe: AugmentationRecipe, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Half width and half height: area uniform, aspect uniform in its logarithm, never over the edge."""
    area = recipe.area[0] + (recipe.area[1] - recipe.area[0]) * u
    low, high = (math.log(aspect) for aspect in recipe.aspect)
    # An aspect that would cross the edge at this area is pulled back to the widest that fits.
    aspect = torch.exp(low + (high - low) * v).clamp(min=area, max=1.0 / area)
    return torch.sqrt(area * aspect), torch.sqrt(area / aspect)


def augment(images: Tensor, draws: Draws) -> Tensor:
    """Make one view of each image.

    Parameters
    ----------
    images : float32, shape (N, 3, S, S)
        Between 0 and 1; or flux, whose colours `draws` leaves alone.
    draws : Draws
        For N galaxies, on any device.

    Returns
    -------
    float32, shape (N, 3, S, S)
        In the same unit; 0 where a view reaches beyond its image.
    """
    return blur(change_colours(move(images, draws), draws), draws)


def move(images: Tensor, draws: Draws) -> Tensor:
    """Rotate, crop, resize and flip in one bilinear resampling.

    A pixel ``(u, v)`` of the view, from -1 to 1, is taken from ``R(angle) (centre + half * (u, v))``
    of the image. A flip changes the sign of `u` or `v`, and the pixels lie symmetrically around 0, so
    that a flipped view holds the same numbers.
    """
    across, down = draws.half.where(~draws.flipped, -draws.half).unbind(dim=1)
    cos, sin = torch.cos(draws.angle), torch.sin(draws.angle)
    x, y = draws.centre.unbind(dim=1)
    theta = torch.stack(
        [
            torch.stack([cos * across, -sin * down, cos * x - sin * y], dim=1),
            torch.stack([sin * across, cos * down, sin * x + cos * y], dim=1),
        ],
        dim=1,
    )
    (theta,) = _sent([theta], images.device)
    grid = _grid(theta, images.shape[-1])
    return nn.functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _grid(theta: Tensor, size: int) -> Tensor:
    """Say where each pixel of a view is taken from, (N, S, S, 2); as `affine_grid`, without its matrix product."""
    steps = (torch.arange(size, device=theta.device) * 2 + (1 - size)) / size
    along, down, shift = theta.view(-1, 1, 1, 2, 3).unbind(dim=-1)
    return torch.addcmul(down * steps.view(-1, 1, 1) + shift, along, steps.view(-1, 1))


def change_colours(images: Tensor, draws: Draws) -> Tensor:
    """Apply brightness, contrast, saturation and hue in each galaxy's order, then grey.

    The four are defined as in torchvision's ``ColorJitter``.
    """
    changes = [(place, change) for place in range(4) for change in range(4)]
    chosen = [draws.jittered & (draws.order[:, place] == change) for place, change in changes]
    *changed, grey = _sent([torch.nonzero(rows).flatten() for rows in (*chosen, draws.grey)], images.device)
    (factors,) = _sent([draws.factors], images.device)
    out = images.clone()
    for (_, change), rows in zip(changes, changed, strict=True):
        if len(rows):
            factor = factors[rows, change].view(-1, 1, 1, 1)
            out.index_copy_(0, rows, _CHANGES[change](out.index_select(0, rows), factor))
    return out.index_copy_(0, grey, _luma(out.index_select(0, grey)).expand(-1, 3, -1, -1))


def blur(images: Tensor, draws: Draws) -> Tensor:
    """Blur some galaxies by a Gaussian, each by its own, mirrored at the edge pixels' centres."""
    rows = torch.nonzero(draws.blurred).flatten()
    if not len(rows):
        return images
    (matrix,) = _sent([_blur_matrix(draws.sigma[rows], images.shape[-1]).unsqueeze(1)], images.device)
    (rows,) = _sent([rows], images.device)
    out = images.clone()
    out[rows] = matrix @ images[rows] @ matrix.transpose(2, 3)
    return out


def _blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """Blur along one axis as a matrix, shape (n, size, size): row i weighs the pixels that make pixel i.

    Kernels end at four sigma, so that none depends on the widest of the batch.
    """
    radius = min(math.ceil(4.0 * float(sigma.max())), size - 1)
    offset = torch.arange(-radius, radius + 1)
    taps = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2) * (offset.abs() <= torch.ceil(4.0 * sigma[:, None]))
    taps = taps / taps.sum(dim=1, keepdim=True)
    last = size - 1
    source = last - (last - (torch.arange(size)[:, None] + offset).abs()).abs()
    matrix = torch.zeros(len(sigma), size, size)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1), taps[:, None].expand(-1, size, -1).contiguous())


def _sent(tensors: list[Tensor], device: torch.device) -> list[Tensor]:
    """Send tensors of one type from the CPU to `device`: in one message, for which the CPU does not wait."""
    if device.type == "cpu":
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors]).pin_memory().to(device, non_blocking=True)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.chunk(3, dim=1)
    return (_LUMA[0] * red).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(images), images, factor.expand_as(images)).clamp_(0.0, 1.0)


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp_(0.0, 1.0)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, _luma(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, _luma(images), factor)


def _hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the colour circle by a share of it, in HSV."""
    red, green, blue = images.chunk(3, dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # Products with 0 and 1 rather than `where`, which torch does not vectorise on a CPU.
    is_red = (value == red).to(images.dtype)
    is_green = (value == green).to(images.dtype) * (1.0 - is_red)
    is_blue = 1.0 - is_red - is_green
    ahead = (is_red * (green - blue)).addcmul_(is_green, blue - red).addcmul_(is_blue, red - green)
    sector = ahead.div_(chroma.clamp(min=1e-12)).add_(is_green, alpha=2.0).add_(is_blue, alpha=4.0).add_(6.0 * shift)
    sector.sub_(torch.floor(sector / 6.0), alpha=6.0)
    # Each plane is value - chroma * clamp(d - 1, 0, 1) with d its distance on the circle, in sectors.
    planes = [(sector - 3.0).abs_().neg_().add_(3.0), (sector - 2.0).abs_(), (sector - 4.0).abs_()]
    return torch.cat([value - chroma * (d - 1.0).clamp_(0.0, 1.0) for d in planes], dim=1)


_CHANGES = {_BRIGHTNESS: _brightness, _CONTRAST: _contrast, _SATURATION: _saturation, _HUE: _hue}
