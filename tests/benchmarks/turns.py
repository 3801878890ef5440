"""How contestants of a benchmark take turns: each a process of its own, waiting while another one runs.

Imported by every contestant, whichever interpreter runs it: torch is all it needs.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 2
"""Steps before the first turn."""


def measure(step: Callable[[], object], wait: Callable[[], object], steps: int) -> dict[str, float]:
    """Time some steps, and count the page faults they took."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "steps": steps,
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "faults": after.ru_minflt - before.ru_minflt,
        "peak_mb": after.ru_maxrss / 1024,
    }


def take_turns(step: Callable[[], object], wait: Callable[[], object], about: dict[str, Any]) -> None:
    """Say what this contestant is, then run as many steps as each line of stdin asks for."""
    measure(step, wait, WARM_UP)
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(step, wait, int(line))), flush=True)
