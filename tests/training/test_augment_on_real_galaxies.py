"""Every part of a view against Pillow, torchvision or SciPy, on real pictures; and handedness.

Letters: N galaxies, S pixels on a side.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from gzsurvey.model.timm_import import import_timm
from gzsurvey.recipes.training import AugmentationRecipe
from gzsurvey.training.augment import Draws, augment, blur, change_colours, draw, move

SIZE, N = 128, 12
PLAIN = AugmentationRecipe(rotation_deg=0, area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0, jitter=0, greyscale=0)
CLOCKWISE, ANTICLOCKWISE = 1, 2


def read_pictures(shared_data: Path, names: list[str], size: int) -> np.ndarray:
    """Real pictures, uint8 (n, size, size, 3)."""
    with zipfile.ZipFile(shared_data / "gz1_sdss_classes" / "images.zip") as archive:
        opened = (Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names)
        return np.stack([np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR)) for picture in opened])


def as_floats(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255.0


@pytest.fixture(scope="module")
def catalogue(shared_data: Path) -> pd.DataFrame:
    return pd.read_csv(shared_data / "gz1_sdss_classes" / "catalogue.csv")


@pytest.fixture(scope="module")
def pictures(shared_data: Path, catalogue: pd.DataFrame) -> np.ndarray:
    return read_pictures(shared_data, list(catalogue["image"][:: len(catalogue) // N][:N]), SIZE)


@pytest.fixture(scope="module")
def images(pictures: np.ndarray) -> torch.Tensor:
    return as_floats(pictures)


@pytest.fixture(scope="module")
def torchvision() -> ModuleType:
    import_timm()
    from torchvision.transforms.v2 import functional

    return functional


def drawn(**changes: torch.Tensor) -> Draws:
    """The plain view of N galaxies, but for some draws."""
    return replace(draw(PLAIN, N, 0), **changes)


def spread_over(low: float, high: float) -> torch.Tensor:
    return torch.linspace(low, high, N)


def agree(ours: torch.Tensor, theirs: torch.Tensor, within: float) -> None:
    """Hold `ours` against the reference, galaxy by galaxy; a tolerance that anything passes is refused."""
    assert ours.shape == theirs.shape
    assert theirs.std(dim=(1, 2, 3)).min() > 5 * within
    assert (ours - theirs).abs().max() <= within


def test_rotation_is_pillows(images: torch.Tensor) -> None:
    angles = spread_over(-171.0, 174.0)
    views = move(images, drawn(angle=torch.deg2rad(angles)))
    theirs = torch.stack(
        [
            torch.stack([torch.from_numpy(rotated_by_pillow(band, float(angle))) for band in image])
            for image, angle in zip(images, angles, strict=True)
        ]
    )
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    middle = (SIZE - 1) / 2
    # At the edge of the picture Pillow decides per pixel, we blend with the black beyond.
    disk = torch.hypot(x - middle, y - middle) < middle - 1
    agree(views * disk, theirs * disk, within=1e-4)
    # Half a degree would show.
    off = move(images, drawn(angle=torch.deg2rad(angles + 0.5)))
    assert ((off - theirs) * disk).abs().amax(dim=(1, 2, 3)).min() > 0.005


def rotated_by_pillow(band: torch.Tensor, angle_deg: float) -> np.ndarray:
    return np.array(Image.fromarray(band.numpy(), mode="F").rotate(angle_deg, Image.Resampling.BILINEAR))


def test_crop_and_resize_are_torchvisions(images: torch.Tensor, torchvision: ModuleType) -> None:
    """Boxes of whole pixels, of all aspects, off the middle; the outermost pixels see beyond the crop."""
    rng = np.random.default_rng(4)
    boxes = [
        (int(rng.integers(0, 28)), int(rng.integers(0, 28)), *map(int, rng.integers(70, 100, 2))) for _ in range(N)
    ]
    theirs = torch.stack(
        [
            torchvision.resized_crop(image, top, left, height, width, [SIZE, SIZE], antialias=False)
            for image, (top, left, height, width) in zip(images, boxes, strict=True)
        ]
    )
    top, left, height, width = (torch.tensor(values) for values in zip(*boxes, strict=True))
    half = torch.stack([width, height], dim=1) / SIZE
    centre = torch.stack([2 * left + width, 2 * top + height], dim=1) / SIZE - 1
    views = move(images, drawn(half=half, centre=centre))
    agree(views[:, :, 1:-1, 1:-1], theirs[:, :, 1:-1, 1:-1], within=1e-4)


def test_rotation_crop_and_resize_at_once_are_scipys(images: torch.Tensor) -> None:
    """The whole map, corners included, as SciPy interpolates it."""
    draws = draw(AugmentationRecipe(flip=0, jitter=0, greyscale=0), N, 11)
    theirs = torch.stack([resampled_by_scipy(images[i], draws[i : i + 1]) for i in range(N)])
    agree(move(images, draws), theirs, within=1e-4)


def resampled_by_scipy(image: torch.Tensor, draws: Draws) -> torch.Tensor:
    pixel = (2 * np.arange(SIZE) + 1) / SIZE - 1
    v, u = np.meshgrid(pixel, pixel, indexing="ij")
    (cx, cy), (half_width, half_height) = draws.centre[0].numpy(), draws.half[0].numpy()
    x, y = cx + half_width * u, cy + half_height * v
    cos, sin = math.cos(draws.angle), math.sin(draws.angle)
    column, row = (((coordinate + 1) * SIZE - 1) / 2 for coordinate in (cos * x - sin * y, sin * x + cos * y))
    bands = [ndimage.map_coordinates(band, [row, column], order=1, mode="grid-constant") for band in image.double()]
    return torch.from_numpy(np.stack(bands)).float()


def test_one_resampling_has_the_geometry_of_the_authors_three(
    shared_data: Path, catalogue: pd.DataFrame, torchvision: ModuleType
) -> None:
    """Their order: shorter side to 166, rotate by the nearest pixel, crop and resize to 128."""
    names = list(catalogue["image"][:: len(catalogue) // N][:N])
    ours_from, theirs_from = (as_floats(read_pictures(shared_data, names, size)) for size in (SIZE, 166))
    draws = draw(AugmentationRecipe(flip=0, jitter=0, greyscale=0), N, 12)
    theirs = torch.stack([by_the_authors(theirs_from[i], draws[i : i + 1], torchvision) for i in range(N)])
    ours = move(ours_from, draws)
    likeness = [
        float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) for a, b in zip(ours, theirs, strict=True)
    ]
    assert min(likeness) > 0.97
    assert np.median(likeness) > 0.99


def by_the_authors(image: torch.Tensor, draws: Draws, torchvision: ModuleType) -> torch.Tensor:
    rotated = torchvision.rotate(image, math.degrees(draws.angle))
    side = image.shape[-1]
    (cx, cy), (half_width, half_height) = draws.centre[0].tolist(), draws.half[0].tolist()
    left, top = (round((c - half + 1) / 2 * side) for c, half in ((cx, half_width), (cy, half_height)))
    width, height = round(half_width * side), round(half_height * side)
    cropped: torch.Tensor = torchvision.resized_crop(rotated, top, left, height, width, [SIZE, SIZE], antialias=True)
    return cropped


@pytest.mark.parametrize(("axis", "name"), [(0, "horizontal_flip"), (1, "vertical_flip")])
def test_flips_are_torchvisions_to_the_last_bit(
    images: torch.Tensor, torchvision: ModuleType, axis: int, name: str
) -> None:
    draws = draw(AugmentationRecipe(flip=0, jitter=0, greyscale=0), N, 13)
    flipped = torch.zeros(N, 2, dtype=torch.bool)
    flipped[::2, axis] = True
    ours, straight = move(images, replace(draws, flipped=flipped)), move(images, draws)
    assert torch.equal(ours[::2], getattr(torchvision, name)(straight[::2]))
    assert torch.equal(ours[1::2], straight[1::2])


COLOURS = {
    "brightness": (0, "adjust_brightness", ImageEnhance.Brightness, (0.6, 1.4)),
    "contrast": (1, "adjust_contrast", ImageEnhance.Contrast, (0.6, 1.4)),
    "saturation": (2, "adjust_saturation", ImageEnhance.Color, (0.6, 1.4)),
    "hue": (3, "adjust_hue", None, (-0.1, 0.1)),
}


@pytest.mark.parametrize("colour", COLOURS)
def test_colour_changes_are_torchvisions_and_pillows(
    images: torch.Tensor, pictures: np.ndarray, torchvision: ModuleType, colour: str
) -> None:
    column, name, enhancer, (low, high) = COLOURS[colour]
    values, factors = spread_over(low, high), torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(N, 1)
    factors[:, column] = values
    views = change_colours(images, drawn(jittered=torch.ones(N, dtype=torch.bool), factors=factors))
    theirs = [getattr(torchvision, name)(image, float(v)) for image, v in zip(images, values, strict=True)]
    agree(views, torch.stack(theirs), within=2e-4)
    assert (views - images).abs().amax(dim=(1, 2, 3)).min() > 0.002
    if enhancer is not None:
        changed = [enhancer(Image.fromarray(p)).enhance(float(v)) for p, v in zip(pictures, values, strict=True)]
        # Pillow rounds to whole counts, the mean grey of a picture too.
        agree(views, as_floats(np.stack([np.asarray(p) for p in changed])), within=1.5 / 255)


def test_grey_is_torchvisions_and_pillows(images: torch.Tensor, pictures: np.ndarray, torchvision: ModuleType) -> None:
    views = change_colours(images, drawn(grey=torch.ones(N, dtype=torch.bool)))
    agree(views, torchvision.rgb_to_grayscale(images, 3), within=1e-6)
    theirs = np.stack([np.asarray(Image.fromarray(p).convert("L").convert("RGB")) for p in pictures])
    agree(views, as_floats(theirs), within=1.0 / 255)


def test_blur_is_scipys_and_torchvisions_each_by_its_own_sigma(images: torch.Tensor, torchvision: ModuleType) -> None:
    sigma = spread_over(0.1, 3.0)
    views = blur(images, drawn(blurred=torch.ones(N, dtype=torch.bool), sigma=sigma))
    radii = [math.ceil(4.0 * float(s)) for s in sigma]
    theirs = [
        ndimage.gaussian_filter(image.double(), (0, float(s), float(s)), mode="mirror", radius=(0, r, r))
        for image, s, r in zip(images, sigma, radii, strict=True)
    ]
    agree(views, torch.from_numpy(np.stack(theirs)).float(), within=1e-5)
    also = [
        torchvision.gaussian_blur(image, [2 * r + 1, 2 * r + 1], [float(s)] * 2)
        for image, s, r in zip(images, sigma, radii, strict=True)
    ]
    agree(views, torch.stack(also), within=1e-5)
    assert torch.allclose(views[0], images[0], atol=1e-6)


def test_only_the_drawn_share_is_blurred_and_sigmas_fill_their_range(images: torch.Tensor) -> None:
    recipe = AugmentationRecipe(blur=0.25, blur_sigma=(0.5, 1.5))
    draws = draw(recipe, 20_000, 3)
    assert draws.blurred.float().mean() == pytest.approx(0.25, abs=0.01)
    assert 0.5 <= draws.sigma.min() < 0.51
    assert 1.49 < draws.sigma.max() <= 1.5
    some = draws[0:N]
    views = blur(images, some)
    assert 0 < some.blurred.sum() < N
    assert [not torch.equal(a, b) for a, b in zip(views, images, strict=True)] == some.blurred.tolist()
    assert not draw(AugmentationRecipe(), 1000, 3).blurred.any()


STRONG = AugmentationRecipe(jitter=1.0, greyscale=0.2, blur=0.5)


def test_galaxies_of_one_batch_are_drawn_differently(images: torch.Tensor) -> None:
    views = augment(images[:1].expand(N, -1, -1, -1), draw(STRONG, N, 21))
    apart = torch.cdist(views.flatten(1), views.flatten(1)) + torch.eye(N) * 1e9
    assert apart.min() > 1.0


def test_a_view_does_not_depend_on_the_neighbours_in_its_batch(images: torch.Tensor) -> None:
    draws = draw(STRONG, N, 22)
    together = augment(images, draws)
    others = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    for row in (0, 5, N - 1):
        strange = others.clone()
        strange[row] = images[row]
        assert torch.equal(augment(strange, draws)[row], together[row])


RADII, ANGLES, ARMS = np.geomspace(0.03, 0.3, 32), (np.arange(128) + 0.5) * 2 * np.pi / 128, slice(2, 5)


def handedness(images: torch.Tensor) -> np.ndarray:
    """Say which way arms wind, from log-polar correlation: how patterns of 2 to 4 arms turn as radius grows.

    Shape (N,), between -1 and 1. A galaxy seen in a mirror has minus its value.
    """
    side = images.shape[-1]
    middle, radii = (side - 1) / 2, RADII[:, None] * side
    at = [middle + radii * np.sin(ANGLES), middle + radii * np.cos(ANGLES)]
    polar = np.stack([ndimage.map_coordinates(image, at, order=1) for image in images.double().mean(dim=1).numpy()])
    arms = np.fft.rfft(polar, axis=2)[:, :, ARMS]
    turned = np.conj(arms[:, :-1]) * arms[:, 1:]
    value: np.ndarray = turned.imag.sum(axis=(1, 2)) / np.abs(turned).sum(axis=(1, 2))
    return value


@pytest.fixture(scope="module")
def spirals(shared_data: Path, catalogue: pd.DataFrame) -> tuple[torch.Tensor, np.ndarray]:
    """Every galaxy that volunteers saw turning one way, and whether that was clockwise."""
    turning = catalogue[catalogue["gz1_class"].isin([CLOCKWISE, ANTICLOCKWISE])]
    images = as_floats(read_pictures(shared_data, list(turning["image"]), SIZE))
    return images, (turning["gz1_class"] == CLOCKWISE).to_numpy()


def mirrored(n: int, *, across: bool, upright: bool) -> Draws:
    return replace(draw(PLAIN, n, 0), flipped=torch.tensor([[across, upright]]).repeat(n, 1))


def test_a_flip_swaps_clockwise_and_anticlockwise(spirals: tuple[torch.Tensor, np.ndarray]) -> None:
    images, clockwise = spirals
    assert len(images) > 300
    before = handedness(images)
    assert roc_auc_score(clockwise, before) > 0.85
    for across, upright, sign in ((True, False, -1), (False, True, -1), (True, True, 1)):
        after = handedness(move(images, mirrored(len(images), across=across, upright=upright)))
        assert after == pytest.approx(sign * before, abs=1e-4)
    flipped = handedness(move(images, mirrored(len(images), across=True, upright=False)))
    assert roc_auc_score(clockwise, flipped) == pytest.approx(1 - roc_auc_score(clockwise, before), abs=0.002)


@pytest.mark.parametrize(("flip", "separates"), [(0.0, True), (0.5, False)])
def test_views_keep_handedness_unless_flipped(
    spirals: tuple[torch.Tensor, np.ndarray], flip: float, separates: bool
) -> None:
    images, clockwise = spirals
    recipe = AugmentationRecipe(flip=flip, area=(0.5, 0.85))
    draws = draw(recipe, len(images), 5)
    auc = roc_auc_score(clockwise, handedness(augment(images, replace(draws, centre=torch.zeros_like(draws.centre)))))
    assert auc > 0.8 if separates else abs(auc - 0.5) < 0.1
