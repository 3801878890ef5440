"""Clusters in processes of their own: workers that only fetch, workers that fail, a scheduler that dies."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gzsurvey.errors import ClusterError
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.recipes.cluster import ClusterProfile, RetrievalPool, load_cluster
from gzsurvey.survey import plan, run
from survey import tiny
from survey.processes import cluster

HERE = load_cluster("none")


def shards(run_dir: Path) -> dict[str, str]:
    files = (path for path in (run_dir / "predictions.zarr").rglob("*") if path.is_file() and path.name != "zarr.json")
    return {str(p.relative_to(run_dir)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def metrics(run_dir: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in RunPaths(run_dir).metrics.read_text().splitlines()]


@pytest.mark.slow
def test_workers_without_a_gpu_fetch_for_one_that_has(tmp_path: Path) -> None:
    model = tiny.write_model(tmp_path / "model.onnx")
    job = tiny.job(model, tiny.write_targets(tmp_path / "t.csv", 900))
    plan(job, tmp_path / "one", HERE)
    run(tmp_path / "one", HERE)
    plan(job, tmp_path / "two", HERE)
    kinds = {"gpu": ("--resources", "GPU=1"), "a": ("--resources", "RETRIEVAL=1"), "b": ("--resources", "RETRIEVAL=1")}
    with cluster(tmp_path, kinds) as running:
        split = RetrievalPool(piece_rows=50, pieces_ahead=3)
        profile = ClusterProfile(kind="address", address=running.address, retrieval=split)
        run(tmp_path / "two", profile)
    assert shards(tmp_path / "one") == shards(tmp_path / "two")
    done = metrics(tmp_path / "two")
    assert [line["rows"] for line in sorted(done, key=lambda line: line["block"])] == [256, 256, 256, 132]  # type: ignore[arg-type,return-value]
    assert all(0 < line["fetch_seconds"] <= line["seconds"] for line in done)  # type: ignore[operator]


@pytest.mark.slow
def test_a_scheduler_that_dies_is_one_line_that_says_what_to_type(tmp_path: Path) -> None:
    model = tiny.write_model(tmp_path / "model.onnx")
    plan(tiny.job(model, tiny.write_targets(tmp_path / "t.csv", 60_000)), tmp_path / "run", HERE)
    with cluster(tmp_path, {"a": ()}) as running:
        command = [sys.executable, "-m", "gzsurvey", "run", tmp_path / "run", "--cluster", running.address]
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
        while not RunPaths(tmp_path / "run").metrics.exists():
            assert process.poll() is None
            time.sleep(0.05)
        running.kill("scheduler")
        _, said = process.communicate(timeout=60)
    assert process.returncode == ClusterError.exit_code
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert "its scheduler is gone" in last or "has lost its scheduler" in last
    assert "repeat the command" in last


@pytest.mark.slow
def test_ctrl_c_and_sigterm_end_a_run_within_seconds(tmp_path: Path) -> None:
    model = tiny.write_model(tmp_path / "model.onnx")
    plan(tiny.job(model, tiny.write_targets(tmp_path / "t.csv", 60_000)), tmp_path / "run", HERE)
    with cluster(tmp_path, {"a": ()}) as running:
        for number, place in ((signal.SIGINT, "none"), (signal.SIGTERM, "laptop"), (signal.SIGINT, running.address)):
            before = len(metrics(tmp_path / "run")) if RunPaths(tmp_path / "run").metrics.exists() else 0
            command = [sys.executable, "-m", "gzsurvey", "run", str(tmp_path / "run"), "--cluster", place]
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            while not RunPaths(tmp_path / "run").metrics.exists() or len(metrics(tmp_path / "run")) == before:
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(number)
            started = time.monotonic()
            _, said = process.communicate(timeout=30)
            assert time.monotonic() - started < 10
            assert process.returncode == 130, said
            assert said.strip().endswith("gzsurvey: interrupted; repeat the command to go on")
            assert "Traceback" not in said


@pytest.mark.slow
def test_workers_of_one_kind_alone_are_one_line(tmp_path: Path) -> None:
    model = tiny.write_model(tmp_path / "model.onnx")
    plan(tiny.job(model, tiny.write_targets(tmp_path / "t.csv", 300)), tmp_path / "run", HERE)
    with cluster(tmp_path, {"gpu": ("--resources", "GPU=1")}) as running:
        profile = ClusterProfile(kind="address", address=running.address, retrieval=RetrievalPool(), wait_seconds=3)
        with pytest.raises(ClusterError, match="no worker has the resource RETRIEVAL; start some with --resources RE"):
            run(tmp_path / "run", profile)
