"""Cutouts per second from a service on this machine: ours beside astroquery one by one.

::

    python tests/benchmarks/bench_services.py

starts a hips2fits server in a process of its own, which answers every request after a fixed latency with one FITS
image, and lets three contestants take turns: astroquery as its documentation uses it; ours with one connection and
a rate that is never reached, and with several. Prints cutouts (one band) per second of each turn and the median
ratio to astroquery's, with its range.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.coordinates import Latitude, Longitude

from gzsurvey.cutouts.hips2fits import Hips2fitsSource
from gzsurvey.cutouts.remote.client import Client
from gzsurvey.cutouts.source import Cutout, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.images.frame import Frame
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.remote import Politeness

sys.path.append(str(Path(__file__).parents[1] / "cutouts"))
from loopback import Services, Sky, fits_bytes, serving, tan_wcs

SIZE, SCALE, RA, DEC = 64, 0.262, 150.0, 2.0
HIPS = "SIM/P/sky/r"


def main() -> None:
    """Take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    parser.add_argument("--cutouts", type=int, default=200, help="of each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, options.latency_ms / 1000))
    server.start()
    try:
        compare(ours.recv(), options.cutouts, options.turns, options.connections)
    finally:
        ours.send("stop")
        server.join()


def serve(pipe: Connection, latency_s: float) -> None:
    """Answer every request with one image until told to stop."""
    wcs = tan_wcs(RA, DEC, SCALE, SIZE)
    pixels = np.random.default_rng(0).normal(0, 1, (SIZE, SIZE)).astype(np.float32)
    body = fits_bytes(pixels, wcs.to_header())
    services = Services(Sky({}, wcs), latency_s=latency_s, replies={"/hips2fits": body})
    with serving(services):
        pipe.send(services.url)
        pipe.recv()


def compare(url: str, cutouts: int, turns: int, connections: int) -> None:
    """Print cutouts per second of each contestant and turn."""
    requests = [Request(row, str(row), RA, DEC, Frame(SIZE, SCALE)) for row in range(cutouts)]
    with tempfile.TemporaryDirectory() as folder:
        contestants = {
            "astroquery, one by one": lambda: one_by_one(url, cutouts),
            "gzsurvey, 1 connection": ours(url, requests, 1, Path(folder)),
            f"gzsurvey, {connections} connections": ours(url, requests, connections, Path(folder)),
        }
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(turns):
            for name, run in contestants.items():
                started = time.perf_counter()
                run()
                rates[name].append(cutouts / (time.perf_counter() - started))
    first = next(iter(rates.values()))
    print("| contestant | cutouts/s, turn by turn | median ratio [range] |\n|---|---|---|")
    for name, found in rates.items():
        ratios = [rate / base for rate, base in zip(found, first, strict=True)]
        shown = ", ".join(f"{rate:.0f}" for rate in found)
        print(f"| {name} | {shown} | {statistics.median(ratios):.1f} [{min(ratios):.1f}, {max(ratios):.1f}] |")


def one_by_one(url: str, cutouts: int) -> None:
    """Ask as the documentation of astroquery does."""
    from astroquery.hips2fits import hips2fitsClass

    service = hips2fitsClass()
    service.server = f"{url}/hips2fits"
    for _ in range(cutouts):
        image = service.query(
            hips=HIPS, width=SIZE, height=SIZE, projection="TAN", ra=Longitude(RA, u.deg), dec=Latitude(DEC, u.deg),
            fov=u.Quantity(SIZE * SCALE, u.arcsec), format="fits",
        )  # fmt: skip
        assert image[0].data.shape == (SIZE, SIZE)


def ours(url: str, requests: list[Request], connections: int, folder: Path) -> Callable[[], None]:
    """Ask through the source, without its cache: a run of the same block."""
    spec = SourceSpec(f"hips2fits:{HIPS}@{url}/hips2fits", ("r",) * 3, (22.5,) * 3, pixel_scale_arcsec=SCALE)
    politeness = Politeness(requests_per_s=10_000, connections=connections, cache_mb=0)
    source = Hips2fitsSource(
        spec, Preparation(image_size=SIZE), Client(spec.text, spec.servers, politeness, folder), 0.2
    )

    def run() -> None:
        assert all(isinstance(answer, Cutout) for _, answer in source.fetch(requests))

    return run


if __name__ == "__main__":
    main()
