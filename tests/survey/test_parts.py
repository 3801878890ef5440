"""Parts of a run: every N-th block, by processes that know nothing of each other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gzsurvey.cli import cli
from gzsurvey.cutouts.remote.budget import HOSTS
from gzsurvey.errors import OutputBusy, RecipeError
from gzsurvey.recipes.cluster import load_cluster
from gzsurvey.survey import ledger, plan, run, status, worker
from gzsurvey.survey.part import Part
from survey import tiny
from survey.test_run import shards

HERE = load_cluster("none")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture
def run_dir(model: Path, tmp_path: Path) -> Path:
    """Three blocks."""
    plan(tiny.job(model, tiny.write_targets(tmp_path / "targets.csv", 700)), tmp_path / "run", HERE)
    return tmp_path / "run"


def test_parts_are_finished_one_by_one_and_make_the_whole(model: Path, run_dir: Path, tmp_path: Path) -> None:
    first = run(run_dir, HERE, part=Part(1, 2))
    assert (first.blocks, first.finished, first.targets) == (2, 2, 444)
    assert str(first).startswith(f"{run_dir}, part 1/2: 2 of 2 blocks finished, 444 of 444 targets")
    assert status(run_dir).finished == 2
    assert run(run_dir, HERE, part=Part(2, 2)).statuses == {0: 256}
    plan(tiny.job(model, tmp_path / "targets.csv"), tmp_path / "calm", HERE)
    run(tmp_path / "calm", HERE)
    assert shards(run_dir) == shards(tmp_path / "calm")
    assert run(run_dir, HERE).already_finished == 3
    assert run(run_dir, HERE, part=Part(9, 9)).blocks == 0


def test_a_part_ends_with_its_own_failures(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = worker.read_block_targets

    def broken(where: Path, block: int) -> dict[str, np.ndarray]:
        if block == 1:
            raise ValueError("a worm in the disk")
        return real(where, block)

    monkeypatch.setattr(worker, "read_block_targets", broken)
    failed = CliRunner().invoke(cli, ["run", str(run_dir), "--part", "2/2"])
    assert failed.exit_code == 3
    assert "run, part 2/2: 1 of 1 blocks are not finished" in failed.output
    assert run(run_dir, HERE, part=Part(1, 2)).finished == 2


def test_two_who_would_meet_are_refused(run_dir: Path) -> None:
    with ledger.locked(run_dir, Part(2, 4)), ledger.locked(run_dir, Part(4, 4)), ledger.locked(run_dir, Part(3, 4)):
        with pytest.raises(OutputBusy, match=rf"part 2/4: process {os.getpid()} on .* is working on it now"):
            run(run_dir, HERE, part=Part(2, 4))
        with pytest.raises(OutputBusy, match="run: parts 2-4 of 4 is working on it now"):
            run(run_dir, HERE)
        with pytest.raises(OutputBusy, match="parts 2-4 of 4"):
            run(run_dir, HERE, part=Part(1, 3))
        assert status(run_dir).working == (Part(2, 4), Part(3, 4), Part(4, 4))
        assert "(parts 2-4 of 4 at work now)" in str(status(run_dir))
        assert run(run_dir, HERE, part=Part(1, 4)).finished == 1
    with ledger.locked(run_dir), pytest.raises(OutputBusy, match=f"process {os.getpid()}"):
        run(run_dir, HERE, part=Part(1, 4))
    assert not status(run_dir).alive
    assert run(run_dir, HERE).already_finished == 1


def test_a_part_removes_only_what_it_left_itself(run_dir: Path) -> None:
    for block in (0, 1):
        folder = run_dir / f"aside/block-{block:06d}"
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"written")
    run(run_dir, HERE, part=Part(1, 2))
    assert [path.name for path in (run_dir / "aside").iterdir()] == ["block-000001"]
    run(run_dir, HERE)
    assert not list((run_dir / "aside").iterdir())


def test_parts_share_what_a_host_may_be_asked_for(run_dir: Path) -> None:
    budget = HOSTS.budget("http://archive.example/images", 20.0)
    run(run_dir, HERE, part=Part(2, 3))
    assert budget.workers == 3
    run(run_dir, HERE)
    assert budget.workers == 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "-1/3"])
def test_what_is_no_part_is_a_mistake_in_usage(tmp_path: Path, text: str) -> None:
    answer = CliRunner().invoke(cli, ["run", str(tmp_path), f"--part={text}"])
    assert answer.exit_code == 2
    assert "a part is I/N" in answer.output


def test_a_part_needs_no_cluster(run_dir: Path) -> None:
    with pytest.raises(RecipeError, match="leave --cluster out"):
        run(run_dir, load_cluster("laptop"), part=Part(1, 2))


def start(run_dir: Path, part: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gzsurvey", "run", str(run_dir), "--part", part, "--quiet"]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.long
def test_parts_side_by_side_die_and_resume_one_by_one(model: Path, tmp_path: Path) -> None:
    table = tiny.write_targets(tmp_path / "many.csv", 5_000)
    job = tiny.job(model, table, recipe=tiny.recipe(preview_targets=4, check_rows=16, block_rows=256))
    for name in ("calm", "parts"):
        plan(job, tmp_path / name, HERE)
    run(tmp_path / "calm", HERE)
    run_dir, total = tmp_path / "parts", 20
    one, two = start(run_dir, "1/2"), start(run_dir, "2/2")
    deadline = time.monotonic() + 60
    while not 2 <= len(ledger.read_entries(run_dir, Part(2, 2))) < 8:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert Part(2, 2) in status(run_dir).working
    two.send_signal(signal.SIGKILL)
    two.wait()
    left = len(ledger.read_entries(run_dir, Part(2, 2)))
    assert Part(2, 2) not in status(run_dir).working
    assert left < 10
    again = start(run_dir, "2/2")
    assert [again.wait(120), one.wait(120)] == [0, 0]
    assert "part 2/2: 10 of 10 blocks finished" in (again.stdout.read() if again.stdout else "")
    assert status(run_dir).finished == total
    assert shards(run_dir) == shards(tmp_path / "calm")
    assert not list((run_dir / "aside").iterdir())
