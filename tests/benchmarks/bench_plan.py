"""What planning costs: seconds, peak memory and disk of `plan`, for tables of growing length: FITS, Parquet, CSV.

Example: python tests/benchmarks/bench_plan.py --targets 1000000,10000000 --folder scratch

A third of the targets lie in one field of one square degree, the others all over the sky. Every plan runs in a process
of its own, over the free source ``synthetic:``; its peak memory is what the kernel says when it ends. Disk is the most
that the folder of the run held, looked at several times a second.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq
from astropy.io import fits

sys.path.insert(0, str(Path(__file__).parents[1]))

from survey import tiny

CHUNK = 1_000_000
CROWD = 3
"""One target of so many lies in the crowded field."""
COMMAND = (
    *(sys.executable, "-m", "gzsurvey", "plan", "--quiet"),
    *("--cutouts", "synthetic:", "--keep", "mag_r", "--cluster", "none"),
)


def columns(n: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield ids in no order, positions, sizes and magnitudes, a chunk at a time."""
    rng = np.random.default_rng(n)
    for start in range(0, n, CHUNK):
        rows = np.arange(start, min(start + CHUNK, n))
        crowd = rows % CROWD == 0
        ra, dec = rng.uniform(0, 360, len(rows)), np.degrees(np.arcsin(rng.uniform(-1, 1, len(rows))))
        ra[crowd], dec[crowd] = rng.uniform(150, 151, crowd.sum()), rng.uniform(1.7, 2.7, crowd.sum())
        # An odd factor is a permutation of the numbers of 62 bits.
        ids = rows * 0x1E3779B97F4A7C15 & (2**62 - 1)
        yield {
            "id": ids,
            "ra": ra,
            "dec": dec,
            "r50": rng.uniform(0.5, 6, len(rows)),
            "mag_r": rng.uniform(14, 20, len(rows)),
        }


def write_parquet(path: Path, n: int) -> None:
    """Write a table with row groups of a million rows."""
    first = pa.table(next(columns(1)))
    with pq.ParquetWriter(path, first.schema, compression="none") as file:
        for chunk in columns(n):
            file.write_table(pa.table(chunk))


def write_fits(path: Path, n: int) -> None:
    """Write a table a chunk at a time."""
    names = list(next(columns(1)))
    empty = fits.BinTableHDU.from_columns([fits.Column(name, "K" if name == "id" else "D") for name in names])
    empty.header["NAXIS2"] = n
    with path.open("wb") as file:
        file.write(fits.PrimaryHDU().header.tostring().encode())
        file.write(empty.header.tostring().encode())
        for chunk in columns(n):
            rows = np.empty(len(chunk["id"]), dtype=[(name, ">i8" if name == "id" else ">f8") for name in names])
            for name in names:
                rows[name] = chunk[name]
            file.write(rows.tobytes())
        file.write(bytes(-file.tell() % 2880))


def write_csv(path: Path, n: int) -> None:
    """Write a table whose ids are text."""
    first = as_text(next(columns(1)))
    with pa.csv.CSVWriter(path, first.schema) as file:
        for chunk in columns(n):
            file.write_table(as_text(chunk))


def as_text(chunk: dict[str, np.ndarray]) -> pa.Table:
    """Return columns with ids like those of surveys: a letter and some 19 digits."""
    return pa.table(chunk | {"id": pa.compute.binary_join_element_wise("J", pa.array(chunk["id"]).cast("string"), "")})


WRITERS = {"fits": write_fits, "parquet": write_parquet, "csv": write_csv}
"""By the ending of their file."""


def measure(command: Sequence[str], folder: Path) -> dict[str, float]:
    """Return seconds, peak memory and most disk of a command that writes into a folder."""
    most, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            most[0] = max(most[0], sum(_bytes(path) for path in folder.rglob("*")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.monotonic()
    process = os.posix_spawn(command[0], list(command), os.environ)
    _, status, usage = os.wait4(process, 0)
    seconds = time.monotonic() - started
    over.set()
    watcher.join()
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return {
        "seconds": seconds,
        "peak_mb": usage.ru_maxrss / 1024,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "disk_mb": most[0] / 1e6,
    }


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def main(arguments: Sequence[str] | None = None) -> str:
    """Measure, print and return a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", default="1000000", help="Lengths, joined by commas.")
    parser.add_argument("--formats", default="fits,parquet,csv", help="Joined by commas; ids of csv are text.")
    parser.add_argument("--folder", type=Path, default=None, help="For tables and runs; some 250 bytes per target.")
    asked = parser.parse_args(arguments)
    lines = [
        "| targets | table | seconds | CPU seconds | targets/s | peak memory | most disk |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(dir=asked.folder) as text:
        folder = Path(text)
        model = tiny.write_model(folder / "small.onnx")
        for n in map(int, asked.targets.split(",")):
            for name in asked.formats.split(","):
                table, run = folder / f"targets.{name}", folder / "runs" / "run"
                run.parent.mkdir()
                WRITERS[name](table, n)
                found = measure(
                    [*COMMAND, "--model", str(model), "--targets", str(table), "--out", str(run)], run.parent
                )
                lines.append(
                    f"| {n:,} | {name} | {found['seconds']:.1f} | {found['cpu_s']:.1f} | {n / found['seconds']:,.0f} "
                    f"| {found['peak_mb']:,.0f} MB | {found['disk_mb']:,.0f} MB |"
                )
                print(lines[-1], flush=True)
                shutil.rmtree(run.parent)
                table.unlink()
    print("\n".join(lines))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
