"""How long each product of a big run takes, and in how much memory; the same for merging, the ledger and the report.

::

    PYTHONPATH=tests python tests/benchmarks/bench_publish.py [--rows 10000000] [--run RUN] [--merge]

makes a finished RUN (one campaign of 34 answers, an embedding of 64, an uneven sky; 3.4 GB for 10^7 rows), or takes
that of an earlier call, publishes it with the friendly flavour and draws its report, each in a process of its own.
10^7 rows need 27 GB of disk. `--merge`: two runs of half the rows, every tenth target in both, are merged and published
instead, each product by itself; then astropy's `Table.write` writes the merged `catalogue.fits` once more (reading it
is not in the time, holding it is in the memory).
"Held" is memory that the process allocated; "resident" has the libraries and the pages of mapped files, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from big_runs import make_big_run

from gzsurvey.outputs.paths import RunPaths
from gzsurvey.survey import merge

ROWS = 10_000_000
_LOOK_SECONDS = 0.02


def main(arguments: list[str] | None = None) -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--run", type=Path, default=None, help="a RUN to keep; by default a temporary one")
    parser.add_argument("--merge", action="store_true", help="merge two runs of half the rows")
    parser.add_argument("--stage", choices=STAGES, default=None, help="one measurement of RUN, as JSON")
    options = parser.parse_args(arguments)
    if options.stage:
        print(json.dumps(STAGES[options.stage](options.run)))
        return
    with tempfile.TemporaryDirectory() as folder:
        run = options.run or Path(folder, "run")
        print("\n".join(merged(run, options.rows) if options.merge else published(run, options.rows)))


def published(run: Path, rows: int) -> list[str]:
    """Return the lines of the table of a run's products."""
    if not RunPaths(run).plan.is_file():
        make_big_run(run, rows)
    lines = _head(f"{rows:,} rows, {RunPaths(run).zarr.name} and targets {_gigabytes(run):.1f} GB")
    for stage in ("publish", "report"):
        lines += _table(_measured(stage, run))
    return [*lines, "", f"In all {_gigabytes(run):.1f} GB of disk."]


def merged(folder: Path, rows: int) -> list[str]:
    """Return the lines of the table of a merge."""
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(("first", "second")):
        if not (folder / name).exists():
            make_big_run(folder / name, rows // 2, seed=seed, shared_ids=rows // 20)
    return [
        *_head(f"two runs of {rows // 2:,} rows, {rows // 20:,} targets in both"),
        *_table(_measured("merge", folder)),
        *_table(_measured("astropy", folder)),
    ]


def _publish(run: Path) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = []
    _watch_products(stages)
    _watched(sys.modules["gzsurvey.survey.publish"].publish, "publish, in all", stages)(run, flavours=("friendly",))
    return stages


def _watch_products(stages: list[dict[str, Any]]) -> None:
    """Let every part of `publish` note its time and peak memory."""
    import gzsurvey.survey.publish  # noqa: F401  (the function hides the module)

    module = sys.modules["gzsurvey.survey.publish"]
    for name, label in (
        ("open_finished", "ledger and files of every shard"),
        ("_write_tables", "catalogues, misses, maps gathered"),
        ("write_hats", "HATS, margin, id index"),
        ("checksums_of", "checksums"),
        ("provenance", "provenance"),
    ):
        setattr(module, name, _watched(getattr(module, name), label, stages))


def _report(run: Path) -> list[dict[str, Any]]:
    from gzsurvey.report import report

    stages: list[dict[str, Any]] = []
    _watched(report, "report", stages)(run)
    return stages


def _merge(folder: Path) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = []
    _watch_products(stages)
    _watched(merge, "merge and publish", stages)([folder / "first", folder / "second"], folder / "merged")
    return stages


def _astropy(folder: Path) -> list[dict[str, Any]]:
    from astropy.table import Table

    stages: list[dict[str, Any]] = []
    table, again = Table.read(RunPaths(folder / "merged").catalogue, hdu=1), folder / "astropy.fits"

    def write() -> None:
        table.write(again, overwrite=True)
        with again.open("rb") as file:
            os.fsync(file.fileno())

    _watched(write, "catalogue.fits alone, by astropy", stages)()
    again.unlink()
    return stages


STAGES = {"publish": _publish, "report": _report, "merge": _merge, "astropy": _astropy}


def _watched(work: Callable[..., Any], label: str, stages: list[dict[str, Any]]) -> Callable[..., Any]:
    """Return a function that does the same and notes its time and peak memory."""

    def watched(*arguments: Any, **options: Any) -> Any:
        peak, done = {"RssAnon": 0, "VmRSS": 0}, threading.Event()
        watch = threading.Thread(target=_watch, args=(peak, done))
        watch.start()
        started, busy = time.perf_counter(), time.process_time()
        try:
            return work(*arguments, **options)
        finally:
            seconds, cpu = time.perf_counter() - started, time.process_time() - busy
            done.set()
            watch.join()
            stages.append({"what": label, "seconds": seconds, "cpu": cpu, "peak": peak})

    return watched


def _watch(peak: dict[str, int], done: threading.Event) -> None:
    while not done.wait(_LOOK_SECONDS):
        for line in Path("/proc/self/status").read_text().splitlines():
            key, _, value = line.partition(":")
            if key in peak:
                peak[key] = max(peak[key], int(value.split()[0]) // 1024)


def _measured(stage: str, run: Path) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, "--stage", stage, "--run", str(run)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _head(what: str) -> list[str]:
    load = f"{np.mean(os.getloadavg()):.1f}"
    head = "| | s | of them CPU, s | held at most, MB | resident at most, MB |"
    return [f"{what} (load average {load})", "", head, "|---|---|---|---|---|"]


def _table(stages: list[dict[str, Any]]) -> list[str]:
    return [
        f"| {s['what']} | {s['seconds']:.1f} | {s['cpu']:.1f} | {s['peak']['RssAnon']} | {s['peak']['VmRSS']} |"
        for s in stages
    ]


def _gigabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


if __name__ == "__main__":
    main()
