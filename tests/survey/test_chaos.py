"""A run whose workers, scheduler and client are killed at random ends like one that was left alone.

``pytest -m long -s tests/survey/test_chaos.py`` prints every kill, and what it cost.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import read_rows
from gzsurvey.recipes.cluster import load_cluster
from gzsurvey.status import Status
from gzsurvey.survey import plan, publish, run, status
from gzsurvey.survey.activity import activities
from gzsurvey.survey.record import read_record
from survey import tiny
from survey.processes import Cluster, SkyServer, cluster, kill, sky_server
from survey.test_pools import shards

sys.path.append(str(Path(__file__).parents[1] / "cutouts"))
from skies import SCALE, SIDE, position

WORKERS = ("worker-1", "worker-2")
ENDED_BY_A_DEATH = {1, 3}
"""Exit codes of a client whose scheduler or disk or service was gone; 0: finished."""


@dataclass
class Kill:
    """One kill, and the blocks that were being worked on."""

    time: datetime
    kind: str
    blocks: tuple[int, ...]
    finished: int


@dataclass
class Ordeal:
    """A run that is killed again and again, and what repeats its command."""

    run_dir: Path
    running: Cluster
    sky: SkyServer
    plan: list[str]
    """Kinds of kills still to come."""
    pause_s: tuple[float, float]
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    kills: list[Kill] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    client: subprocess.Popen[bytes] | None = None

    def endure(self, deadline_s: float) -> None:
        """Repeat the command until it says that it is done."""
        deadline, next_kill = time.monotonic() + deadline_s, 0.0
        while time.monotonic() < deadline:
            self._revive()
            assert self.client is not None
            code = self.client.poll()
            if code is not None:
                self.codes.append(code)
                self.client = None
                if code == 0:
                    return
                assert code in ENDED_BY_A_DEATH | {-9}, self.said()
                continue
            at_work = self._at_work()
            if self.plan and at_work and time.monotonic() > next_kill:
                self._kill(self.plan.pop(), at_work)
                next_kill = time.monotonic() + self.rng.uniform(*self.pause_s)
            time.sleep(0.05)
        raise AssertionError(f"not done after {deadline_s} s: {self.said()}")

    def said(self) -> str:
        return (self.running.folder / "client.log").read_text()[-2000:]

    def _at_work(self) -> dict[int, int]:
        """Blocks in the middle of which a worker is now, with its process."""
        now = datetime.now(UTC)
        live = {
            about.block: int(about.worker.rpartition("-")[2])
            for about in activities(self.run_dir)
            if about.stage == "fetching and predicting" and (now - about.since).total_seconds() > 0.3
        }
        pids = {process.pid for process in self.running.workers.values() if process.poll() is None}
        return {block: pid for block, pid in live.items() if pid in pids}

    def _revive(self) -> None:
        """What a queue, systemd or a tired astronomer does."""
        if self.running.scheduler is None:
            self.running.start_scheduler()
        for name in WORKERS:
            process = self.running.workers.get(name)
            if process is None or process.poll() is not None:
                self.running.start_worker(name)
        if self.sky.process is None or self.sky.process.poll() is not None:
            self.sky.start()
        if self.client is None:
            command = [sys.executable, "-m", "gzsurvey", "run", str(self.run_dir), "--cluster", self.running.address]
            with (self.running.folder / "client.log").open("ab") as log:
                self.client = subprocess.Popen(
                    command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"}
                )

    def _kill(self, kind: str, at_work: dict[int, int]) -> None:
        finished = len(list(RunPaths(self.run_dir).ledger.glob("*.json")))
        self.kills.append(Kill(datetime.now(UTC), kind, tuple(at_work), finished))
        if kind == "client":
            assert self.client is not None
            kill(self.client)
        elif kind == "scheduler":
            self.running.kill("scheduler")
        elif kind == "worker":
            pid = self.rng.choice(list(at_work.values()))
            self.running.kill(next(name for name, process in self.running.workers.items() if process.pid == pid))
        elif kind == "sky":
            self.sky.kill()
        else:
            self._fill_disk()

    def _fill_disk(self) -> None:
        """Leave no space where RUN lies until the client has given up."""
        assert self.client is not None
        ballast = self.run_dir.parent / "ballast"
        disk = os.statvfs(ballast.parent)
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize)
        self.client.wait(timeout=120)
        ballast.unlink()
        assert "its disk is full; free some space" in self.said()


def redone(run_dir: Path, kills: list[Kill]) -> dict[int, int]:
    """Blocks that were being worked on at a kill and were begun again afterwards, with how often."""
    again: Counter[int] = Counter()
    for block in {block for struck in kills for block in struck.blocks}:
        lines = [
            json.loads(line) for line in RunPaths(run_dir).block_log(block).read_text().splitlines() if whole(line)
        ]
        begun = [datetime.fromisoformat(line["time"]) for line in lines if line["message"] == "begun"]
        struck_at = min(struck.time for struck in kills if block in struck.blocks)
        again[block] += sum(time > struck_at for time in begun)
    return {block: times for block, times in again.items() if times}


def whole(line: str) -> bool:
    """A full disk may have cut a line short."""
    return line.endswith("}")


def make_job(folder: Path, sky: SkyServer, rows: int) -> tiny.Job:
    rng = np.random.default_rng(1)
    places = [position(*place) for place in rng.uniform(80, SIDE - 80, (rows, 2))]
    lines = [f"{number},{ra:.7f},{dec:.7f},2.0" for number, (ra, dec) in enumerate(places)]
    (folder / "targets.csv").write_text("\n".join(["id,ra,dec,r50", *lines]) + "\n")
    politeness = {"requests_per_s": 3000, "tries": 4, "backoff_s": 0.05, "timeout_s": 5, "cache_mb": 0}
    recipe = tiny.recipe(
        preview_targets=4, check_rows=16, block_rows=256, **{f"politeness.{k}": v for k, v in politeness.items()}
    )
    text = f"hips2fits:SIM/P/sky/{{band}}@{sky.url}/hips2fits"
    source = tiny.SourceSpec(text, tuple("rrr"), zeropoints=(22.5,) * 3, pixel_scale_arcsec=SCALE)
    model = tiny.write_model(folder / "model.onnx")
    return tiny.Job(model, str(folder / "targets.csv"), (source,), recipe)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A tmpfs of its own: only root may mount one."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


WHEN = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d|(CHECKSUM|DATASUM *)= '[^']*'")
"""A catalogue says when its last block was finished; header checksums follow from it."""


def check_equal(calm: Path, killed: Path, rows: int) -> None:
    """Byte for byte but for the time of the last block; and every target once."""
    assert shards(calm) == shards(killed)
    publish(calm)
    publish(killed)
    for product in ("catalogue.fits", "catalogue_full.fits", "missing.ecsv"):
        one, other = (WHEN.sub(b"", (run_dir / product).read_bytes()) for run_dir in (calm, killed))
        assert one == other, product
    ids = read_rows(killed / "predictions.zarr", 0, rows, ["id"])["id"]
    assert sorted(ids.tolist()) == list(range(rows))


def survive(
    folder: Path, disk: Path, rows: int, kills: list[str], pause_s: tuple[float, float], deadline_s: float
) -> Ordeal:
    """Classify `rows` targets twice, once left alone and once killed, and compare."""
    with sky_server(folder) as sky:
        job = make_job(folder, sky, rows)
        here = load_cluster("none")
        plan(job, folder / "calm", here)
        shutil.copytree(folder / "calm", disk / "killed")
        run(folder / "calm", here)
        with cluster(folder, {}) as running:
            ordeal = Ordeal(disk / "killed", running, sky, random.Random(5).sample(kills, len(kills)), pause_s)
            started = time.monotonic()
            ordeal.endure(deadline_s)
            took = time.monotonic() - started
        missed = status(disk / "killed").statuses.get(Status.SOURCE_FAILED, 0)
        if missed:
            run(disk / "killed", here, retry=[Status.SOURCE_FAILED])
    assert not ordeal.plan, f"finished before {ordeal.plan} could strike"
    assert status(disk / "killed").unfinished == 0
    assert read_record(disk / "killed").n_blocks == -(-rows // 256)
    check_equal(folder / "calm", disk / "killed", rows)
    again = redone(disk / "killed", ordeal.kills)
    for struck in ordeal.kills:
        print(f"{struck.time:%H:%M:%S} {struck.kind:9s} at work {list(struck.blocks)}, {struck.finished} in the ledger")
    print(f"{missed} targets missed while the service was dead, and asked for again")
    print(f"exit codes {ordeal.codes}; blocks begun again after a kill: {again}; {took:.0f} s")
    assert again, "no block was lost: the kills struck nothing"
    return ordeal


@pytest.mark.slow
def test_a_run_that_is_killed_ends_like_one_that_is_not(tmp_path: Path) -> None:
    survive(tmp_path, tmp_path, 1_600, ["worker", "worker", "client", "client"], (0.5, 1.5), 120)


@pytest.mark.long
def test_twenty_kills_a_full_disk_and_a_service_that_restarts(tmp_path: Path) -> None:
    kills = ["worker"] * 8 + ["scheduler"] * 6 + ["client"] * 7 + ["sky", "disk"]
    with small_disk(tmp_path / "disk") as disk:
        ordeal = survive(tmp_path, disk, 20_000, kills, (1.0, 6.0), 1_500)
    counts = Counter(struck.kind for struck in ordeal.kills)
    assert min(counts[kind] for kind in ("worker", "scheduler", "client")) >= 5
    assert sum(counts.values()) >= 20
