"""Small made-up collections and catalogues for the tests of `gzsurvey.dataset`."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from gzsurvey.recipes.dataset import DatasetRecipe, resolve_paths


def png(seed: int, size: int = 40) -> bytes:
    """A noisy blob, different for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    blob = 200 * np.exp(-(x**2 + y**2) / (2 * (size / rng.uniform(4, 9)) ** 2))
    pixels = np.clip(blob[..., None] * rng.uniform(0.4, 1, 3) + rng.normal(12, 4, (size, size, 3)), 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def zipped(path: Path, names: Iterable[str], first_seed: int = 0) -> Path:
    """A zip of pictures with these stems."""
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(f"{name}.png", png(first_seed + i))
    return path


def catalogue(path: Path, ids: list[str], **columns: object) -> Path:
    """A CSV with ids and GZ2 votes for the first question, and whatever is given."""
    n = len(ids)
    rng = np.random.default_rng(n)
    votes = {
        f"smooth-or-featured-gz2_{answer}": rng.integers(1, 20, n)
        for answer in ("smooth", "featured-or-disk", "artifact")
    }
    pd.DataFrame({"id": ids} | votes | columns).to_csv(path, index=False)
    return path


def recipe(folder: Path, sources: list[dict[str, object]], **more: object) -> DatasetRecipe:
    """A recipe at 32 px whose paths start from `folder`."""
    content = {"name": "small", "image_size": 32, "sources": sources} | more
    return resolve_paths(DatasetRecipe.model_validate(content), folder)
