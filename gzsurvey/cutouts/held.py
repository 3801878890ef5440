"""What the threads of a block need in common: fetched by the first of them, kept for the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, TypeVar

from gzsurvey.errors import GZSurveyError

T = TypeVar("T")


class Held(Generic[T]):
    """Results by key, the last used kept.

    Parameters
    ----------
    limit : int
        How many, at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._futures: dict[Hashable, Future[T]] = {}
        self._lock = threading.Lock()

    def future(self, key: Hashable, start: Callable[[], Future[T]]) -> Future[T]:
        """Return what was started for a key, or start it."""
        with self._lock:
            known = self._futures.pop(key, None)
            self._futures[key] = future = start() if known is None else known
            while len(self._futures) > self._limit:
                self._futures.pop(next(iter(self._futures)))
            return future

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` returned for a key, or raise what it raised; other threads wait for the first."""
        mine: Future[T] = Future()
        future = self.future(key, lambda: mine)
        if future is mine:
            try:
                mine.set_result(make())
            except GZSurveyError as error:
                mine.set_exception(error)
            finally:
                mine.cancel()  # nothing where it is done; else threads would wait for ever
        return future.result()

    def forget(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._futures.clear()

    def forget_failures(self) -> None:
        """Keep only what was a success, or is not done."""
        with self._lock:
            self._futures = {
                key: future
                for key, future in self._futures.items()
                if not future.done() or not (future.cancelled() or future.exception())
            }


class Visits:
    """How many threads are at work on a source: a block begins when the first one comes.

    Parameters
    ----------
    begin : callable
        Called then.
    """

    def __init__(self, begin: Callable[[], None]) -> None:
        self._begin = begin
        self._inside = 0
        self._lock = threading.Lock()

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Be at work."""
        with self._lock:
            if not self._inside:
                self._begin()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
