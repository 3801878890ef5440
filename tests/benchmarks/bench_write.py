"""How fast a FITS catalogue is written, and in how much memory, beside astropy and beside the disk.

::

    python tests/benchmarks/bench_write.py [--rows 10000000] [--columns 60] [--folder FOLDER] [--without-astropy]

Columns are float32. Ours streams blocks of 16,384 rows through `gzsurvey.outputs.fits.open_table`, with checksums and
fsync; astropy writes a `Table` that is in memory already (making it is not in the time, holding it is in the memory);
"plain" writes the same bytes in order, with fsync. Each turn is a process of its own, and its peak memory that
process's. Files are made in a temporary folder and deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BLOCK = 16_384
TURNS = 3


def main() -> None:
    """Run every contestant in turn, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--columns", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder is made")
    parser.add_argument("--without-astropy", action="store_true", help="it holds the whole table in memory, thrice")
    parser.add_argument("--contestant", choices=CONTESTANTS, default=None, help="one turn of one, as JSON")
    options = parser.parse_args()
    if options.contestant:
        print(json.dumps(turn(options.contestant, options.folder, options.rows, options.columns)))
        return
    print("\n".join(compare(options.rows, options.columns, options.folder, not options.without_astropy)))


def compare(rows: int, columns: int, place: Path | None, with_astropy: bool) -> list[str]:
    """Return the lines of the table; contestants take turns, so that a busy minute hits all of them."""
    names = [name for name in CONTESTANTS if with_astropy or name != "astropy"]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(TURNS):
        for name in names:
            with tempfile.TemporaryDirectory(dir=place) as folder:
                command = [sys.executable, __file__, "--contestant", name, "--folder", folder]
                command += ["--rows", str(rows), "--columns", str(columns)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[name].append(json.loads(done.stdout))
    gigabytes = rows * columns * 4 / 1e9
    lines = [f"{rows:,} rows of {columns} columns, {gigabytes:.1f} GB", "", "| writer | s | MB/s | peak memory, MB |"]
    lines.append("|---|---|---|---|")
    for name, turns in found.items():
        seconds = [one["seconds"] for one in turns]
        middle = float(np.median(seconds))
        memory = max(one["peak_mb"] for one in turns)
        spread = f"{middle:.1f} [{min(seconds):.1f}, {max(seconds):.1f}]"
        lines.append(f"| {name} | {spread} | {1000 * gigabytes / middle:.0f} | {memory:.0f} |")
    return lines


def turn(name: str, folder: Path, rows: int, columns: int) -> dict[str, float]:
    """Write one file; return seconds and peak memory."""
    seconds = CONTESTANTS[name](folder / "table.fits", rows, columns)
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def ours(path: Path, rows: int, columns: int) -> float:
    """Stream blocks through the project's writer."""
    from gzsurvey.outputs.columns import Column
    from gzsurvey.outputs.fits import open_table

    block = make_block(columns)
    started = time.perf_counter()
    with open_table(path, [Column(name, "E", ucd="stat.probability") for name in block], rows) as table:
        for start in range(0, rows, BLOCK):
            table.append({name: values[: rows - start] for name, values in block.items()})
    return time.perf_counter() - started


def astropy(path: Path, rows: int, columns: int) -> float:
    """Write a Table that is in memory."""
    from astropy.table import Table

    block = make_block(columns)
    table = Table({name: np.resize(values, rows) for name, values in block.items()}, copy=False)
    started = time.perf_counter()
    table.write(path)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return time.perf_counter() - started


def plain(path: Path, rows: int, columns: int) -> float:
    """Write the same bytes in order."""
    records = np.stack(list(make_block(columns).values()), axis=1).tobytes()
    row_bytes = 4 * columns
    started = time.perf_counter()
    with path.open("wb") as file:
        for start in range(0, rows, BLOCK):
            file.write(records[: (rows - start) * row_bytes])
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - started


def make_block(columns: int) -> dict[str, np.ndarray]:
    """Return one block of random columns."""
    rng = np.random.default_rng(0)
    return {f"column_{i}": rng.uniform(size=BLOCK).astype(np.float32) for i in range(columns)}


CONTESTANTS = {"ours": ours, "astropy": astropy, "plain": plain}

if __name__ == "__main__":
    main()
