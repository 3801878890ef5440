"""Worker processes on this machine: they stop when they are asked to, and end with whoever started them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import ParamSpec, TypeVar

from threadpoolctl import threadpool_limits

THREADS_OF_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def worker_processes(count: int, start: Callable[[], object] | None = None) -> Iterator[ProcessPoolExecutor]:
    """Offer processes; on an error or Ctrl-C they stop at once, or save what they have where their function can.

    They are spawned, have one thread for linear algebra, and leave Ctrl-C to this process. They end even where it is
    killed. A script must call what uses them from under ``if __name__ == "__main__"``.

    Parameters
    ----------
    count : int
        How many.
    start : callable, optional
        What each of them does first.
    """
    others = set(active_children())
    pool = _Workers(count, get_context("spawn"), _begin, (start,))
    try:
        yield pool
    except BaseException:
        _stop(pool, set(active_children()) - others)
        raise
    pool.shutdown()


def _stop(pool: ProcessPoolExecutor, workers: Iterable[BaseProcess]) -> None:
    """Ask workers to stop, and wait for them; Ctrl-C ends the wait, and them."""
    try:
        for worker in workers:
            worker.terminate()
        pool.shutdown(cancel_futures=True)
    except KeyboardInterrupt:
        for worker in workers:
            worker.kill()
        raise


class _Workers(ProcessPoolExecutor):
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return super().submit(_Worker.work, fn, *args, **kwargs)


class _Worker:
    """State of a worker process. Some tasks lie ready before they can be cancelled: these are refused."""

    asked = working = False

    @classmethod
    def ask(cls, _signal: int, _frame: FrameType | None) -> None:
        """Stop: what is worked on, and what would come next."""
        cls.asked = True
        if cls.working:
            raise KeyboardInterrupt

    @classmethod
    def work(cls, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do one task."""
        if cls.asked:
            raise KeyboardInterrupt
        cls.working = True
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt:
            cls.asked = True  # by a function that handles the signal itself
            raise
        finally:
            cls.working = False


def _begin(start: Callable[[], object] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _Worker.ask)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # What is loaded later reads the environment; of what is loaded the limit is set.
    os.environ.update(dict.fromkeys(THREADS_OF_LIBRARIES, "1"))
    threadpool_limits(1)
    if start is not None:
        start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
