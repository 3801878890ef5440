from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gzsurvey.model.timm_import import import_timm
from gzsurvey.recipes.training import AugmentationRecipe
from gzsurvey.training.augment import Draws, augment, change_colours, draw, move

PLAIN = AugmentationRecipe(rotation_deg=0, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0, jitter=0, greyscale=0)


def same_for_all(n: int, **changes: object) -> Draws:
    return replace(draw(PLAIN, n, 0), **changes)


def colours(factors: tuple[float, float, float, float], order: tuple[int, ...] = (0, 1, 2, 3), n: int = 2) -> Draws:
    return same_for_all(
        n,
        jittered=torch.ones(n, dtype=torch.bool),
        factors=torch.tensor([factors] * n),
        order=torch.tensor([order] * n),
    )


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth random pictures, so that resampling is nearly exact."""
    coarse = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1)


def test_a_plain_view_is_the_image(images: torch.Tensor) -> None:
    assert torch.allclose(augment(images, draw(PLAIN, 6, 3)), images, atol=1e-5)


@pytest.mark.parametrize(("axis", "dim"), [(0, 3), (1, 2)])
def test_flips_are_exact(images: torch.Tensor, axis: int, dim: int) -> None:
    drawn = draw(AugmentationRecipe(flip=0.5, jitter=0.0, greyscale=0.0), 6, 5)
    flipped = drawn.flipped.clone()
    flipped[:, axis] = ~flipped[:, axis]
    assert torch.equal(move(images, replace(drawn, flipped=flipped)), move(images, drawn).flip(dim))


def test_a_quarter_turn_reorders_pixels(images: torch.Tensor) -> None:
    turned = move(images, same_for_all(6, angle=torch.full((6,), math.pi / 2)))
    assert torch.allclose(turned, images.rot90(1, dims=(2, 3)), atol=1e-4)


def test_rotation_keeps_handedness_and_flip_reverses_it() -> None:
    """A pinwheel turns the other way after one flip, and as before after two."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 65), torch.linspace(-1, 1, 65), indexing="ij")
    radius, angle = torch.hypot(x, y), torch.atan2(y, x)
    arms = (0.5 + 0.5 * torch.cos(2 * angle - 6 * radius)) * (radius < 0.9)
    mirrored = (0.5 + 0.5 * torch.cos(2 * angle + 6 * radius)) * (radius < 0.9)
    image = arms.expand(1, 3, -1, -1)

    def likeness(view: torch.Tensor, pattern: torch.Tensor) -> float:
        """Best match over rotations of a pattern with two arms."""
        best = 0.0
        for k in np.linspace(0, math.pi, 36, endpoint=False):
            turned = move(pattern.expand(1, 3, -1, -1), same_for_all(1, angle=torch.tensor([float(k)])))
            best = max(best, float(torch.corrcoef(torch.stack([view.flatten(), turned.flatten()]))[0, 1]))
        return best

    rotated = move(image, same_for_all(1, angle=torch.tensor([0.7])))
    once = move(image, same_for_all(1, flipped=torch.tensor([[True, False]])))
    twice = move(image, same_for_all(1, flipped=torch.tensor([[True, True]])))
    assert likeness(rotated, arms) > 0.9 > likeness(rotated, mirrored)
    assert likeness(once, mirrored) > 0.9 > likeness(once, arms)
    assert likeness(twice, arms) > 0.9 > likeness(twice, mirrored)


def test_a_crop_is_a_magnified_part(images: torch.Tensor) -> None:
    half, centre = torch.full((6, 2), 0.5), torch.tensor([[0.5, -0.5]] * 6)
    view = move(images, same_for_all(6, half=half, centre=centre))
    # The outermost half pixel blends with the black beyond the image.
    inside = torch.nn.functional.avg_pool2d(view, 2)[:, :, 1:-1, 1:-1]
    assert torch.allclose(inside, images[:, :, 1:31, 33:63], atol=0.03)


