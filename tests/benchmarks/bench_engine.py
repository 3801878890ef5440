"""What the engine costs beside the loop it runs, how it scales, and whether its memory stays flat.

::

    python tests/benchmarks/bench_engine.py overhead --targets 60000 --rounds 3
    python tests/benchmarks/bench_engine.py split --targets 20000 --rounds 3
    python tests/benchmarks/bench_engine.py overlap --targets 4000 --rounds 3
    python tests/benchmarks/bench_engine.py scale --folder BIG --targets 10000 100000 1000000
    python tests/benchmarks/bench_engine.py scale --folder BIG --targets 10000000 --figure memory.png

A real model of next to no cost (one convolution, 64 features) on galaxies that are drawn at next to no cost
(``synthetic:``), so that what is measured is the engine. ``overhead``: the bare loop (fetch, prepare, predict; nothing
kept) in one and in two processes at once, and `run` in this process, on one and on two Dask workers, taking turns.
``split``: two workers that fetch and predict, against one that predicts and one that fetches for it. ``overlap``: a
source that waits for each image as for a network, a model, and `run`, which is to take as long as the slower of the
two. ``scale``: `plan`, `run` and `publish` of so many targets, on a scheduler and two workers in processes of their
own, whose memory is read every few seconds. Prints Markdown, and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_pretrain import HERE, machine

sys.path.append(str(HERE.parent))
from survey import tiny
from survey.processes import Cluster, cluster

from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.inference import predict
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.recipes.cluster import ClusterProfile, RetrievalPool
from gzsurvey.report.figures import new_figure
from gzsurvey.survey import plan, run, worker
from gzsurvey.survey.record import read_record
from gzsurvey.survey.sources import requests
from gzsurvey.survey.targets_file import read_block_targets
from gzsurvey.survey.worker import open_runtime

SIZE, FEATURES = 16, 64
SAMPLE_SECONDS = 2.0


def write_model(path: Path) -> Path:
    return tiny.write_model(path, size=SIZE, features=FEATURES)


def write_targets(path: Path, rows: int) -> Path:
    """Positions over a third of the sky, in no order, a million at a time."""
    rng = np.random.default_rng(11)
    with pq.ParquetWriter(
        path, pa.schema([("id", "int64"), ("ra", "float64"), ("dec", "float64"), ("r50", "float32")])
    ) as file:
        for start in range(0, rows, 1_000_000):
            n = min(1_000_000, rows - start)
            dec = np.degrees(np.arcsin(rng.uniform(-0.5, 0.2, n)))
            columns = [
                np.arange(start, start + n),
                rng.uniform(0, 360, n),
                dec,
                rng.uniform(1, 6, n).astype(np.float32),
            ]
            file.write_table(pa.table(columns, schema=file.schema))
    return path


def planned(folder: Path, rows: int, name: str, workers: int, block_rows: int = 16_384) -> Path:
    recipe = tiny.recipe(preview_targets=4, check_rows=16, block_rows=block_rows)
    job = tiny.job(folder / "model.onnx", folder / f"targets-{rows}.parquet", recipe=recipe)
    plan(job, folder / name, ClusterProfile(kind="local", workers=workers))
    return folder / name


def bare(run_dir: Path, part: tuple[int, int]) -> float:
    """Seconds of fetching, preparing and predicting every n-th block, with nothing kept."""
    runtime = open_runtime(run_dir, f"bare {time.monotonic()}", 1)
    preparation, start = runtime.model.card.preparation, 0.0
    record = read_record(run_dir)
    for block in record.blocks[part[0] :: part[1]]:
        start = start or time.perf_counter()
        targets = read_block_targets(run_dir, block.number)
        arrived = runtime.fetcher(requests(targets, range(block.rows), preparation))
        images = ((row, image) for row, _, image in arrived if image is not None)
        assert sum(len(batch.rows) for batch in predict(runtime.model, images)) == block.rows
    return time.perf_counter() - start


def _bare_beside(barrier: Any, run_dir: Path, part: tuple[int, int], seconds: Any) -> None:
    open_runtime(run_dir, "warm", 1)
    barrier.wait()
    seconds.put(bare(run_dir, part))


def bare_processes(run_dir: Path, rows: int, processes: int) -> float:
    """Galaxies per second of bare loops side by side, each on its share."""
    context = multiprocessing.get_context("spawn")
    barrier, seconds = context.Barrier(processes), context.Queue()
    running = [
        context.Process(target=_bare_beside, args=(barrier, run_dir, (number, processes), seconds))
        for number in range(processes)
    ]
    for process in running:
        process.start()
    slowest = max(seconds.get() for _ in running)
    for process in running:
        process.join()
    return rows / slowest


def rate(run_dir: Path) -> float:
    """Galaxies per second of all workers together, each from the end of its first block to the end of its last."""
    ends: dict[str, list[tuple[str, int]]] = {}
    for log in RunPaths(run_dir).logs.glob("*.jsonl"):
        for line in map(json.loads, log.read_text().splitlines()):
            if line["message"] == "finished":
                ends.setdefault(line["worker"], []).append((line["time"], sum(line["statuses"].values())))
    return sum(_pace(sorted(blocks)) for blocks in ends.values())


def _pace(blocks: list[tuple[str, int]]) -> float:
    first, last = (datetime.fromisoformat(time) for time, _ in (blocks[0], blocks[-1]))
    return sum(rows for _, rows in blocks[1:]) / max((last - first).total_seconds(), 1e-9)


def engine(template: Path, name: str, profile: ClusterProfile) -> float:
    """Galaxies per second of a run of a fresh copy of a planned RUN."""
    run_dir = template.parent / name
    shutil.rmtree(run_dir, ignore_errors=True)
    shutil.copytree(template, run_dir)
    run(run_dir, profile)
    found = rate(run_dir)
    shutil.rmtree(run_dir)
    return found


def overhead(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    write_model(folder / "model.onnx")
    write_targets(folder / f"targets-{options.targets}.parquet", options.targets)
    template = planned(folder, options.targets, "template", 2)
    contestants = {
        "bare loop": lambda: bare_processes(template, options.targets, 1),
        "run, this process": lambda: engine(template, "none", ClusterProfile(kind="none", threads=1)),
        "run, 1 Dask worker": lambda: engine(template, "one", ClusterProfile(kind="local", workers=1)),
        "2 bare loops": lambda: bare_processes(template, options.targets, 2),
        "run, 2 Dask workers": lambda: engine(template, "two", ClusterProfile(kind="local", workers=2)),
    }
    return in_turns(contestants, options.rounds)


def in_turns(contestants: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            found[name].append(contestant())
            print(f"{name}: {found[name][-1]:,.0f}/s", file=sys.stderr, flush=True)
    return found


def split(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    write_model(folder / "model.onnx")
    write_targets(folder / f"targets-{options.targets}.parquet", options.targets)
    template = planned(folder, options.targets, "template", 2)
    kinds = {"predicts": ("--resources", "GPU=1"), "fetches": ("--resources", "RETRIEVAL=1")}
    with cluster(folder, kinds) as apart, cluster(folder, {"a": (), "b": ()}) as together:
        apart_profile = ClusterProfile(kind="address", address=apart.address, retrieval=RetrievalPool())
        together_profile = ClusterProfile(kind="address", address=together.address)
        return in_turns(
            {
                "two workers that fetch and predict": lambda: engine(template, "together", together_profile),
                "one predicts, one fetches for it": lambda: engine(template, "apart", apart_profile),
            },
            options.rounds,
        )


class Waiting:
    """Waits before each picture, as for a network; needs no processor meanwhile."""

    name, seconds, size = "synthetic:", 0.001, 128

    def fetch(self, requests: Sequence[Request]) -> Iterator[tuple[int, Cutout | Miss]]:
        """Yield the same picture for each request, after a wait."""
        picture = np.random.default_rng(5).integers(0, 256, (self.size, self.size, 3), dtype=np.uint8)
        for request in requests:
            time.sleep(self.seconds)
            yield request.row, Cutout(picture, image_set=self.name)


def overlap(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Galaxies per second of fetching and preparing alone, of a model of about the same speed alone, and of a run."""
    tiny.write_model(folder / "model.onnx", size=Waiting.size, features=128)
    write_targets(folder / f"targets-{options.targets}.parquet", options.targets)
    template = planned(folder, options.targets, "template", 1)
    worker.open_sources = lambda *_: (Waiting(),)  # type: ignore[assignment]
    runtime = open_runtime(template, "overlap", 1)
    block = read_block_targets(template, 0)
    wanted = requests(block, range(len(block["id"])), runtime.model.card.preparation)
    images = [image for _, _, image in runtime.fetcher(wanted)]

    def fetching() -> float:
        start = time.perf_counter()
        assert sum(1 for _ in runtime.fetcher(wanted)) == len(wanted)
        return len(wanted) / (time.perf_counter() - start)

    def predicting() -> float:
        start = time.perf_counter()
        assert sum(len(batch.rows) for batch in predict(runtime.model, enumerate(images))) == len(images)
        return len(images) / (time.perf_counter() - start)

    running = lambda: engine(template, "run", ClusterProfile(kind="none", threads=1))  # noqa: E731
    return in_turns({"fetching alone": fetching, "the model alone": predicting, "run": running}, options.rounds)


