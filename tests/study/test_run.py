"""A whole study, in little: stopped, repeated, and compared with one that was left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from gzsurvey.dataset.store import Store

pytestmark = pytest.mark.slow

STUDY: dict[str, Any] = {
    "name": "little",
    "sky": {"seed": 7, "targets": 20, "training": 400, "stamps.image_size": 32, "stamps.crop": 0.5},
    "dataset": {"splits": {"train": 0.5, "validation": 0.1, "test": 0.4}},
    "tasks": [{"name": "rings", "labels": {"table": "rings.csv"}, "balance": "equal", "counts": [8]}],
    "arms": ["pixels", "random", "direct", "hybrid"],
    "pretrain": {
        "encoder": {"name": "test_resnet"},
        "batch_size": 16,
        "steps": 60,
        "byol": {"hidden": 16, "projection": 8},
    },
    "variants": {"weight_3": {"changes": {"hybrid.weight": 3.0}}},
    "linear": {"mode": "linear", "views": 2},
    "full": {"mode": "full", "epochs": 2},
    "direct": {"mode": "full", "epochs": 2},
    "seeds": 2,
    "resamples": 100,
}
ARMS = {*STUDY["arms"], *STUDY["variants"]}


def started(recipe: Path, out: Path) -> subprocess.Popen[str]:
    """Start the command in a process group of its own, as a shell does."""
    command = [sys.executable, "-m", "gzsurvey", "study", str(recipe), str(out), "--workers", "2", "--device", "cpu"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def finished(study: subprocess.Popen[str]) -> str:
    shown, errors = study.communicate(timeout=300)
    assert study.returncode == 0, errors
    return shown


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "little.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


@pytest.fixture(scope="module")
def left_alone(recipe: Path) -> Path:
    out = recipe.parent / "left-alone"
    finished(started(recipe, out))
    return out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_study_that_was_stopped_ends_as_one_that_was_not(
    recipe: Path, left_alone: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    shutil.copytree(left_alone / "sky", out / "sky")
    study = started(recipe, out)
    while not any(p.stat().st_size for p in out.glob("pretrained/*/metrics.jsonl")):
        assert study.poll() is None, study.communicate()
        time.sleep(0.05)
    workers = psutil.Process(study.pid).children(recursive=True)
    if number == signal.SIGTERM:
        os.killpg(study.pid, number)  # as a batch system does: parent and workers alike
    else:
        study.kill()
    _, errors = study.communicate(timeout=60)
    psutil.wait_procs(workers, timeout=5)
    assert not any(worker.is_running() for worker in workers)
    if number == signal.SIGTERM:
        assert study.returncode == 130
        assert errors.splitlines()[-1] == "gzsurvey: interrupted; repeat the command to go on"
        assert "Traceback" not in errors
        at_work = {p.parent for p in out.glob("pretrained/*/metrics.jsonl") if p.stat().st_size}
        assert at_work
        assert all((place / "last-training.safetensors").is_file() for place in at_work)
    again = finished(started(recipe, out))
    assert again.strip() == (left_alone / "results.md").read_text().strip()
    assert json.loads((out / "results.json").read_text()) == json.loads((left_alone / "results.json").read_text())


def test_a_lost_cell_alone_is_filled_again(recipe: Path, left_alone: Path) -> None:
    cells = {p.stem for p in left_alone.glob("cells/rings/*.json")}
    assert {cell.split("-")[0] for cell in cells} == ARMS
    lost = next(left_alone.glob("cells/rings/hybrid-*.json"))
    before = {p: p.stat().st_mtime_ns for p in left_alone.rglob("*") if p.is_file() and p != lost}
    metrics, job = lost.read_text(), left_alone / "job.json"
    results = (left_alone / "results.json").read_text()
    lost.unlink()
    job.write_text(json.dumps(json.loads(job.read_text()) | {"finished": False}))
    finished(started(recipe, left_alone))
    timeless = {name: value for name, value in json.loads(lost.read_text()).items() if name != "seconds"}
    assert timeless == {name: value for name, value in json.loads(metrics).items() if name != "seconds"}
    assert (left_alone / "results.json").read_text() == results
    kept = [p for p in before if p.parent.name == "rings" or "pretrained" in p.parts or "sky" in p.parts]
    assert {p for p in kept if p.stat().st_mtime_ns != before[p]} <= {lost.with_suffix(".npz")}


def test_no_test_galaxy_trained_anything(left_alone: Path) -> None:
    checked = json.loads((left_alone / "held-out.json").read_text())["rings"]
    results, store = json.loads((left_alone / "results.json").read_text()), Store(left_alone / "store")
    assert checked["test_galaxies"] == checked["with_position"] == results["tasks"]["rings"]["test_galaxies"]
    assert checked["compared_with"] == len(store.rows("train")) + len(store.rows("validation"))
    assert checked["sources_compared_by_pixels_alone"] == []
