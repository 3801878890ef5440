"""How long it takes to write a catalogue as text for the CDS, and in how much memory.

::

    python tests/benchmarks/bench_release.py [--rows 100000 300000] [--columns 60] [--folder FOLDER]

Fractions (F6.4, a tenth of them blank) and a column with all digits, beside id and positions. A look at all rows, then
the writing; each size in a process of its own, whose peak memory is shown, with pages of the mapped FITS file in it.
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

from gzsurvey.deposit.cds import fields_of, write_table
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.fits import open_table
from gzsurvey.outputs.opened import open_catalogue

CHUNK = 10_000


def main() -> None:
    """Write catalogues, turn them into text, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000])
    parser.add_argument("--columns", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder is made")
    parser.add_argument("--table", type=Path, default=None, help="a catalogue: turn it into text, as JSON")
    options = parser.parse_args()
    if options.table:
        print(json.dumps(turn_into_text(options.table)))
        return
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            table = Path(folder, "catalogue.fits")
            write_catalogue(table, rows, options.columns)
            command = [sys.executable, __file__, "--table", str(table)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"{rows:,} rows x {options.columns} columns: {done.stdout.strip()}")


def write_catalogue(path: Path, n: int, width: int) -> None:
    """Write a catalogue of random numbers."""
    fractions = [Column(f"answer_{i}_fraction", "E", display="F6.4") for i in range(width - 4)]
    columns = (c.TARGET_ID, c.RA, c.DEC, *fractions, Column("mag_r", "E", unit="mag"))
    rng = np.random.default_rng(0)
    with open_table(path, columns, n) as table:
        for start in range(0, n, CHUNK):
            size = min(CHUNK, n - start)
            rows = {column.name: rng.random(size, np.float32) for column in (*fractions, columns[-1])}
            for column in fractions:
                rows[column.name][rng.random(size) < 0.1] = np.nan
            rows |= {"id": np.arange(start, start + size), "ra": rng.uniform(0, 360, size)}
            table.append(rows | {"dec": rng.uniform(-90, 90, size)})


def turn_into_text(table: Path) -> dict[str, float]:
    """Turn one catalogue into text."""
    catalogue, place = open_catalogue(table), table.with_suffix(".dat")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    started = time.monotonic()
    fields = fields_of(catalogue)
    looked = time.monotonic()
    write_table(place, catalogue, fields)
    return {
        "look_s": round(looked - started, 2),
        "write_s": round(time.monotonic() - looked, 2),
        "text_mb": round(place.stat().st_size / 1e6, 1),
        "fits_mb": round(table.stat().st_size / 1e6, 1),
        "peak_mb_before": round(before),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


if __name__ == "__main__":
    main()