@dataclass(frozen=True)
class Cost:
    """What a stage took; CPU seconds are those of all processes that worked on it."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


@dataclass
class Memory:
    """Resident memory of named processes, sampled until stopped."""

    pids: dict[str, int]
    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        start = time.monotonic()
        while not self._stop.wait(SAMPLE_SECONDS):
            self.samples.append((time.monotonic() - start, {name: resident_mb(pid) for name, pid in self.pids.items()}))

    def slopes(self) -> dict[str, tuple[float, float, float]]:
        """Mean and peak, MB, and the drift over the last two thirds of the time as a share of the mean."""
        late = self.samples[len(self.samples) // 3 :]
        found = {}
        for name in self.pids:
            times = np.array([at for at, _ in late])
            sizes = np.array([known[name] for _, known in late])
            drift = np.polyfit(times, sizes, 1)[0] * (times[-1] - times[0]) if len(late) > 2 else float("nan")
            found[name] = (float(sizes.mean()), max(known[name] for _, known in self.samples), drift / sizes.mean())
        return found


def resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
    except OSError:
        return float("nan")


def peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1e3
    return float("nan")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process that runs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(command: list[str]) -> Cost:
    """Run a command line."""
    start, peak, before = time.perf_counter(), 0.0, resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, "-m", "gzsurvey", *command], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, peak_mb(process.pid))
        time.sleep(0.05)
    assert process.returncode == 0, command
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.perf_counter() - start, cpu, peak)


def scale(rows: int, folder: Path, running: Cluster) -> dict[str, Any]:
    """Plan, run and publish so many targets with the command line."""
    targets, run_dir = write_targets(folder / f"targets-{rows}.parquet", rows), folder / f"run-{rows}"
    shutil.rmtree(run_dir, ignore_errors=True)
    asked = ["plan", "--model", str(folder / "model.onnx"), "--targets", str(targets), "--cutouts", "synthetic:"]
    found: dict[str, Any] = {"targets": rows}
    found["plan"] = timed([*asked, "--out", str(run_dir), "--set", "preview_targets=4"])
    start, workers = time.perf_counter(), {name: process.pid for name, process in running.workers.items()}
    before = sum(map(cpu_seconds, workers.values()))
    client = subprocess.Popen([sys.executable, "-m", "gzsurvey", "run", str(run_dir), "--cluster", running.address])
    pids = {"client": client.pid, "scheduler": running.scheduler.pid if running.scheduler else 0}
    with Memory(pids | workers) as memory:
        assert client.wait() == 0
    cpu = sum(map(cpu_seconds, workers.values())) - before
    found["run"] = Cost(time.perf_counter() - start, cpu, max(memory.slopes()[name][1] for name in workers))
    found["rate"], found["memory"], found["samples"] = rate(run_dir), memory.slopes(), memory.samples
    found["publish"] = timed(["publish", str(run_dir), "--flavour", "friendly"])
    found["blocks"] = read_record(run_dir).n_blocks
    found["files"] = sum(1 for path in run_dir.rglob("*") if path.is_file())
    found["disk_gb"] = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file()) / 1e9
    targets.unlink()
    return found


def scaling(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    write_model(folder / "model.onnx")
    found = []
    with cluster(folder, {"worker 1": (), "worker 2": ()}) as running:
        for rows in options.targets:
            found.append(scale(rows, folder, running))
            print(shown_scale(found[-1]), file=sys.stderr, flush=True)
    if options.figure:
        draw_memory(found[-1]["samples"], f"{rows:,} targets on two workers", options.figure)
    return found


def draw_memory(samples: list[tuple[float, dict[str, float]]], title: str, path: Path) -> None:
    figure = new_figure(7, 3.5)
    axes = figure.subplots()
    times = [at / 60 for at, _ in samples]
    for name in samples[0][1]:
        axes.plot(times, [known[name] for _, known in samples], label=name)
    axes.set(xlabel="minutes", ylabel="resident memory, MB", title=title, ylim=(0, None))
    axes.legend(ncols=4, loc="lower right")
    figure.savefig(path, dpi=110)


def shown_scale(found: dict[str, Any]) -> str:
    stages = [found[name] for name in ("plan", "run", "publish")]
    seconds = " | ".join(f"{stage.seconds:,.0f} ({stage.cpu_seconds:,.0f})" for stage in stages)
    peaks = " | ".join(f"{stage.peak_mb:,.0f}" for stage in stages)
    per_galaxy = 1e6 * found["run"].cpu_seconds / found["targets"]
    return (
        f"| {found['targets']:,} | {found['blocks']:,} | {seconds} | {found['rate']:,.0f} | {per_galaxy:,.0f} | "
        f"{peaks} | {found['disk_gb']:.2f} | {found['files']:,} |"
    )


def shown_memory(found: dict[str, Any]) -> str:
    lines = [
        f"Memory while {found['targets']:,} targets were worked on:",
        "",
        "| process | mean, MB | peak, MB | drift |",
        "|---|---|---|---|",
    ]
    for name, (mean, peak, drift) in found["memory"].items():
        lines.append(f"| {name} | {mean:,.0f} | {peak:,.0f} | {100 * drift:+.2f} % |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    for name in ("overhead", "split", "overlap"):
        part = parts.add_parser(name)
        part.add_argument("--targets", type=int, default=60_000)
        part.add_argument("--rounds", type=int, default=3)
    part = parts.add_parser("scale")
    part.add_argument("--targets", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    part.add_argument("--folder", type=Path, help="Kept; a temporary one by default.")
    part.add_argument("--figure", type=Path, help="Draw the memory during the last size to this PNG.")
    options = parser.parse_args()
    about = {"what": options.what, "date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.what == "scale":
            folder = options.folder or folder
            folder.mkdir(parents=True, exist_ok=True)
            found = scaling(options, folder)
            titles = [
                "targets", "blocks", "plan s (CPU s)", "run s (CPU s of workers)", "publish s (CPU s)", "galaxies/s",
                "CPU us of a worker each", "plan peak MB", "worker peak MB", "publish peak MB", "GB", "files",
            ]  # fmt: skip
            print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
            print("\n".join(map(shown_scale, found)), shown_memory(found[-1]), sep="\n\n")
            known = [{key: value for key, value in one.items() if key != "samples"} for one in found]
            print(json.dumps(about | {"found": known}, default=asdict))
            return
        turns = {"overhead": overhead, "split": split, "overlap": overlap}[options.what](options, folder)
    print("| contestant | galaxies/s, turn by turn | median |")
    print("|---|---|---|")
    for name, rates in turns.items():
        print(f"| {name} | {', '.join(f'{one:,.0f}' for one in rates)} | {statistics.median(rates):,.0f} |")
    print(json.dumps(about | {"targets": options.targets, "turns": turns}))


if __name__ == "__main__":
    main()
