from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from blobs import EVIL, N, write_checkpoint, write_store

from gzsurvey.evaluation import Given, Mixture


@pytest.fixture(scope="session")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("stores") / "store")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return write_checkpoint(folder / "one", 1), write_checkpoint(folder / "two", 2)


@pytest.fixture(scope="session")
def one(checkpoints: tuple[str, str]) -> Mixture:
    return Mixture(checkpoints[:1])


@pytest.fixture(scope="session")
def votes(store_path: Path) -> Given:
    return Given(dataset=store_path)


@pytest.fixture
def labels(tmp_path: Path) -> Callable[..., Path]:
    def write(**columns: object) -> Path:
        path = tmp_path / "labels.csv"
        frame = pd.DataFrame({"id": [EVIL, *(f"g{i}" for i in range(1, N))], "snr": np.linspace(1, 50, N)})
        frame.assign(**columns).to_csv(path, index=False)
        return path

    return write
