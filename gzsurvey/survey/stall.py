"""Notices a run in which nothing moves any more, and says where."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gzsurvey.progress import Progress, duration
from gzsurvey.survey.activity import Activity, activities

LOOK_SECONDS = 10.0
"""Between looks at what each worker says."""
NAMED = 5
"""Workers that are named in one warning."""


@dataclass
class StallWatch:
    """Watches the workers of one session.

    Parameters
    ----------
    run : Path
        The RUN.
    session : str
        Whose workers.
    patience_s : float
        Seconds without a step forward that are no stall.
    """

    run: Path
    session: str
    patience_s: float
    in_work: int = 0
    """Targets of unfinished blocks that had their answer at the last look."""
    _moved: float = field(default_factory=time.monotonic)
    _looked: float = field(default_factory=time.monotonic)
    _steps: Mapping[str, tuple[int, int, int, str]] = field(default_factory=dict)

    def look(self, finished: int, workers: int) -> None:
        """Say what stands still, once for each spell of `patience_s`.

        Parameters
        ----------
        finished : int
            Blocks that came back since the last look.
        workers : int
            Processes there are now.
        """
        now = time.monotonic()
        if finished:
            self._moved = now
        if now - self._looked < min(LOOK_SECONDS, self.patience_s):
            return
        self._looked = now
        said = [about for about in activities(self.run) if about.session == self.session]
        self.in_work = sum(about.answered for about in said)
        steps = {about.worker: (about.block, about.attempt, about.answered, about.stage) for about in said}
        if steps != self._steps:
            self._steps, self._moved = steps, now
        if now - self._moved >= self.patience_s:
            Progress.say(f"classify: nothing has moved for {duration(now - self._moved)}: {_where(said, workers)}")
            self._moved = now


def _where(said: list[Activity], workers: int) -> str:
    if not said:
        return f"{workers} workers have taken no block; look at the cluster, or interrupt and repeat the command"
    still = sorted(said, key=Activity.still_seconds, reverse=True)
    more = f"; and {len(still) - NAMED} more" if len(still) > NAMED else ""
    return "; ".join(map(str, still[:NAMED])) + more
