"""Iterators pulled side by side: everything arrives, errors too, and nobody runs ahead."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

import pytest

from gzsurvey.survey.streams import merged


def counted(start: int, n: int = 20) -> Iterator[int]:
    yield from range(start, start + n)


@pytest.mark.parametrize("threads", [1, 3])
def test_everything_arrives_once_and_each_stream_in_order(threads: int) -> None:
    found = list(merged([counted(100 * k) for k in range(7)], threads, ahead=5))
    assert sorted(found) == sorted(number for k in range(7) for number in counted(100 * k))
    for k in range(7):
        own = [number for number in found if number // 100 == k]
        assert own == sorted(own)


def test_streams_are_pulled_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=20)

    def meets() -> Iterator[int]:
        yield meeting.wait()

    assert sorted(merged([meets() for _ in range(3)], 3, ahead=3)) == [0, 1, 2]


def test_an_error_reaches_the_caller_and_ends_the_others() -> None:
    def fails() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    def endless() -> Iterator[int]:
        while True:
            yield 0

    with pytest.raises(ValueError, match="broken"):
        deque(merged([fails(), endless()], 2, ahead=2), maxlen=0)


def test_no_stream_runs_ahead_of_the_caller() -> None:
    pulled = []

    def watched() -> Iterator[int]:
        for number in range(1000):
            pulled.append(number)
            yield number

    stream = merged([watched(), watched()], 2, ahead=4)
    next(stream)
    time.sleep(0.3)
    stream.close()
    assert len(pulled) <= 4 + 2 + 2
