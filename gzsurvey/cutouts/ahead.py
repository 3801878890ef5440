"""Answering requests one by one, a few at a time in threads, a bounded number ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from gzsurvey.cutouts.source import Cutout, Miss, Request


def answer_each(
    requests: Sequence[Request], answer: Callable[[Request], Cutout | Miss], threads: int, ahead: int
) -> Iterator[tuple[int, Cutout | Miss]]:
    """Yield ``(request.row, answer)`` for each request, in order.

    Parameters
    ----------
    requests : sequence of Request
        Of one block.
    answer : callable
        Called in several threads.
    threads : int
        How many.
    ahead : int
        Answers waiting to be taken, at most: bounds memory.
    """
    pending: deque[tuple[int, Future[Cutout | Miss]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="cutouts") as pool:
        try:
            for request in requests:
                pending.append((request.row, pool.submit(answer, request)))
                if len(pending) >= ahead:
                    row, future = pending.popleft()
                    yield row, future.result()
            while pending:
                row, future = pending.popleft()
                yield row, future.result()
        finally:
            for _, future in pending:
                future.cancel()
