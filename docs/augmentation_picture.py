"""Draw docs/images/augmentation.jpg: ``python docs/augmentation_picture.py``.

Eight simulated galaxies, one a row: as the store has it, then eight views of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gzsurvey.recipes.simulation import load_simulation_recipe
from gzsurvey.recipes.training import load_pretrain_recipe
from gzsurvey.simulation.population import population
from gzsurvey.simulation.stamps import stamps
from gzsurvey.training.augment import augment, draw
from gzsurvey.training.data import as_input

PICTURE = Path(__file__).parent / "images" / "augmentation.jpg"
GALAXIES, VIEWS, SIZE, GAP = 8, 8, 96, 3
LIST_SEED, VIEW_SEED = 3, 1


def galaxies() -> np.ndarray:
    """The largest spirals and disks of a few hundred drawn galaxies, uint8 (8, 96, 96, 3)."""
    recipe = load_simulation_recipe("simulate")
    drawn = population(LIST_SEED, range(400))
    disks = drawn[(drawn["arm_count"] > 0) & (drawn["axis_ratio"] > 0.5)]
    largest = disks[np.argsort(-disks["r50"])[:GALAXIES]]
    preparation = recipe.stamps.model_copy(update={"image_size": SIZE})
    return np.stack([image for _, image in stamps(largest, recipe.regions[0], preparation)])


def sheet(images: np.ndarray) -> Image.Image:
    """The stored picture, a gap, then the views that the shipped recipe draws."""
    recipe = load_pretrain_recipe("pretrain").augmentation
    step = SIZE + GAP
    picture = Image.new("RGB", (step * (VIEWS + 1) + 4 * GAP, step * len(images)), "white")
    views = [
        augment(as_input(torch.from_numpy(images)), draw(recipe, len(images), VIEW_SEED + i)) for i in range(VIEWS)
    ]
    for row, image in enumerate(images):
        picture.paste(Image.fromarray(image), (0, row * step))
        for column, view in enumerate(views):
            pixels = (view[row].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            picture.paste(Image.fromarray(pixels), (step * (column + 1) + 4 * GAP, row * step))
    return picture


if __name__ == "__main__":
    sheet(galaxies()).save(PICTURE, quality=85)
