from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from pictures import SIZE, pictures

from gzsurvey.card import Credit
from gzsurvey.dataset.store import Store, StoreInfo, write_info
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.votes.tree import DecisionTree


def write_store(path: Path, n: int = 96, voted: float = 0.6, seed: int = 0) -> Path:
    """Write a small store of blobs whose volunteers tell the elongated ones apart."""
    rng = np.random.default_rng([seed, 1])
    tree = DecisionTree.load("gz_desi")
    images, elongated = pictures(n, seed)
    votes = np.zeros((n, tree.n_answers), np.int32)
    first = tree.questions[0]
    probability = np.where(elongated[:, None], [0.1, 0.85, 0.05], [0.85, 0.1, 0.05])
    asked = rng.random(n) < voted
    votes[:, first.columns] = rng.multinomial(20, probability) * asked[:, None]
    path.mkdir(parents=True)
    group = zarr.open_group(path / "store.zarr", mode="w", zarr_format=3)
    for name, data in (("images", images), ("votes", votes)):
        chunks = (32, *data.shape[1:])
        group.create_array(name, shape=data.shape, dtype=data.dtype, chunks=chunks, compressors=None)[...] = data
    pd.DataFrame(
        {
            "id": [f"g{i}" for i in range(n)],
            "source": "blobs",
            "campaign": np.where(asked, first.campaign, ""),
            "ra": np.linspace(10, 20, n),
            "dec": np.linspace(-5, 5, n),
            "split": np.where(np.arange(n) % 4 == 3, "validation", "train"),
            "assumed_votes": False,
            "image_sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
            "r50": rng.uniform(2, 6, n).astype(np.float32),
            "mag": rng.uniform(14, 17, n).astype(np.float32),
        }
    ).to_parquet(path / "galaxies.parquet")
    write_info(
        path,
        StoreInfo(
            simulated=True,
            preparation=Preparation(image_size=SIZE),
            questions=tuple(tree.to_json()),
            galaxies=n,
            credits=(Credit(name="blobs", licence="CC0-1.0", citation="none", galaxies=n),),
            recipe_sha256="0" * 64,
            content_sha256=hashlib.sha256(images.tobytes() + votes.tobytes()).hexdigest(),
        ),
    )
    return path


@pytest.fixture(scope="session")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("stores") / "store")


@pytest.fixture(scope="session")
def store(store_path: Path) -> Store:
    return Store(store_path)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Path]:
    return lambda name, **options: write_store(tmp_path / name, **options)
