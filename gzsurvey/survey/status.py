"""How far a run is: read from its ledger, from any shell, also while another process works on it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from gzsurvey.outputs.paths import RunPaths
from gzsurvey.progress import duration
from gzsurvey.status import DESCRIPTIONS, Status
from gzsurvey.survey import ledger
from gzsurvey.survey.activity import Activity, activities
from gzsurvey.survey.record import RunRecord, read_record

SHOWN = 20
"""Workers in a summary."""

_LINE_BYTES = 1024
"""More than a line of metrics has."""


@dataclass(frozen=True)
class Summary:
    """What a run has done so far."""

    run: Path
    targets: int
    blocks: int
    finished: int
    """Blocks with a ledger entry."""
    failed: Mapping[int, str] = field(default_factory=dict)
    """Cause by block, of the blocks that failed."""
    statuses: Mapping[int, int] = field(default_factory=dict)
    """Targets of finished blocks by status."""
    worker_seconds: float = 0.0
    """Spent in finished blocks, summed over workers."""
    galaxies_per_second: float = float("nan")
    """Of the last blocks, all workers together; NaN: unknown."""
    alive: bool = False
    """A process works on it now."""
    already_finished: int = 0
    """Blocks that were finished before this call."""
    workers: tuple[Activity, ...] = ()
    """What those that have a block are doing, or did last."""

    @property
    def unfinished(self) -> int:
        """Blocks without a result."""
        return self.blocks - self.finished

    @property
    def cause(self) -> str:
        """The first failure on record, or what else is known."""
        return next(iter(self.failed.values()), "not worked on yet")

    def __str__(self) -> str:
        done = sum(self.statuses.values())
        lines = [
            f"{self.run}: {self.finished:,} of {self.blocks:,} blocks finished, {done:,} of {self.targets:,} targets"
            + (" (a process works on it now)" if self.alive else "")
        ]
        if self.already_finished:
            lines.append(f"{self.already_finished:,} of {self.blocks:,} blocks were already finished")
        for code, number in sorted(self.statuses.items()):
            lines.append(f"  status {code:2d}  {number:>13,}  {DESCRIPTIONS[Status(code)]}")
        rate = self.galaxies_per_second
        if rate == rate and self.unfinished:
            lines.append(f"  {rate:,.1f} galaxies/s, {duration((self.targets - done) / max(rate, 1e-9))} left")
        for block, cause in list(self.failed.items())[:5]:
            lines.append(f"  block {block} failed: {cause}")
        for at_work in sorted(self.workers, key=Activity.still_seconds)[:SHOWN]:
            lines.append(f"  {at_work} ({duration(at_work.still_seconds())} ago)")
        if len(self.workers) > SHOWN:
            lines.append(f"  and {len(self.workers) - SHOWN:,} more workers")
        return "\n".join(lines)


def status(run: Path) -> Summary:
    """Say how far a run is.

    Parameters
    ----------
    run : Path
        The RUN.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The directory is no RUN.
    """
    return summarise(run, read_record(run), already_finished=0)


def summarise(run: Path, record: RunRecord, already_finished: int) -> Summary:
    """Gather the ledger of a run."""
    entries = ledger.read_entries(run)
    done = {number: entry for number, entry in entries.items() if entry.state == "done" and number < record.n_blocks}
    statuses: Counter[int] = Counter()
    for entry in done.values():
        statuses.update(entry.statuses)
    return Summary(
        run=run,
        targets=record.rows,
        blocks=record.n_blocks,
        finished=len(done),
        failed={number: entry.cause for number, entry in entries.items() if entry.state == "failed"},
        statuses=dict(statuses),
        worker_seconds=sum(entry.seconds for entry in done.values()),
        galaxies_per_second=_recent_rate(run),
        alive=ledger.is_alive(run),
        workers=tuple(activities(run)),
        already_finished=already_finished,
    )


def _recent_rate(run: Path, blocks: int = 50) -> float:
    """Galaxies per second over the last blocks of the last session."""
    try:
        recent = [json.loads(line) for line in _last_lines(RunPaths(run).metrics, blocks)]
    except (OSError, ValueError):
        return float("nan")
    recent = [line for line in recent if recent and line["session"] == recent[-1]["session"]]
    if len(recent) < 2:
        return float("nan")
    first, last = (datetime.fromisoformat(line["time"]) for line in (recent[0], recent[-1]))
    seconds = (last - first).total_seconds()
    return sum(line["rows"] for line in recent[1:]) / seconds if seconds > 0 else float("nan")


def _last_lines(path: Path, count: int) -> list[bytes]:
    """Return the last lines of a file, whatever its length."""
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - count * _LINE_BYTES)
        file.seek(start)
        lines = file.read().splitlines()
    return lines[1 if start else 0 :][-count:]
