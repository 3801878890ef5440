"""Plan and run: every target once, the same bytes however often it is interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gzsurvey.outputs.zarr import array_attributes, read_rows
from gzsurvey.recipes.cluster import load_cluster
from gzsurvey.status import Status
from gzsurvey.survey import plan, run, status
from survey import tiny

HERE = load_cluster("none")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    return tiny.write_targets(tmp_path / "targets.csv", 700)


def test_every_target_is_predicted_once_and_in_sky_order(model: Path, targets: Path, tmp_path: Path) -> None:
    planned = plan(tiny.job(model, targets, keep=("mag",)), tmp_path / "run", HERE)
    assert planned.record.n_blocks == 3
    assert "700 targets in 3 blocks of 256" in str(planned)
    summary = run(tmp_path / "run", HERE)
    assert summary.finished == 3
    rows = read_rows(tmp_path / "run/predictions.zarr", 0, 700)
    given = np.loadtxt(targets, delimiter=",", skiprows=1)
    assert sorted(rows["id"]) == sorted(given[:, 0].astype(int))
    assert (np.diff(rows["healpix_29"]) >= 0).all()
    assert (rows["status"] == Status.PREDICTED).all()
    by_id = dict(zip(given[:, 0].astype(int), given, strict=True))
    np.testing.assert_allclose(rows["mag"], [by_id[i][4] for i in rows["id"]])
    np.testing.assert_allclose(rows["cutout_width"], np.maximum(424 * 0.04 * rows["r50"], 42.4), rtol=1e-6)
    assert rows["embedding"].dtype == np.float16
    assert rows["concentration"].shape == (700, 5)
    assert np.isfinite(rows["ring_probability"]).all()
    assert array_attributes(tmp_path / "run/predictions.zarr")["mag"]["role"] == "kept"
