"""What `plan` leaves on disk, says and refuses, whatever the number of targets."""

from __future__ import annotations

import hashlib
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from gzsurvey.cutouts.source import Demand
from gzsurvey.errors import RecipeError
from gzsurvey.recipes.cluster import load_cluster
from gzsurvey.recipes.remote import Politeness
from gzsurvey.sky import tables
from gzsurvey.survey import costs, dry_run, plan
from gzsurvey.survey.draft import DraftedTargets, draft_targets, open_target_table
from gzsurvey.survey.preview import Look
from gzsurvey.survey.record import read_record
from survey import tiny

HERE = load_cluster("none")
Disk = namedtuple("Disk", ["total", "used", "free"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    return tiny.write_targets(tmp_path / "targets.csv", 700)


def as_fits(targets: Path) -> Path:
    Table.read(targets).write(targets.with_suffix(".fits"))
    return targets.with_suffix(".fits")


def test_equal_targets_give_equal_bytes_in_any_chunks(
    model: Path, targets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for chunk in (64, 10_000):
        monkeypatch.setattr(tables, "ROWS_PER_CHUNK", chunk)
        for table in (targets, as_fits(targets) if chunk == 64 else targets.with_suffix(".fits")):
            run = tmp_path / f"{table.suffix[1:]}-{chunk}"
            record = plan(tiny.job(model, table, keep=("mag",)), run, HERE).record
            found[run.name] = hashlib.sha256((run / "targets.parquet").read_bytes()).hexdigest()
            assert not list((run / "aside").iterdir())
    assert len(set(found.values())) == 1
    with pq.ParquetFile(run / "targets.parquet") as file:
        groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert groups == [record.block(number).rows for number in range(record.n_blocks)] == [256, 256, 188]


def test_a_full_disk_is_said_before_the_table_is_read(
    model: Path, targets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = as_fits(targets)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(10**9, 10**9, 60_000))
    with pytest.raises(RecipeError, match=r"run: needs \d+ kB for 700 targets, and its disk has 60 kB free"):
        plan(tiny.job(model, table), tmp_path / "run", HERE)
    monkeypatch.setattr(tables, "ROWS_PER_CHUNK", 300)
    with pytest.raises(RecipeError, match="for 300 targets"):  # a text file says only by and by how long it is
        plan(tiny.job(model, targets), tmp_path / "run", HERE)
    assert not (tmp_path / "run").exists()


def test_a_place_where_no_run_can_be_is_one_line(model: Path, targets: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be made"):
        plan(tiny.job(model, targets), targets / "run", HERE)


def test_a_dry_run_says_the_same_and_writes_nothing(model: Path, targets: Path, tmp_path: Path) -> None:
    job, run = tiny.job(model, targets, select="mag < 17", keep=("mag",)), tmp_path / "run"
    tried = dry_run(job, run, HERE)
    assert not run.exists()
    planned = plan(job, run, HERE)
    timed = {"seconds"}
    assert tried.record.model_dump(exclude={"created", "estimate"}) == planned.record.model_dump(
        exclude={"created", "estimate"}
    )
    assert {k: v for k, v in tried.record.estimate.items() if k not in timed} == {
        k: v for k, v in planned.record.estimate.items() if k not in timed
    }
    before = sorted(path.name for path in run.iterdir())
    dry_run(job, run, HERE)
    assert sorted(path.name for path in run.iterdir()) == before


def test_blocks_and_checked_rows_of_a_huge_run_cost_nothing(model: Path, targets: Path, tmp_path: Path) -> None:
    plan(tiny.job(model, targets), tmp_path / "run", HERE)
    record = read_record(tmp_path / "run")
    assert tuple(record.block(number) for number in range(record.n_blocks)) == record.blocks
    huge = record.model_copy(update={"rows": 10**9, "block_rows": 16_384})
    assert huge.block(huge.n_blocks - 1).stop == 10**9
    assert len(huge.check_rows) == 16
    with pytest.raises(IndexError):
        huge.block(huge.n_blocks)


class Counting:
    """A service that takes one request per target, or one per tile of a fifth of a degree."""

    name = "counting"

    def __init__(self, tiles: bool) -> None:
        self.tiles = tiles

    def demand(self, ra: np.ndarray, dec: np.ndarray, fov: np.ndarray) -> Demand:
        assert len(ra) == len(dec) == len(fov)
        asked = len(set(zip(ra * 5 // 1, dec * 5 // 1, strict=True))) if self.tiles else len(ra)
        return Demand("host", asked, 1e3 * asked, 10.0)


def drafted(model: Path, table: Path, folder: Path) -> DraftedTargets:
    job, card = tiny.job(model, table), tiny.card()
    return draft_targets(job, card, open_target_table(job, card, (None,)), folder, 1, lambda rows: None)


def test_requests_are_counted_by_some_blocks_and_too_many_are_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = drafted(model, tiny.write_targets(tmp_path / "t.csv", 2000), tmp_path / "draft")
    monkeypatch.setattr(costs, "BLOCKS_ASKED", 3)
    asked = costs.demand(Counting(tiles=False), targets)  # type: ignore[arg-type]
    assert (asked.requests, asked.bytes) == (2000, pytest.approx(2e6))
    assert str(asked) == "2,000 requests of host for about 2.0 MB, at most 10 a second: 3m20s or longer"
    tiles = costs.demand(Counting(tiles=True), targets)  # type: ignore[arg-type]
    assert 40 <= tiles.requests <= 160
    assert str(tiles).startswith("about ")
    assert str(tiles).endswith(", by some of the blocks")
    costs.check_politeness([asked], Politeness())
    years = replace(asked, requests=10**9)
    assert "1157d09h or longer" in str(years)
    with pytest.raises(
        RecipeError, match=r"host: 1,000,000,000 requests at 10 a second take 1157d09h, more than the 90"
    ):
        costs.check_politeness([years], Politeness())


def test_hours_of_gpus_are_said_where_there_are_any(model: Path, targets: Path, tmp_path: Path) -> None:
    found, look = drafted(model, targets, tmp_path / "draft"), Look(4, seconds_per_target=0.5)
    on_gpu = costs.lines(costs.estimate(found, 2, "CUDAExecutionProvider", look, []))
    assert on_gpu[1].startswith("about 2m55s on 2 workers, 0.1 GPU-hours")
    on_cpu = costs.lines(costs.estimate(found, 2, "CPUExecutionProvider", look, []))
    assert "GPU" not in on_cpu[1]
