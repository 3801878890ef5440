from __future__ import annotations

import pytest
import torch

from gzsurvey.model.encoder import create_encoder


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny() -> str:
    """Name of the smallest useful encoder."""
    create_encoder("test_resnet")
    return "test_resnet"
