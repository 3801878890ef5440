"""What can be seen of a run: each worker's activity, each block's log, a stall, a full disk."""

from __future__ import annotations

import errno
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.synthetic import SyntheticSource
from gzsurvey.errors import RunIncomplete
from gzsurvey.outputs import zarr
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.progress import Progress
from gzsurvey.recipes.cluster import load_cluster
from gzsurvey.survey import plan, run, status, worker
from gzsurvey.survey.activity import Reporter, activities
from gzsurvey.survey.cluster.pool import DaskPool, SerialPool
from gzsurvey.survey.stall import StallWatch
from survey import tiny

HERE = load_cluster("none")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    model = tiny.write_model(tmp_path / "small.onnx")
    plan(tiny.job(model, tiny.write_targets(tmp_path / "t.csv", 500)), tmp_path / "run", HERE)
    return tmp_path / "run"


def log(run_dir: Path, block: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in RunPaths(run_dir).block_log(block).read_text().splitlines()]


class Watched(SyntheticSource):
    """Keeps what another shell would see in the middle of a block."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(tiny.card().preparation)
        self.run_dir, self.seen = run_dir, ""

    def fetch(self, requests: Sequence[Request]) -> Iterator[tuple[int, Cutout | Miss]]:
        for number, answer in enumerate(super().fetch(requests)):
            if number == 100:
                self.seen = str(status(self.run_dir))
            yield answer


def test_another_shell_sees_each_worker(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Watched(run_dir)
    monkeypatch.setattr("gzsurvey.survey.activity.WRITE_SECONDS", 0.0)
    monkeypatch.setattr(worker, "open_sources", lambda *_: (source,))
    monkeypatch.setattr("gzsurvey.survey.stall.LOOK_SECONDS", 0.0)
    monkeypatch.setattr(Progress, "advance", lambda _self, _items=1, note="": notes.append(note))
    notes: list[str] = []
    run(run_dir, HERE)
    assert "1 worker, 100 more in work" in notes
    assert "a process works on it now" in source.seen
    assert "block 1, fetching and predicting, 100 of 244 answered (0s ago)" in source.seen
    assert not status(run_dir).workers


def test_each_block_has_a_log_of_all_attempts(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = worker.write_block, []

    def stumbles(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise ValueError("a worm in the disk")
        return real(*arguments)

    monkeypatch.setattr(worker, "write_block", stumbles)
    run(run_dir, HERE)
    said = [(line["attempt"], line["level"], line["message"]) for line in log(run_dir, 0)]
    assert said == [
        (1, "info", "begun"), (1, "warning", "run run, block 0 failed: a worm in the disk"), (2, "info", "begun"),
        (2, "info", "finished"),
    ]  # fmt: skip
    assert "stumbles" in log(run_dir, 0)[1]["traceback"]
    assert log(run_dir, 1)[-1]["statuses"] == {"0": 244}
    lines = [json.loads(line) for line in RunPaths(run_dir).metrics.read_text().splitlines()]
    assert [line["cause"] for line in lines] == ["ValueError: a worm in the disk", "", ""]
    assert all(0 < line["fetch_seconds"] < line["seconds"] for line in lines[1:])


def test_a_line_that_a_full_disk_cut_short_spoils_no_other(run_dir: Path) -> None:
    RunPaths(run_dir).logs.mkdir()
    RunPaths(run_dir).block_log(0).write_text('{"time": "2026-')
    run(run_dir, HERE)
    lines = RunPaths(run_dir).block_log(0).read_text().splitlines()
    assert [json.loads(line)["message"] for line in lines[1:]] == ["begun", "finished"]


def test_a_full_disk_stops_the_run_in_one_line_and_nothing_is_lost(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = worker.write_block

    def full(path: Path, aside: Path, block: int, *more: Any) -> Any:
        if block == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, aside, block, *more)

    monkeypatch.setattr(worker, "write_block", full)
    with pytest.raises(RunIncomplete, match="its disk is full; free some space"):
        run(run_dir, HERE)
    assert len(RunPaths(run_dir).metrics.read_text().splitlines()) == 2  # tried once: the next try would find it full
    monkeypatch.undo()
    assert run(run_dir, HERE).already_finished == 1


def test_a_disk_that_is_full_while_misses_are_tried_again_loses_no_block(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(run_dir, HERE)
    before = (RunPaths(run_dir).ledger_entry(0).read_text(), zarr.read_rows(RunPaths(run_dir).zarr, 0, 256))
    real = zarr._flush

    def full(content: bytes, aside: Path) -> zarr.Shard:
        if aside.name.startswith("status"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(content, aside)

    monkeypatch.setattr(zarr, "_flush", full)
    summary = worker.process(worker.BlockTask(str(run_dir), 0, "another session", retry=(20,)))
    assert "its disk is full" in summary.cause
    assert RunPaths(run_dir).ledger_entry(0).read_text() == before[0]
    for name, values in zarr.read_rows(RunPaths(run_dir).zarr, 0, 256).items():
        np.testing.assert_array_equal(values, before[1][name])
    assert not [path for path in RunPaths(run_dir).aside.rglob("*") if path.is_file()]


def test_a_failed_block_is_tried_again_elsewhere(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away: list[tuple[int, str]] = []

    class TwoWorkers(SerialPool):
        def submit(self, task: worker.BlockTask, elsewhere_than: str, *_: Any) -> Future[worker.BlockSummary]:
            away.append((task.block, elsewhere_than))
            done: Future[worker.BlockSummary] = Future()
            broken = worker.BlockSummary(task.block, 0, {}, 0.1, "SourceFault: down", worker="tcp://a")
            done.set_result(broken if task.block == 0 and task.attempt == 1 else worker.process(task))
            return done

    monkeypatch.setattr(sys.modules["gzsurvey.survey.run"], "open_pool", lambda *_: nullcontext(TwoWorkers()))
    run(run_dir, HERE)
    assert away == [(0, ""), (1, ""), (0, "tcp://a")]


def test_elsewhere_is_any_other_worker(run_dir: Path) -> None:
    asked: list[dict[str, Any]] = []
    client = SimpleNamespace(
        get_executor=lambda **options: asked.append(options) or SimpleNamespace(submit=lambda *_: Future())
    )
    place = SimpleNamespace(client=client, workers={"tcp://a": {}, "tcp://b": {}})
    pool = DaskPool(place, HERE, run_dir)  # type: ignore[arg-type]
    for elsewhere_than in ("", "tcp://a"):
        pool.submit(worker.BlockTask(str(run_dir), 0, "s"), elsewhere_than, lambda: None)
    assert asked == [{"pure": False}, {"pure": False, "workers": ["tcp://b"], "allow_other_workers": True}]


def test_a_block_that_another_worker_finished_is_not_done_again(run_dir: Path) -> None:
    run(run_dir, HERE)
    before = RunPaths(run_dir).ledger_entry(0).stat().st_mtime_ns
    summary = worker.process(worker.BlockTask(str(run_dir), 0, "another session"))
    assert (summary.rows, summary.cause) == (256, "")
    assert RunPaths(run_dir).ledger_entry(0).stat().st_mtime_ns == before


def test_a_worker_of_another_gzsurvey_does_no_block(run_dir: Path) -> None:
    summary = worker.process(worker.BlockTask(str(run_dir), 0, "now", gzsurvey="0.0.1"))
    assert re.search(r"has gzsurvey \S+, the run has 0.0.1; install the same", summary.cause)
    assert not any((RunPaths(run_dir).zarr / "status" / "c").glob("*"))


def test_a_stall_is_said_once_for_each_spell_and_names_the_worker(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = Reporter(run_dir, "now", block=1, attempt=2, rows=244)
    watch = StallWatch(run_dir, "now", patience_s=0.2)
    watch.look(0, workers=1)
    reporter.enter("fetching and predicting")
    time.sleep(0.25)
    watch.look(0, workers=1)
    assert capsys.readouterr().err == ""  # it moved: the worker took a block
    time.sleep(0.25)
    watch.look(0, workers=1)
    said = capsys.readouterr().err
    assert "classify: nothing has moved for 0s" in said
    assert f"{activities(run_dir)[0].worker}: block 1, fetching and predicting" in said
    watch.look(0, workers=1)
    assert capsys.readouterr().err == ""
    reporter.leave()
    time.sleep(0.25)
    watch.look(0, workers=3)
    time.sleep(0.25)
    watch.look(0, workers=3)
    assert "3 workers have taken no block" in capsys.readouterr().err
