"""Dask clusters: started on this machine, in jobs of a batch system, or running already."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gzsurvey.errors import ClusterError
from gzsurvey.progress import Progress
from gzsurvey.recipes.cluster import ClusterProfile

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""A scheduler that runs answers at once."""
PAGES: dict[str, Any] = {"dashboard": True, "dashboard_address": "127.0.0.1:0"}
"""Options of a scheduler that shows Dask's own pages, where bokeh is installed, to this machine alone."""
KEEP_SECONDS = 5.0
"""Between looks at a place without workers."""
RETRIES = 3
"""Of a connection within the cluster; Dask's default is none."""


class Keeper(Protocol):
    """Sees to it that workers are there."""

    def keep(self, names: Collection[str]) -> None:
        """Replace what has ended, given the names of the workers there are; `ClusterError` where that is no use."""
        ...


class Nobody:
    """Keeps nothing: workers come and go as they like, or are restarted by their nannies."""

    def keep(self, _names: Collection[str]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Place:
    """A Dask cluster that is connected."""

    client: Any
    name: str
    """As messages call it."""
    remedy: str
    """What to do when there are no workers."""
    keeper: Keeper = field(default_factory=Nobody)

    @property
    def dashboard(self) -> str:
        """Address of Dask's own page about the cluster; empty where it has none."""
        import requests

        try:
            link = str(self.client.dashboard_link)
            return link if requests.get(link, timeout=CONNECT_SECONDS).ok else ""
        except (KeyError, requests.RequestException):
            return ""

    @property
    def workers(self) -> dict[str, dict[str, Any]]:
        """What the scheduler knows of each worker, by address."""
        found: dict[str, dict[str, Any]] = self.client.scheduler_info(n_workers=-1)["workers"]
        return found

    def keep(self, workers: dict[str, dict[str, Any]]) -> None:
        """Replace what has ended."""
        self.keeper.keep({str(about["name"]) for about in workers.values()})

    def wait_for_worker(self, seconds: float) -> None:
        """Return when there is a worker.

        Raises
        ------
        gzsurvey.errors.ClusterError
            There is none after so long, or none will come.
        """
        deadline = time.monotonic() + seconds
        while not (found := self.workers):
            if time.monotonic() > deadline:
                raise ClusterError(self.name, f"has no worker after {seconds:.0f} s; {self.remedy}")
            self.keep(found)
            try:
                self.client.wait_for_workers(1, timeout=min(KEEP_SECONDS, seconds))
            except TimeoutError:
                continue


@contextmanager
def running(profile: ClusterProfile, _run: Path) -> Iterator[Place]:
    """Connect to a scheduler that runs already."""
    from distributed import Client

    address = profile.address or ""
    try:
        client = Client(address, timeout=min(profile.wait_seconds, CONNECT_SECONDS))  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        problem = f"no Dask scheduler answers ({type(error).__name__}); start one with 'dask scheduler'"
        raise ClusterError(address, problem) from None
    with client:
        yield Place(client, address, f"start some with 'dask worker {address}'")


@contextmanager
def local(profile: ClusterProfile, _run: Path) -> Iterator[Place]:
    """Start processes on this machine."""
    from distributed import Client, LocalCluster

    with deaf_to_ctrl_c():
        cluster = LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=profile.expected_workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        )
    with cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
        yield Place(client, "the local cluster", "is this machine overloaded? Try --cluster none")


@contextmanager
def one_per_gpu(profile: ClusterProfile, _run: Path) -> Iterator[Place]:
    """Start a process for each GPU of this machine, which sees no other."""
    from distributed import Client, Nanny, Scheduler, SpecCluster

    devices = profile.gpus
    if not devices:
        raise ClusterError("--cluster gpus", "finds no GPU here; name them under 'devices' of a profile, or use laptop")
    common = {"nthreads": 1, "resources": {"GPU": 1}, "host": "127.0.0.1", "memory_limit": 0, "dashboard": False,
              "silence_logs": logging.CRITICAL}  # fmt: skip
    workers = {
        f"gpu-{device}": {"cls": Nanny, "options": common | {"env": {"CUDA_VISIBLE_DEVICES": device}}}
        for device in devices[: profile.workers]
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1"} | PAGES}
    with deaf_to_ctrl_c():
        cluster = SpecCluster(workers, scheduler, silence_logs=logging.CRITICAL)  # type: ignore[no-untyped-call]
    with cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
        yield Place(client, "the GPUs of this machine", "see whether 'gzsurvey doctor' finds them")


def say(line: str) -> None:
    """Tell the user, and the log."""
    logger.warning(line)
    Progress.say(line)


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """Let processes started in here ignore Ctrl-C: the terminal sends it to all, one is to end the others."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
