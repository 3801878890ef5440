"""Progress of long work: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

Item = TypeVar("Item")


class Progress:
    """Says how far a piece of work is, how fast, and when it ends.

    Parameters
    ----------
    label : str
        What is being done, e.g. ``"simulate"``.
    total : int
        Number of items; 0 if unknown.
    unit : str
        What an item is, in the plural.
    stream : file, optional
        Where to write; standard error by default.
    """

    quiet = False
    """Set once by the CLI's ``--quiet``."""

    def __init__(self, label: str, total: int, unit: str, stream: TextIO | None = None) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done, self._said = 0, -1
        self._stream = stream or sys.stderr
        self._started = self._shown = time.monotonic()
        self._every = 0.2 if self._stream.isatty() else 10.0

    @classmethod
    def say(cls, text: str) -> None:
        """Write one line to standard error, unless quiet."""
        if not cls.quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def advance(self, items: int = 1, note: str = "") -> None:
        """Count `items` more as done; `note` is shown behind the numbers."""
        self.done += items
        now = time.monotonic()
        if now - self._shown >= self._every:
            self._shown = now
            self._write(note)

    def finish(self, note: str = "") -> None:
        """Show the last line, unless it was just shown."""
        if self._said != self.done:
            self._write(note)
        if self._stream.isatty() and not self.quiet:
            self._stream.write("\n")

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield `items`, counting each as done after it was used."""
        for item in items:
            yield item
            self.advance()
        self.finish()

    def _write(self, note: str) -> None:
        if self.quiet:
            return
        self._said = self.done
        elapsed = time.monotonic() - self._started
        rate = self.done / elapsed if elapsed > 0 else 0.0
        share = f" {100 * self.done / self.total:.0f}%" if self.total else ""
        left = self.total - self.done
        eta = f", {duration(left / rate)} left" if left > 0 and rate > 0 else f", {duration(elapsed)}"
        of = f"/{self.total:,}" if self.total else ""
        text = f"{self.label}:{share} {self.done:,}{of} {self.unit}, {rate:,.1f}/s{eta}{', ' + note if note else ''}"
        self._stream.write(f"\r\x1b[K{text}" if self._stream.isatty() else text + "\n")
        self._stream.flush()


def timed(items: Iterable[Item]) -> Iterator[tuple[float, Item]]:
    """Yield each item with the seconds it was waited for."""
    source = iter(items)
    while True:
        asked = time.perf_counter()
        try:
            item = next(source)
        except StopIteration:
            return
        yield time.perf_counter() - asked, item


def is_first_process() -> bool:
    """Whether this process reports to the user: torchrun starts several, and numbers them."""
    return os.environ.get("RANK", "0") == "0"


def duration(seconds: float) -> str:
    """Return `seconds` as a short text: ``42s``, ``3m10s``, ``5h02m``, ``12d03h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 4 * 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02d}h"
