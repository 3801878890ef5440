"""Where blocks are worked on: this process, a Dask cluster started here, or one that runs already."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from gzsurvey.errors import ClusterError
from gzsurvey.recipes.cluster import ClusterProfile
from gzsurvey.survey.part import WHOLE, Part

CONNECT_SECONDS = 10.0
"""A scheduler that runs answers at once."""
NOISY = ("distributed", "distributed.client", "tornado.application", "tornado.general", "asyncio")
"""Loggers that print tracebacks of their own when a scheduler goes; `DaskPool.check` says it in a line."""
P = ParamSpec("P")
T = TypeVar("T")


class Pool(Protocol):
    """Workers that take blocks."""

    @property
    def executor(self) -> Executor:
        """Takes functions of picklable arguments."""
        ...

    @property
    def workers(self) -> int:
        """Processes there are now."""
        ...

    @property
    def window(self) -> int:
        """Blocks to hand out at a time."""
        ...

    def check(self) -> None:
        """Raise `ClusterError` where the workers cannot be reached any more."""
        ...


class SerialExecutor(Executor):
    """Works on what is submitted at once, in this process."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `fn` now; an interruption leaves this function, other errors wait in the future."""
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class SerialPool:
    """One block at a time in this process: for debugging, for small jobs, for one part of several.

    Parameters
    ----------
    processes : int
        How many such processes there are: they share what hosts may be asked for.
    """

    executor: Executor = SerialExecutor()
    window = 1

    def __init__(self, processes: int = 1) -> None:
        self.workers = processes

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
        self.executor: Executor = client.get_executor(pure=False)

    @property
    def workers(self) -> int:
        """Processes there are now."""
        return max(len(self._client.scheduler_info(n_workers=-1)["workers"]), 1)

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


def _look_around(run: str) -> tuple[str, bool]:
    from gzsurvey import __version__
    from gzsurvey.outputs.paths import RunPaths

    return __version__, RunPaths(Path(run)).plan.is_file()
