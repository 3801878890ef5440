"""Workers that take blocks: this process, or those of a Dask scheduler."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from gzsurvey.cutouts.remote.budget import HOSTS
from gzsurvey.errors import ClusterError
from gzsurvey.recipes.cluster import ClusterProfile
from gzsurvey.survey.cluster.fitness import unfit
from gzsurvey.survey.cluster.places import Place, say
from gzsurvey.survey.worker import BlockSummary, BlockTask, process

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

    def submit(self, task: BlockTask, elsewhere_than: str, look: Callable[[], None], /) -> Future[BlockSummary]:
        """Hand out a block, to another worker than one that failed where there is another.

        Where the block is worked on before this returns, `look` is called every few seconds.
        """
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

    def submit(self, task: BlockTask, _elsewhere_than: str, look: Callable[[], None], /) -> Future[BlockSummary]:
        """Work on a block now; an interruption leaves this function."""
        future: Future[BlockSummary] = Future()
        future.set_result(process(task, look))
        return future

    def check(self) -> None:
        """Do nothing: this process is here."""


class DaskPool:
    """The workers of a Dask scheduler.

    Parameters
    ----------
    place : Place
        The cluster.
    profile : ClusterProfile
        How many blocks to hand out, and to whom.
    run : Path
        The RUN.
    """

    def __init__(self, place: Place, profile: ClusterProfile, run: Path) -> None:
        self.place, self._profile, self._run = place, profile, run
        self._found = place.workers
        self._received = set(self._found)
        self._looked = time.monotonic()
        self._told = 0
        retrieval = profile.retrieval
        self._options = {} if retrieval is None else {"resources": {retrieval.inference_resource: 1}}

    @property
    def workers(self) -> int:
        """Processes that predict now."""
        return max(len(self.predicting), 1)

    @property
    def fetching(self) -> int:
        """Processes that fetch now."""
        retrieval = self._profile.retrieval
        return self.workers if retrieval is None else max(len(self._having(retrieval.resource)), 1)

    @property
    def predicting(self) -> set[str]:
        """Addresses of the processes that predict."""
        retrieval = self._profile.retrieval
        return set(self._workers()) if retrieval is None else self._having(retrieval.inference_resource)

    @property
    def window(self) -> int:
        """Blocks to hand out at a time: a few per worker, however many there are now."""
        return self._profile.tasks_per_worker * self.workers

    def wait_for_both(self, seconds: float) -> None:
        """Return when there are workers that predict and, where these do not fetch, workers that do.

        Raises
        ------
        gzsurvey.errors.ClusterError
            One kind is missing after so long; says how to start it.
        """
        retrieval, deadline = self._profile.retrieval, time.monotonic() + seconds
        if retrieval is None:
            return
        for resource in (retrieval.inference_resource, retrieval.resource):
            while not self._having(resource):
                if time.monotonic() > deadline:
                    problem = f"no worker has the resource {resource}; start some with --resources {resource}=1"
                    raise ClusterError(self.place.name, problem)
                time.sleep(1.0)

    def submit(self, task: BlockTask, elsewhere_than: str, _look: Callable[[], None], /) -> Future[BlockSummary]:
        """Hand out a block, to another worker than one that failed where there is another."""
        others = [worker for worker in self.predicting if worker != elsewhere_than]
        place = {"workers": others, "allow_other_workers": True} if elsewhere_than and others else {}
        executor = self.place.client.get_executor(pure=False, **self._options, **place)
        future: Future[BlockSummary] = executor.submit(process_on_worker, task)
        return future

    def check(self) -> None:
        """See who is there: examine who has joined, split rates anew, replace who has left.

        Raises
        ------
        gzsurvey.errors.ClusterError
            The scheduler is gone, or no worker can come any more.
        """
        client, place = self.place.client, self.place
        if client.status in {"closed", "closing"} or not client.scheduler:
            raise ClusterError(place.name, "its scheduler is gone; start it, then repeat the command")
        here = self._workers()
        place.keep(here)
        if not here and self._received:
            say(f"{place.name}: has no worker now; {place.remedy}")
        joined = sorted(set(here) - self._received)
        if set(here) != self._received or self.fetching != self._told:
            self._received, self._told = set(here), self.fetching
            # A worker that hangs answers late or never, and must not hold up the others.
            threading.Thread(target=self._receive, args=(joined, self._told), daemon=True).start()

    def _receive(self, joined: list[str], fetching: int) -> None:
        """Tell every worker its share of rates, and send away those who joined and cannot do the work."""
        client = self.place.client
        with contextlib.suppress(OSError, RuntimeError):
            client.run(share, fetching, on_error="ignore")
            found = unfit(client, self._run, self.predicting, joined) if joined else {}
            for problem in found.values():
                say(f"{self.place.name}: {problem}; it is sent away")
            if found:
                client.retire_workers(list(found), close_workers=True)

    def _having(self, resource: str) -> set[str]:
        return {worker for worker, about in self._workers().items() if resource in (about.get("resources") or {})}

    def _workers(self) -> dict[str, dict[str, Any]]:
        """Return what is known of every worker, asked of the scheduler at most every few seconds."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._found, self._looked = self.place.workers, time.monotonic()
        return self._found


def process_on_worker(task: BlockTask) -> BlockSummary:
    """Process a block, and say which worker did."""
    from distributed import get_worker

    return replace(process(task), worker=str(get_worker().address))


def share(workers: int) -> None:
    """Split the rates of hosts among so many processes, of which this is one."""
    HOSTS.share(workers)
