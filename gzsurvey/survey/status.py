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
from gzsurvey.survey.part import WHOLE, Part, spoken
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
    working: tuple[Part, ...] = ()
    """What processes work on now: parts, or the whole run."""
    already_finished: int = 0
    """Blocks that were finished before this call."""
    workers: tuple[Activity, ...] = ()
    """What those that have a block are doing, or did last."""
    part: Part = WHOLE
    """Whose blocks and targets these are."""

    @property
    def alive(self) -> bool:
        """A process works on it now."""
        return bool(self.working)

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
            f"{self.run}{self.part.said}: {self.finished:,} of {self.blocks:,} blocks finished, "
            f"{done:,} of {self.targets:,} targets{_said_of(self.working)}"
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


def _said_of(working: tuple[Part, ...]) -> str:
    if not working:
        return ""
    return f" ({'a process works on it' if WHOLE in working else spoken(working) + ' at work'} now)"


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


def summarise(run: Path, record: RunRecord, already_finished: int, part: Part = WHOLE) -> Summary:
    """Gather the ledger of a run, or of one part."""
    entries = ledger.read_entries(run, part)
    done = {number: entry for number, entry in entries.items() if entry.state == "done" and number < record.n_blocks}
    working = ledger.alive(run)
    blocks = record.blocks
    mine = part.blocks(len(blocks))
    statuses: Counter[int] = Counter()
    for entry in done.values():
        statuses.update(entry.statuses)
    return Summary(
        run=run,
        targets=sum(blocks[number].rows for number in mine),
        blocks=len(mine),
        finished=len(done),
        failed={number: entry.cause for number, entry in entries.items() if entry.state == "failed"},
        statuses=dict(statuses),
        worker_seconds=sum(entry.seconds for entry in done.values()),
        galaxies_per_second=sum(_recent_rate(metrics_file(run, one)) for one in working or (WHOLE,)),
        working=working,
        workers=tuple(about for about in activities(run) if about.block in part),
        already_finished=already_finished,
        part=part,
    )


def metrics_file(run: Path, part: Part) -> Path:
    """Where the process that works on `part` writes a line per block."""
    return RunPaths(run).metrics if part == WHOLE else RunPaths(run).part_metrics(part.number, part.of)


def _recent_rate(metrics: Path, blocks: int = 50) -> float:
    """Galaxies per second over the last blocks of the last session."""
    try:
        recent = [json.loads(line) for line in _last_lines(metrics, blocks)]
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
