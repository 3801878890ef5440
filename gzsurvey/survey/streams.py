"""Several iterators pulled side by side."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")
_LOOK_SECONDS = 0.05
"""Between looks whether the other side has stopped."""


def merged(streams: Sequence[Iterator[T]], threads: int, ahead: int) -> Iterator[T]:
    """Yield what several iterators yield, each in its own order, pulled by threads.

    Parameters
    ----------
    streams : sequence of iterators
        Each is pulled by one thread at a time.
    threads : int
        How many are pulled side by side; one: one after the other, in the caller's thread.
    ahead : int
        Items that wait for the caller at most.

    Raises
    ------
    Exception
        The first error of a stream; the others are left where they are.
    """
    if threads == 1:
        for stream in streams:
            yield from stream
        return
    items: queue.Queue[T] = queue.Queue(ahead)
    stop = threading.Event()
    with ThreadPoolExecutor(threads, thread_name_prefix="fetch") as pool:
        try:
            yield from _items(items, [pool.submit(_pull, stream, items, stop) for stream in streams], stop)
        finally:
            stop.set()


def in_order(work: Callable[[S], T], items: Iterable[S], threads: int) -> Iterator[T]:
    """Yield what `work` makes of each item, in their order, while threads are at the next ones.

    Parameters
    ----------
    work : callable
        Takes an item; called by several threads at a time.
    items : iterable
        Taken one by one.
    threads : int
        Calls side by side at most. As many results wait for the caller, finished or not.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads - 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _items(items: queue.Queue[T], futures: list[Future[None]], stop: threading.Event) -> Iterator[T]:
    pulling = futures
    while (pulling or not items.empty()) and not stop.is_set():
        try:
            yield items.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            pulling = [future for future in pulling if not future.done()]
    for future in futures:
        future.result()


def _pull(stream: Iterator[T], items: queue.Queue[T], stop: threading.Event) -> None:
    try:
        for item in stream:
            while not stop.is_set():
                try:
                    items.put(item, timeout=_LOOK_SECONDS)
                    break
                except queue.Full:
                    continue
            if stop.is_set():
                return
    except BaseException:
        stop.set()
        raise
