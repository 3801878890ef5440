"""How long it takes to merge two finished runs of interleaved galaxies, and in how much memory.

::

    PYTHONPATH=tests python tests/benchmarks/bench_merge.py [--rows 1000000] [--folder FOLDER]

Two runs of half the rows each over the same sky (six campaigns, 206 answers, an embedding of 5), every tenth target in
both. Merged and published in a process of its own; its peak memory is that process's. All in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from outputs import runs

from gzsurvey.sky.healpix import cells
from gzsurvey.survey import merge

BLOCK = 16_384


def main() -> None:
    """Make two runs, merge them, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder is made")
    parser.add_argument("--merge", type=Path, default=None, help="the folder of two runs: merge them, as JSON")
    options = parser.parse_args()
    if options.merge:
        print(json.dumps(merge_there(options.merge)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        make_runs(Path(folder), options.rows // 2)
        command = [sys.executable, __file__, "--merge", folder]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"{options.rows:,} rows: {found['seconds']:.0f} s, peak memory {found['peak_mb']:.0f} MB")


def make_runs(folder: Path, rows: int) -> None:
    """Write ``first`` and ``second``."""
    runs.BLOCK_ROWS = BLOCK
    ids = np.arange(rows)
    for number, name in enumerate(("first", "second")):
        rng = np.random.default_rng(number)
        ra, dec = rng.uniform(150, 190, rows), rng.uniform(-10, 30, rows)
        healpix = cells(ra, dec)
        order = np.argsort(healpix)
        own = np.where(ids % 10 == 0, ids, ids + 10 * number * rows)
        changes = {"ra": ra[order], "dec": dec[order], "healpix_29": healpix[order], "id": own}
        runs.make_run(folder / name, n=rows, **changes)


def merge_there(folder: Path) -> dict[str, float]:
    """Merge; return seconds and peak memory."""
    started = time.perf_counter()
    merge([folder / "first", folder / "second"], folder / "merged")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


if __name__ == "__main__":
    main()
