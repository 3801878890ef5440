"""Connections end when the headers of a reply drip for longer than a whole reply may take."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

LOOK_S = 0.1
"""Between looks at the connections that wait for headers."""


class Watch:
    """One thread that looks after all connections of a process: a timer each would cost more than the request."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[float, socket.socket]] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def over(self, connected: socket.socket, seconds: float) -> Iterator[None]:
        """Shut a connection down if this lasts longer.

        Raises
        ------
        TimeoutError
            It did.
        """
        number = next(self._numbers)
        with self._lock:
            self._waiting[number] = (time.monotonic() + seconds, connected)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                in_time = self._waiting.pop(number, None) is not None
        if not in_time:
            raise TimeoutError("the headers of a reply were not whole in time")

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_S)
            now = time.monotonic()
            with self._lock:
                late = [number for number, (deadline, _) in self._waiting.items() if deadline < now]
                for number in late:
                    _, connected = self._waiting.pop(number)
                    with contextlib.suppress(OSError):
                        connected.shutdown(socket.SHUT_RDWR)


WATCH = Watch()


class _HeadersInTime:
    deadline_s: float
    sock: socket.socket

    def getresponse(self) -> Any:
        with WATCH.over(self.sock, self.deadline_s):
            return super().getresponse()  # type: ignore[misc]


def pools(deadline_s: float) -> dict[str, type[HTTPConnectionPool]]:
    """Return classes of connection pools by scheme, whose connections read headers in time."""
    bounds = {"deadline_s": deadline_s}
    plain = type("Connection", (_HeadersInTime, HTTPConnection), bounds)
    secure = type("SecureConnection", (_HeadersInTime, HTTPSConnection), bounds)
    return {
        "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }
