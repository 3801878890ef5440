"""What each worker is doing: one small file per worker, read from any shell, also after its death."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from gzsurvey.outputs.paths import RunPaths
from gzsurvey.progress import timed
from gzsurvey.recipes.base import Section
from gzsurvey.survey.part import Part

WRITE_SECONDS = 5.0
"""Between two notes of one worker: a thousand workers write 200 small files a second."""
Stage = Literal["opening model and sources", "fetching and predicting", "writing"]
T = TypeVar("T")


class Activity(Section):
    """One worker at work on one block."""

    worker: str
    session: str
    block: int
    attempt: int
    stage: Stage
    rows: int
    """Of the block."""
    answered: int = 0
    """Of these so far: pixels or a reason."""
    since: datetime
    """When the block was begun, UTC."""
    moved: datetime
    """When it last went forward, UTC."""

    def __str__(self) -> str:
        how_far = f", {self.answered:,} of {self.rows:,} answered" if self.answered else ""
        return f"{self.worker}: block {self.block}, {self.stage}{how_far}"

    def still_seconds(self, now: datetime | None = None) -> float:
        """Seconds without a step forward."""
        return ((now or datetime.now(UTC)) - self.moved).total_seconds()


def worker_name() -> str:
    """Return the name of this process in a cluster: host and process."""
    return f"{socket.gethostname()}-{os.getpid()}"


def nothing() -> None:
    """Look at nothing."""


@dataclass
class Reporter:
    """Keeps the file of this worker while it works on one block.

    Parameters
    ----------
    run : Path
        The RUN.
    session : str
        Which call of `run`.
    block, attempt, rows : int
        What is worked on.
    look : callable
        Called whenever the file is written.
    """

    run: Path
    session: str
    block: int
    attempt: int
    look: Callable[[], None] = nothing
    rows: int = 0
    answered: int = 0
    seconds_waiting: float = 0.0
    """Spent in `watch` on the next answer."""
    _stage: Stage = "opening model and sources"
    _since: datetime = field(default_factory=lambda: datetime.now(UTC))
    _written: float = 0.0

    def enter(self, stage: Stage) -> None:
        """Begin a part of the work."""
        self._stage = stage
        self._write()

    def watch(self, answers: Iterable[T]) -> Iterator[T]:
        """Yield answers, counting them, and the time spent in waiting for each."""
        for seconds, answer in timed(answers):
            self.seconds_waiting += seconds
            self.answered += 1
            if time.monotonic() - self._written >= WRITE_SECONDS:
                self._write()
            yield answer

    def leave(self) -> None:
        """Say that this worker has nothing to do."""
        self._file.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return RunPaths(self.run).activity(worker_name())

    def _write(self) -> None:
        self._written = time.monotonic()
        now = Activity(
            worker=worker_name(), session=self.session, block=self.block, attempt=self.attempt, stage=self._stage,
            rows=self.rows, answered=self.answered, since=self._since, moved=datetime.now(UTC),
        )  # fmt: skip
        try:
            self._file.parent.mkdir(exist_ok=True)
            aside = self._file.with_suffix(".tmp")
            aside.write_text(now.model_dump_json(), encoding="utf-8")
            aside.replace(self._file)
        except OSError:
            return  # a note that cannot be written stops no work; the block says what is wrong with the disk
        self.look()


def activities(run: Path) -> list[Activity]:
    """Return what each worker last said, by name; those that finished their block say nothing."""
    found = []
    for path in sorted(RunPaths(run).activities.glob("*.json")):
        try:
            found.append(Activity.model_validate_json(path.read_text(encoding="utf-8")))
        except (OSError, ValidationError, UnicodeDecodeError):
            continue
    return found


def forget(run: Path, part: Part) -> None:
    """Remove what workers that are gone said of the blocks of a part."""
    for about in activities(run):
        if about.block in part:
            RunPaths(run).activity(about.worker).unlink(missing_ok=True)
