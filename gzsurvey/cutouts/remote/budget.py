"""How often each host may be asked, by all threads of this process together."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class HostBudget:
    """Evenly spaced requests to one host, and pauses that it asks for."""

    requests_per_s: float
    """Of all workers together."""
    workers: int = 1
    """Processes that share the rate; this one takes its part."""
    _free_at: float = 0.0
    _paused_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self) -> None:
        """Return when the host may be asked once more."""
        while (start := self._reserve()) > time.monotonic():
            time.sleep(max(start - time.monotonic(), 0.0))
            if self._paused_until <= time.monotonic():
                return

    def pause(self, seconds: float) -> None:
        """Ask nothing of the host for a while, whatever was reserved."""
        with self._lock:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def _reserve(self) -> float:
        with self._lock:
            start = max(time.monotonic(), self._free_at, self._paused_until)
            self._free_at = start + self.workers / self.requests_per_s
            return start


class Hosts:
    """The budgets of a process, by host: two sources on one host share one."""

    def __init__(self) -> None:
        self._budgets: dict[str, HostBudget] = {}
        self._workers: int | None = None
        self._lock = threading.Lock()

    def budget(self, url: str, requests_per_s: float) -> HostBudget:
        """Return the budget of an address's host; of two rates the lower holds."""
        host = urlsplit(url).netloc.rpartition("@")[2].lower()
        with self._lock:
            budget = self._budgets.setdefault(host, HostBudget(requests_per_s, self._workers or 1))
            budget.requests_per_s = min(budget.requests_per_s, requests_per_s)
            return budget

    def share(self, workers: int) -> None:
        """Split every rate among so many processes, of which this is one."""
        with self._lock:
            self._workers = workers
            for budget in self._budgets.values():
                budget.workers = workers

    def assume(self, workers: int) -> None:
        """Split rates as `share`, until that is called: what a block was handed out with may be out of date."""
        if self._workers is None:
            self.share(workers)


HOSTS = Hosts()
"""Of this process: a host does not care which source asks."""
