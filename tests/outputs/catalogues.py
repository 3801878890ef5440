"""A small model card and a block of rows, as a RUN would hold them."""

from __future__ import annotations

import importlib
import os
import shutil
from types import ModuleType

import numpy as np
import pytest

from gzsurvey.card import Card, ClassesHead, EmbeddingReference, TrainingRange, VotesHead
from gzsurvey.outputs.columns import Column, Stored, layer_column
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.sky.healpix import cells
from gzsurvey.status import Status
from gzsurvey.votes.tree import DecisionTree

EMBEDDING = 5
BIG_ID = 2**62


def make_card(tree: str = "gz_evo_v0_1", **changes: object) -> Card:
    fields = {
        "name": "test-model",
        "created": "2026-01-01",
        "preparation": Preparation(image_size=64),
        "embedding_size": EMBEDDING,
        "heads": (
            VotesHead(questions=tuple(DecisionTree.load(tree).to_json())),
            ClassesHead(task="ring", classes=("Ring", "not-ring"), balance={"Ring": 0.5, "not-ring": 0.5}),
        ),
        "default_campaign": "gz_decals_dr8",
        "embedding_reference": EmbeddingReference(
            mean=(0.0,) * EMBEDDING,
            components=((1.0, 0, 0, 0, 0), (0, 1.0, 0, 0, 0)),
            scales=(1.0, 1.0, 1.0),
            quantiles=tuple(np.linspace(0, 3, 101)),
        ),
        "training_ranges": {"r50": TrainingRange(low=1.0, high=10.0)},
        "simulated": True,
    }
    return Card(**(fields | changes))


def make_stored(**changes: object) -> Stored:
    fields = {
        "target_id": Column("objid", "K", ucd="meta.id;meta.main", description="Target"),
        "kept": (
            Column("mag_r", "E", unit="mag", ucd="phot.mag;em.opt.R", description="r < 22 & 'dereddened'"),
            Column("flag", "J", ucd="meta.record", description="flag of targets.fits", null=-(2**31)),
            Column("field", "A", 8, ucd="meta.record", description="Name of the field"),
        ),
        "layers": (layer_column("psfsize_r", "arcsec"),),
        "image_id_width": 12,
        "image_set_width": 16,
    }
    return Stored(**(fields | changes))


def make_block(card: Card, n: int = 50, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = np.array([0, 0, 0, 0, 0, 0, *(int(code) for code in Status)])
    status = codes[np.arange(n) % len(codes)]
    good = status == Status.PREDICTED
    ra, dec = rng.uniform(150, 151, n), rng.uniform(1, 2, n)
    order = np.argsort(cells(ra, dec))
    block = {
        "id": np.where(np.arange(n) == 0, BIG_ID, np.arange(n) - 3),
        "ra": ra[order],
        "dec": dec[order],
        "healpix_29": cells(ra[order], dec[order]),
        "status": status.astype(np.int16),
        "reason": np.where(good, "", 'because, of "it"\nall'),
        "missing_fraction": np.where(good, 0.01, np.nan).astype(np.float32),
        "masked_fraction": np.full(n, np.nan, dtype=np.float32),
        "cutout_width": np.full(n, 42.5, dtype=np.float32),
        "image_id": np.array([f"brick-{i}" for i in range(n)]),
        "image_set": np.full(n, "mosaic:x"),
        "psfsize_r": rng.uniform(0.8, 1.4, n).astype(np.float32),
        "mag_r": rng.uniform(14, 20, n).astype(np.float32),
        "flag": np.where(np.arange(n) % 4 == 0, -(2**31), 7).astype(np.int32),
        "field": np.array(["north", "süd", "x\ty"])[np.arange(n) % 3],
        "r50": rng.uniform(0.5, 5, n),
        "embedding": rng.normal(size=(n, EMBEDDING)).astype(np.float16),
    }
    for head in card.heads:
        values = rng.uniform(1, 101, (n, *card.output_shapes[head.output])).astype(np.float32)
        values = values if head.kind == "votes" else values / values.sum(axis=-1, keepdims=True)
        values[~good] = np.nan
        block[head.output] = values
    return block


def client(name: str) -> str:
    """Path of a program; the test is skipped without it, and fails on CI."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed, and CI needs it")
        pytest.skip(f"{name} is not installed")
    return found


def package(name: str) -> ModuleType:
    """Import a client; the test is skipped without it, and fails on CI."""
    if os.environ.get("CI") == "true":
        return importlib.import_module(name)
    module: ModuleType = pytest.importorskip(name)
    return module
