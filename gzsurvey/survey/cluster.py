"""Where blocks are worked on: this process, a Dask cluster started here, or one that runs already."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from gzsurvey.errors import ClusterError
from gzsurvey.recipes.cluster import ClusterProfile
from gzsurvey.survey.part import WHOLE, Part
from gzsurvey.survey.worker import BlockSummary, BlockTask, process

CONNECT_SECONDS = 10.0
"""A scheduler that runs answers at once."""
NOISY = ("distributed", "distributed.client", "tornado.application", "tornado.general", "asyncio")
"""Loggers that print tracebacks of their own when a scheduler goes; `DaskPool.check` says it in a line."""
LOOK_SECONDS = 5.0
"""Between looks at who the workers are."""


class Pool(Protocol):
    """Workers that take blocks."""

    @property
    def workers(self) -> int:
        """Processes there are now."""
        ...

    @property
    def fetching(self) -> int:
        """Of these, the processes that fetch: they share what a host may be asked for."""
        ...

    @property
    def window(self) -> int:
        """Blocks to hand out at a time."""
        ...

    def submit(self, task: BlockTask, elsewhere_than: str, /) -> Future[BlockSummary]:
        """Hand out a block, to another worker than one that failed where there is another."""
        ...

    def check(self) -> None:
        """Raise `ClusterError` where the workers cannot be reached any more."""
        ...


class SerialPool:
    """One block at a time in this process: for debugging, for small jobs, for one part of several.

    Parameters
    ----------
    processes : int
        How many such processes there are: they share what hosts may be asked for.
    """

    window = 1

    def __init__(self, processes: int = 1) -> None:
        self.workers = self.fetching = processes

    def submit(self, task: BlockTask, _elsewhere_than: str, /) -> Future[BlockSummary]:
        """Work on a block now; an interruption leaves this function."""
        future: Future[BlockSummary] = Future()
        future.set_result(process(task))
        return future

    def check(self) -> None:
        """Do nothing: this process is here."""


class DaskPool:
    """The workers of a Dask scheduler.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    profile : ClusterProfile
        How many blocks to hand out.
    """

    def __init__(self, client: Any, profile: ClusterProfile) -> None:
        self._client, self._profile = client, profile
        self._found: dict[str, set[str]] = {}
        self._looked = -LOOK_SECONDS
        retrieval = profile.retrieval
        self._options = {} if retrieval is None else {"resources": {retrieval.inference_resource: 1}}

    @property
    def workers(self) -> int:
        """Processes that predict now."""
        return max(len(self._predicting()), 1)

    @property
    def fetching(self) -> int:
        """Processes that fetch now."""
        retrieval = self._profile.retrieval
        return self.workers if retrieval is None else max(len(self._having(retrieval.resource)), 1)

    def submit(self, task: BlockTask, elsewhere_than: str, /) -> Future[BlockSummary]:
        """Hand out a block, to another worker than one that failed where there is another."""
        others = [worker for worker in self._predicting() if worker != elsewhere_than]
        place = {"workers": others, "allow_other_workers": True} if elsewhere_than and others else {}
        executor = self._client.get_executor(pure=False, **self._options, **place)
        future: Future[BlockSummary] = executor.submit(process_on_worker, task)
        return future

    def _predicting(self) -> set[str]:
        retrieval = self._profile.retrieval
        return set(self._workers()) if retrieval is None else self._having(retrieval.inference_resource)

    def _having(self, resource: str) -> set[str]:
        return {worker for worker, resources in self._workers().items() if resource in resources}

    def _workers(self) -> dict[str, set[str]]:
        """Return every worker with its resources, asked of the scheduler at most every few seconds."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            known = self._client.scheduler_info(n_workers=-1)["workers"]
            self._found = {address: set(about.get("resources") or {}) for address, about in known.items()}
            self._looked = time.monotonic()
        return self._found

    @property
    def window(self) -> int:
        """Blocks to hand out at a time: a few per worker, however many there are now."""
        return self._profile.tasks_per_worker * self.workers

    def check(self) -> None:
        """Raise `ClusterError` where the scheduler is gone."""
        if self._client.status in {"closed", "closing"} or not self._client.scheduler:
            raise ClusterError(
                self._profile.address or "the local cluster", "its scheduler is gone; start it, then repeat the command"
            )


@contextmanager
def open_pool(profile: ClusterProfile, run: Path, part: Part = WHOLE) -> Iterator[Pool]:
    """Start or reach the workers of a profile, and let them go afterwards.

    Parameters
    ----------
    profile : ClusterProfile
        Where to work.
    run : Path
        The RUN that every worker must see.
    part : Part
        Which part of it this process works on.

    Raises
    ------
    gzsurvey.errors.ClusterError
        There is no scheduler, there are no workers, or they cannot do the work.
    """
    if profile.kind == "none":
        yield SerialPool(part.of)
        return
    with _client(profile) as client:
        _check_workers(client, profile, run)
        yield DaskPool(client, profile)


@contextmanager
def _client(profile: ClusterProfile) -> Iterator[Any]:
    import dask
    from distributed import Client, LocalCluster

    quiet = {"distributed.worker.daemon": True, "distributed.comm.retry.count": 3, "distributed.admin.log-length": 100}
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with dask.config.set(quiet):
        if profile.kind == "address":
            with _reached(Client, profile) as client:
                yield client
            return
        with _deaf_to_ctrl_c():
            cluster = LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=profile.expected_workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                memory_limit=0,
                silence_logs=logging.CRITICAL,
            )
        with cluster, Client(cluster) as client:  # type: ignore[no-untyped-call]
            yield client


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Let processes started in here ignore Ctrl-C: the terminal sends it to all, one is to end the others."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _reached(client_class: Any, profile: ClusterProfile) -> Iterator[Any]:
    address = profile.address or ""
    try:
        client = client_class(address, timeout=min(profile.wait_seconds, CONNECT_SECONDS))
    except (OSError, TimeoutError, ValueError) as error:
        problem = f"no Dask scheduler answers ({type(error).__name__}); start one with 'dask scheduler'"
        raise ClusterError(address, problem) from None
    with client:
        yield client


def _check_workers(client: Any, profile: ClusterProfile, run: Path) -> None:
    where = profile.address or "the local cluster"
    try:
        client.wait_for_workers(1, timeout=profile.wait_seconds)
    except TimeoutError:
        problem = f"has no worker after {profile.wait_seconds:.0f} s; start some with 'dask worker {where}'"
        raise ClusterError(where, problem) from None
    try:
        found = client.run(_look_around, str(run.resolve()))
    except (ImportError, AttributeError) as error:
        raise ClusterError(where, f"its workers lack gzsurvey or have another version ({error})") from None
    here = _look_around(str(run.resolve()))
    for worker, (version, sees_run) in found.items():
        if version != here[0]:
            raise ClusterError(where, f"worker {worker} has gzsurvey {version}, this is {here[0]}; install the same")
        if not sees_run:
            raise ClusterError(where, f"worker {worker} does not see {run.resolve()}; RUN must be on a shared disk")


def process_on_worker(task: BlockTask) -> BlockSummary:
    """Process a block, and say which worker did."""
    from distributed import get_worker

    return replace(process(task), worker=str(get_worker().address))


def _look_around(run: str) -> tuple[str, bool]:
    from gzsurvey import __version__
    from gzsurvey.outputs.paths import RunPaths

    return __version__, RunPaths(Path(run)).plan.is_file()
