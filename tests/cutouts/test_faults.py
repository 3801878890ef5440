"""Two thousand targets from a service of which every fifth answer is a fault."""

from __future__ import annotations

import resource
from bisect import bisect_left
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from loopback import Query, Services, Sky, fits_bytes, serving, tan_wcs

from gzsurvey.cutouts.hips2fits import Hips2fitsSource
from gzsurvey.cutouts.remote.client import Client
from gzsurvey.cutouts.source import Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.images.frame import Frame
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.remote import Politeness
from gzsurvey.status import Status

TARGETS, SIZE, SCALE, RA, DEC = 2000, 64, 0.262, 150.0, 2.0
FAULTS = {
    "500": 0.062, "html": 0.04, "cut": 0.03, "corrupt": 0.03, "redirect": 0.01, "huge": 0.01, "hang": 0.008,
    "drip": 0.007, "429": 0.002, "503": 0.001,
}  # fmt: skip
HOPELESS = frozenset({17, 500, 1234})
"""Targets that the service never gives."""
POLITE = Politeness(
    requests_per_s=400, connections=8, tries=5, backoff_s=0.02, timeout_s=0.8, deadline_s=1.2, max_mb=1, cache_mb=0
)  # fmt: skip
STEP_DEG = 1e-11
"""Between targets: the service tells them apart, one image fits all."""


def target_of(query: Query) -> int:
    return round((float(query["ra"]) - RA) / STEP_DEG)


@pytest.mark.long
def test_two_thousand_targets_through_a_fifth_of_faults(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    drawn = rng.choice(["", *FAULTS], 3 * TARGETS, p=[1 - sum(FAULTS.values()), *FAULTS.values()])
    assert sum(FAULTS.values()) == pytest.approx(0.2)

    def fault(number: int, path: str, query: Query) -> str:
        return "500" if target_of(query) in HOPELESS else str(drawn[number])

    wcs = tan_wcs(RA, DEC, SCALE, SIZE)
    body = fits_bytes(rng.normal(0, 1, (SIZE, SIZE)).astype(np.float32), wcs.to_header())
    with serving(Services(Sky({}, wcs), fault=fault, replies={"/hips2fits": body})) as services:
        spec = SourceSpec(
            f"hips2fits:S/P/r@{services.url}/hips2fits", ("r",) * 3, (22.5,) * 3, pixel_scale_arcsec=SCALE
        )
        client = Client(spec.text, spec.servers, POLITE, tmp_path)
        source = Hips2fitsSource(spec, Preparation(image_size=SIZE), client, 0.2)
        requests = [Request(n, str(n), RA + n * STEP_DEG, DEC, Frame(SIZE, SCALE)) for n in range(TARGETS)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        misses = {row: answer for row, answer in source.fetch(requests) if isinstance(answer, Miss)}
        grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    asked = defaultdict(list)
    for seen in services.log:
        asked[target_of(seen.query)].append(seen.fault)

    assert set(misses) >= HOPELESS
    assert len(set(misses) - HOPELESS) <= 0.005 * TARGETS
    assert all(miss.status in (Status.SOURCE_FAILED, Status.UNREADABLE) for miss in misses.values())
    assert misses[17].reason == "500 Internal Server Error (5 tries)"
    for target, faults in asked.items():
        tries = [fault for fault in faults if fault != "redirect"]
        assert all(tries[:-1]), (target, faults)
        assert (tries[-1] == "") == (target not in misses)
        assert len(tries) <= POLITE.tries
    assert len(asked) == TARGETS
    assert set(Counter(seen.fault for seen in services.log)) == {"", *FAULTS}
    assert len(services.open_connections) < 0.2 * len(services.log)
    times = sorted(seen.time for seen in services.log)
    busiest = max(bisect_left(times, start + 1) - number for number, start in enumerate(times))
    assert busiest <= POLITE.requests_per_s * 1.05 + POLITE.connections
    # All cutouts together hold 98 MB.
    assert grown_mb < 60
