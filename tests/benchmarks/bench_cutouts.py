"""Cutouts per second from FITS mosaics: ours beside astropy, fitsio, astrocut and cutana.

::

    python tests/benchmarks/bench_cutouts.py SKY --peers-python .venv-peers/bin/python

draws a sky of noise in the folder SKY (four tiles of 3600 x 3600 pixels in three bands, plain and RICE-compressed) if
it is not there, and lets contestants take turns, each in a process of its own with one thread: 64-pixel cutouts of
three bands, all pixels in memory. Where the peers are not in this environment, ``--peers-python`` names the Python of
one that has fitsio, astrocut and cutana; a contestant that cannot run there is said to be missing. Slow contestants cut
fewer galaxies, see `COUNTS`. Prints the best turn of each, cutouts of one band per second, and its peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from contestant_cutouts import BANDS, NEEDS, SCALE, WAYS

SIDE, TILES, RA, DEC = 3600, 4, 150.0, 30.0
SUFFIXES = (".fits", ".fits.fz")
COUNTS = {"cutout2d": 1000, "slices": 3000, "astrocut": 200}
"""Most galaxies that a contestant cuts in one turn, where all would take too long."""


def main(arguments: list[str] | None = None) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sky", type=Path)
    parser.add_argument("--galaxies", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--suffixes", nargs="+", choices=SUFFIXES, default=SUFFIXES)
    parser.add_argument("--peers-python", default=sys.executable)
    options = parser.parse_args(arguments)
    if not (options.sky / "targets.npy").exists():
        draw(options.sky, options.side, options.galaxies)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(options.turns):
        for suffix in options.suffixes:
            for way in options.ways:
                python = options.peers_python if way in NEEDS and way != "cutout2d" else sys.executable
                count = min(COUNTS.get(way, options.galaxies), options.galaxies)
                if turn := take_turn(python, way, options.sky, suffix, count):
                    found.setdefault((suffix, way), []).append(turn)
    show(found)
    return found


def draw(sky: Path, side: int, galaxies: int) -> None:
    """Draw neighbouring tiles of noise, and galaxies all over them."""
    sky.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    step, targets = side * SCALE / 3600, []
    for tile in range(TILES):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = [RA + tile % 2 * step / np.cos(np.radians(DEC)), DEC + tile // 2 * step]
        wcs.wcs.crpix, wcs.wcs.cdelt = [(side + 1) / 2] * 2, [-SCALE / 3600, SCALE / 3600]
        wcs.wcs.set()
        header = wcs.to_header()
        header["BUNIT"] = "nanomaggy"
        for band in BANDS:
            pixels = rng.normal(0, 0.01, (side, side)).astype(np.float32)
            fits.writeto(sky / f"image_{tile}_{band}.fits", pixels, header, overwrite=True)
            packed = fits.CompImageHDU(pixels, header, compression_type="RICE_1", tile_shape=(100, 100))
            packed.writeto(sky / f"image_{tile}_{band}.fits.fz", overwrite=True)
        places = rng.uniform(0, side - 1, (galaxies // TILES, 2))
        targets.append(np.column_stack([*wcs.all_pix2world(*places.T, 0), np.full(len(places), tile)]))
    np.save(sky / "targets.npy", np.concatenate(targets))


def take_turn(python: str, way: str, sky: Path, suffix: str, count: int) -> dict[str, Any] | None:
    """Let one contestant cut; None if it cannot."""
    command = [python, str(Path(__file__).with_name("contestant_cutouts.py")), way, str(sky), suffix, str(count)]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, env=os.environ | one_thread, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{way} {suffix} did not run: {(done.stderr.strip().splitlines() or ['?'])[-1]}", flush=True)
        return None
    turn = json.loads(done.stdout.splitlines()[-1]) | {"count": count, "load": os.getloadavg()[0]}
    turn["rate"] = len(BANDS) * count / turn["seconds"]
    per_cpu = len(BANDS) * count / turn["cpu_seconds"]
    rates = f"{turn['rate']:,.0f}/s, {per_cpu:,.0f} per processor second"
    print(f"{way} {suffix}: {rates}, {turn['peak_mb']:,.0f} MB, load {turn['load']:.1f}", flush=True)
    return turn


def show(found: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    """Print the table."""
    print("| files | contestant | cutouts of one band per second, best [all turns] | per processor second | peak MB |")
    print("|---|---|---|---|---|")
    for (suffix, way), turns in found.items():
        best = max(turns, key=lambda turn: turn["rate"])
        every = ", ".join(f"{turn['rate']:,.0f}" for turn in turns)
        by_cpu = max(len(BANDS) * turn["count"] / turn["cpu_seconds"] for turn in turns)
        peak = max(turn["peak_mb"] for turn in turns)
        name = f"{way} ({NEEDS[way]} {best['version']})" if way in NEEDS else way
        print(f"| {suffix} | {name} | {best['rate']:,.0f} [{every}] | {by_cpu:,.0f} | {peak:,.0f} |")


if __name__ == "__main__":
    main()
