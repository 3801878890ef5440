"""The how-to on real sky: with a shorter pretraining on votes alone, and, by hand, as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from gzsurvey import read_catalogue

SCRIPT = Path(__file__).parents[2] / "docs" / "how-to" / "real-sky.sh"
FIELDS = {"kids-viking": 1928, "vista": 2041, "ngc6976": 733}
SPIRAL, EDGE_ON_DISK = 388, 353
"""Detections of the KiDS/VIKING field, as the eye sees them."""

ON_VOTES_ALONE = ("--set", "approach=supervised", "--set", "epochs=4")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(ON_VOTES_ALONE, marks=pytest.mark.slow, id="on votes alone"),
        pytest.param((), marks=pytest.mark.long, id="as it stands"),
    ],
)
def out(shared_data: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    out = tmp_path_factory.mktemp("real-sky")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", str(SCRIPT), str(shared_data), str(out), *request.param]
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def kids(out: Path) -> Table:
    return read_catalogue(out / "kids-viking")


def rank(table: Table, target: int, column: str) -> int:
    """Place of a target among all predicted ones, 1 for the highest value."""
    (row,) = np.flatnonzero(table["id"] == target)
    values = np.ma.filled(np.ma.asarray(table[column], dtype=float), -1.0)
    return int((values > values[row]).sum()) + 1


@pytest.mark.parametrize(("field", "targets"), FIELDS.items())
def test_every_detection_has_one_row_and_a_reason(out: Path, field: str, targets: int) -> None:
    table = read_catalogue(out / field)
    assert len(table) == len(set(table["id"])) == targets
    missing = Table.read(out / field / "missing.ecsv")
    assert set(missing["id"]) == set(table["id"][table["status"] != 0])
    assert all(missing["reason"])
    assert (table["status"] == 0).mean() > 0.8


def test_pixels_reach_the_model_neither_black_nor_saturated(out: Path) -> None:
    from gzsurvey.survey import checks

    for field in FIELDS:
        images = np.concatenate([block["image"] for block in checks.read(out / field)])
        assert 2 < images.mean() < 100
        assert (images == 255).mean() < 0.05


def test_the_spiral_and_the_edge_on_disk_are_found(kids: Table) -> None:
    assert rank(kids, EDGE_ON_DISK, "disk_edge_on_yes_fraction") <= 20
    assert rank(kids, EDGE_ON_DISK, "smooth_or_featured_featured_or_disk_fraction") <= 40
    assert rank(kids, SPIRAL, "smooth_or_featured_featured_or_disk_fraction") <= 100
    (spiral,) = kids[kids["id"] == SPIRAL]
    assert spiral["disk_edge_on_yes_fraction"] < 0.3


def test_volunteers_of_galaxy_zoo_2_are_imitated(kids: Table) -> None:
    assert "something_odd_yes_fraction" in kids.colnames
    assert {"ring_ring_score", "snr", "r50_pix", "extended"} <= set(kids.colnames)