def test_beyond_the_image_it_is_black() -> None:
    view = move(torch.ones(1, 3, 32, 32), same_for_all(1, angle=torch.tensor([math.pi / 4])))
    assert view[0, 0, 0, 0] == 0
    assert view[0, 0, 16, 16] == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "factors", "argument"),
    [
        ("adjust_brightness", (1.3, 1, 1, 0), 1.3),
        ("adjust_contrast", (1, 0.6, 1, 0), 0.6),
        ("adjust_saturation", (1, 1, 1.4, 0), 1.4),
        ("adjust_hue", (1, 1, 1, 0.1), 0.1),
        ("adjust_hue", (1, 1, 1, -0.07), -0.07),
    ],
)
def test_colour_changes_agree_with_torchvision(
    images: torch.Tensor, name: str, factors: tuple[float, float, float, float], argument: float
) -> None:
    import_timm()
    from torchvision.transforms.v2 import functional

    theirs = getattr(functional, name)(images, argument)
    assert torch.allclose(change_colours(images, colours(factors, n=6)), theirs, atol=2e-4)


def test_colour_changes_agree_with_torchvision_on_real_galaxies(shared_data: Path) -> None:
    import io
    import zipfile

    from PIL import Image

    import_timm()
    from torchvision.transforms.v2 import functional

    with zipfile.ZipFile(shared_data / "galaxy10_decals_sample" / "images.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:4]
        pictures = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    images = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 255.0 for p in pictures])
    ours = change_colours(images, colours((1.2, 0.8, 1.3, 0.05), order=(3, 1, 0, 2), n=4))
    theirs = functional.adjust_contrast(functional.adjust_hue(images, 0.05), 0.8)
    theirs = functional.adjust_saturation(functional.adjust_brightness(theirs, 1.2), 1.3)
    assert torch.allclose(ours, theirs, atol=2e-3)


def test_colours_follow_each_galaxys_own_order(images: torch.Tensor) -> None:
    drawn = colours((0.7, 1.4, 0.6, 0.1), n=6)
    mixed = replace(drawn, order=torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]] * 3))
    out = change_colours(images, mixed)
    for row in range(6):
        alone = change_colours(images[row : row + 1], mixed[row : row + 1])
        assert torch.equal(out[row : row + 1], alone)
    assert not torch.allclose(change_colours(images, drawn)[1], out[1], atol=1e-3)


def test_grey_has_one_colour(images: torch.Tensor) -> None:
    grey = change_colours(images, same_for_all(6, grey=torch.ones(6, dtype=torch.bool)))
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])


def test_draws_follow_the_recipe() -> None:
    recipe, n = AugmentationRecipe(), 20_000
    drawn = draw(recipe, n, 1)
    area, aspect = drawn.half.prod(dim=1), drawn.half[:, 0] / drawn.half[:, 1]
    assert 0.2999 < area.min() < 0.31
    assert 0.84 < area.max() < 0.8501
    assert area.mean() == pytest.approx(0.575, abs=0.005)
    assert 0.799 < aspect.min() < 0.81
    assert 1.19 < aspect.max() < 1.201
    assert (drawn.half <= 1).all()
    assert (drawn.centre.abs() + drawn.half <= 1 + 1e-6).all()
    assert drawn.angle.abs().max() <= math.pi
    assert drawn.angle.std() == pytest.approx(math.pi / math.sqrt(3), rel=0.02)
    assert drawn.flipped.float().mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    assert drawn.jittered.float().mean() == pytest.approx(0.8, abs=0.02)
    assert drawn.grey.float().mean() == pytest.approx(0.3, abs=0.02)
    assert drawn.factors[:, :3].min() >= 0.6
    assert drawn.factors[:, :3].max() <= 1.4
    assert drawn.factors[:, 3].abs().max() <= 0.1
    assert (drawn.order.sort(dim=1).values == torch.arange(4)).all()


def test_each_galaxy_is_drawn_independently_and_repeatably(images: torch.Tensor) -> None:
    drawn = draw(AugmentationRecipe(), 64, 7)
    again = draw(AugmentationRecipe(), 64, 7)
    assert torch.equal(drawn.angle, again.angle)
    assert drawn.angle.unique().numel() == 64
    assert drawn.centre.unique().numel() == 128
    assert not torch.equal(drawn.angle, draw(AugmentationRecipe(), 64, 8).angle)
    assert torch.corrcoef(torch.stack([drawn.angle, drawn.factors[:, 0]]))[0, 1].abs() < 0.4


def test_views_stay_between_zero_and_one(images: torch.Tensor) -> None:
    views = augment(images.repeat(20, 1, 1, 1), draw(AugmentationRecipe(), 120, 2))
    assert views.min() >= 0
    assert views.max() <= 1
    assert torch.isfinite(views).all()
