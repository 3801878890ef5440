"""How long a cone and an id take in a catalogue of 10^7 rows.

::

    PYTHONPATH=tests python tests/benchmarks/bench_query.py [--rows 10000000] [--folder FOLDER]

writes a catalogue with the project's own writer into a temporary folder (5 GB for 10^7 rows), asks, and prints a
table. "Cold": the file's pages are dropped from the system's cache first. Opening, asking and reading every column
of the rows found are all in the time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from outputs.catalogues import make_block, make_card, make_stored

import gzsurvey
from gzsurvey.outputs.columns import Layout
from gzsurvey.outputs.fits import open_table
from gzsurvey.outputs.hats import DATASET, INDEX, PARTITION_ROWS, HatsRows
from gzsurvey.outputs.id_index import write_id_index
from gzsurvey.outputs.opened import open_catalogue
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.rows import catalogue_rows
from gzsurvey.sky.healpix import cells

BLOCK = 16_384
TURNS = 5


def main() -> None:
    """Write a catalogue, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where the temporary folder is made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print("\n".join(measure(Path(folder), options.rows)))


def measure(run: Path, rows: int) -> list[str]:
    """Return the lines of the table."""
    positions = write_catalogue(run, rows)
    paths = RunPaths(run)
    middle = rows // 2
    ra, dec = positions["ra"][middle], positions["dec"][middle]
    questions = {
        "cone, 30 arcsec": {"cone": f"{ra} {dec} 30arcsec"},
        "cone, 0.5 deg": {"cone": f"{ra} {dec} 0.5deg"},
        "one id": {"ids": [int(positions["id"][middle])]},
        "100 ids": {"ids": positions["id"][:: max(rows // 100, 1)][:100].tolist()},
        "every row: ood_distance > 10": {"where": "ood_distance > 10", "columns": ["objid"]},
    }
    size = paths.catalogue.stat().st_size / 1e9
    lines = [f"{rows:,} rows, {size:.1f} GB", "", "| asked | rows found | cold, s | warm, s |", "|---|---|---|---|"]
    for name, question in questions.items():
        cold, warm = [], []
        for _ in range(TURNS):
            drop(paths.catalogue, paths.targets, *(file for file in paths.hats.rglob("*") if file.is_file()))
            cold.append(seconds(lambda q=question: gzsurvey.query(run, **q).table()))
            warm.append(seconds(lambda q=question: gzsurvey.query(run, **q).table()))
        found = len(gzsurvey.query(run, **question))
        lines.append(f"| {name} | {found:,} | {spread(cold)} | {spread(warm)} |")
    return lines


def write_catalogue(run: Path, rows: int) -> dict[str, NDArray[np.generic]]:
    """Write ``catalogue.fits``, ``targets.parquet`` and the id index; one block's predictions are repeated."""
    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 90, rows), np.degrees(np.arcsin(rng.uniform(0, 0.9, rows)))
    ids = rng.permutation(rows) + 39_000_000_000_000_000
    healpix = cells(ra, dec)
    order = np.lexsort((ids, healpix))
    sky = {"id": ids[order], "ra": ra[order], "dec": dec[order], "healpix_29": healpix[order]}
    card, paths = make_card(), RunPaths(run)
    layout = Layout(card, ("gz_decals_dr8",), make_stored())
    predicted = catalogue_rows(make_block(card, BLOCK), layout)
    with (
        open_table(paths.catalogue, layout.columns, rows) as table,
        pq.ParquetWriter(paths.targets, pa.schema({"id": pa.int64()}), compression="zstd") as targets,
    ):
        for start in range(0, rows, BLOCK):
            part = {name: values[start : start + BLOCK] for name, values in sky.items()}
            n = len(part["id"])
            targets.write_table(pa.table({"id": part["id"]}))
            table.append({name: values[:n] for name, values in predicted.items()} | part | {"objid": part["id"]})
    index = HatsRows(open_catalogue(paths.catalogue), PARTITION_ROWS).index
    (paths.hats / INDEX).mkdir(parents=True)
    write_id_index(paths.hats / INDEX / DATASET, layout.columns[0], index, rows)
    return sky


def drop(*files: Path) -> None:
    """Forget what the system has cached of some files."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def seconds(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spread(times: list[float]) -> str:
    """Return the median, and the least and greatest."""
    return f"{np.median(times):.3f} [{min(times):.3f}, {max(times):.3f}]"


if __name__ == "__main__":
    main()
