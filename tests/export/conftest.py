"""A small network of ours, with its checkpoint, exported once."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gzsurvey.card import (
    Calibration,
    ClassesCalibration,
    ClassesHead,
    Credit,
    Head,
    LabelsCalibration,
    LabelsHead,
    NumberCalibration,
    NumberHead,
    TrainingRange,
    VotesCalibration,
    VotesHead,
)  # fmt: skip
from gzsurvey.export import export
from gzsurvey.export.pictures import decode_thumbnails
from gzsurvey.model.checkpoint import CheckpointInfo, save_checkpoint
from gzsurvey.model.encoder import create_encoder
from gzsurvey.model.network import Network
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.votes.tree import DecisionTree

SIZE, ENCODER = 64, "test_efficientnet"
HEADS: tuple[Head, ...] = (
    VotesHead(questions=tuple(DecisionTree.load("gz2").to_json())),
    ClassesHead(task="ring", classes=("no", "yes"), balance={"no": 0.8, "yes": 0.2}),
    LabelsHead(task="tidal", classes=("tail", "shell", "stream"), balance={"tail": 0.1, "shell": 0.02, "stream": 0.05}),
    NumberHead(task="r50", unit="arcsec", trained_on=TrainingRange(low=0.8, high=21.0)),
)
FITTED = {"galaxies": 100, "loss_before": 1.0, "loss_after": 0.9}
CALIBRATION: dict[str, Calibration] = {
    "concentration": VotesCalibration(
        offset=(0.3,) * len(HEADS[0].tree.questions), slope=(0.8,) * len(HEADS[0].tree.questions),
        sharpness=(1.2,) * len(HEADS[0].tree.questions), shift=tuple(np.linspace(-0.5, 0.5, HEADS[0].width)), **FITTED,
    ),
    "ring_probability": ClassesCalibration(sharpness=0.7, shift=(0.2, -0.2), **FITTED),
    "tidal_probability": LabelsCalibration(sharpness=(0.7, 1.0, 1.3), shift=(0.0, 0.5, -0.5), **FITTED),
    "r50": NumberCalibration(scale=1.7, **FITTED),
}  # fmt: skip
CREDITS = (
    Credit(name="gz2", licence="CC BY 4.0", citation="Willett et al. 2013, MNRAS 435, 2835", galaxies=1000),
    Credit(name="pool", licence="CC BY-NC-SA 4.0", citation="Somebody 2020", galaxies=50),
)


def galaxy_png(seed: int) -> str:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    light = 200 * np.exp(-np.hypot(x, y * rng.uniform(1, 3)) / rng.uniform(3, 12))
    pixels = np.clip(light[..., np.newaxis] * rng.uniform(0.5, 1, 3) + rng.normal(10, 4, (SIZE, SIZE, 3)), 0, 255)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


@pytest.fixture(scope="session")
def network() -> Network:
    torch.manual_seed(5)
    network = Network(create_encoder(ENCODER), HEADS, calibration=CALIBRATION).train()
    images = torch.from_numpy(decode_thumbnails([galaxy_png(seed) for seed in range(40)], SIZE)).float() / 255
    with torch.no_grad():
        # As after training: folding a batch normalisation that does nothing would show nothing.
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, 0.0, 0.2)
        for _ in range(30):
            network(images)
    return network.eval()


@pytest.fixture(scope="session")
def info(network: Network) -> CheckpointInfo:
    return CheckpointInfo(
        encoder=ENCODER,
        embedding_size=network.embedding_size,
        heads=HEADS,
        calibration=CALIBRATION,
        preparation=Preparation(image_size=SIZE),
        trained_by="finetune",
        approach="linear",
        credits=CREDITS,
        simulated=True,
        training_ranges={"r50": TrainingRange(low=1.5, high=12.0)},
        thumbnails=tuple(galaxy_png(seed) for seed in range(40)),
        versions={"torch": "2.13.0"},
    )


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, network: Network, info: CheckpointInfo) -> Path:
    folder: Path = tmp_path_factory.mktemp("finetuned")
    save_checkpoint(folder, "best", network, info)
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    out: Path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export([checkpoint], out)
    return out
