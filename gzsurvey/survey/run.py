"""A run: every pending block, handed out a few at a time."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Collection, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from gzsurvey.errors import AccessDenied, ClusterError, DiskFull, RecipeError, RunIncomplete
from gzsurvey.progress import Progress
from gzsurvey.recipes.cluster import ClusterProfile
from gzsurvey.status import Status
from gzsurvey.survey import ledger
from gzsurvey.survey.activity import forget
from gzsurvey.survey.cluster import Pool, open_pool
from gzsurvey.survey.part import WHOLE, Part
from gzsurvey.survey.record import RunRecord, read_record, write_record
from gzsurvey.survey.stall import StallWatch
from gzsurvey.survey.status import Summary, metrics_file, summarise
from gzsurvey.survey.worker import NO_SPACE, BlockSummary, BlockTask

LOOK_SECONDS = 5.0
"""Between looks at a cluster that says nothing."""
SHARED = (AccessDenied.__name__, DiskFull.__name__)
"""Causes that stop every block."""


def run(
    run_dir: Path, cluster: ClusterProfile, retry: Collection[int] = (), part: Part = WHOLE, mixed: bool = False
) -> Summary:
    """Process every pending block of a RUN, or of one part of it.

    Safe to repeat: blocks in the ledger are not done again, whatever ended the last attempt.

    Parameters
    ----------
    run_dir : Path
        A planned RUN.
    cluster : ClusterProfile
        Where to work.
    retry : collection of int
        Statuses whose targets are tried again.
    part : Part
        Every N-th block, in this process, while others work on other parts of equal number.
    mixed : bool
        Let workers with another provider or ONNX Runtime than planned work too, from now on; provenance says so.

    Raises
    ------
    gzsurvey.errors.RunIncomplete
        Blocks failed; the rest is safe.
    gzsurvey.errors.OutputBusy
        Another process works on this RUN, or on this part of it.
    gzsurvey.errors.ClusterError
        The workers cannot be reached.
    """
    record = read_record(run_dir)
    statuses = _retry_statuses(retry)
    if part != WHOLE and cluster.kind != "none":
        raise RecipeError("--part", "works in this process, without a scheduler; leave --cluster out")
    session = _Session(run_dir, record, statuses, cluster, part)
    with ledger.locked(run_dir, part):
        if mixed and not record.mixed:
            record = record.model_copy(update={"mixed": True})
            write_record(run_dir, record)
        ledger.clean(run_dir, part)
        forget(run_dir, part)
        done = ledger.finished(run_dir, record, part)
        todo = ledger.pending(record, done, statuses, part)
        if todo:
            with open_pool(cluster, run_dir, part) as pool:
                session.work_through(todo, pool)
    already = len(part.blocks(record.n_blocks)) - len(todo)
    summary = replace(summarise(run_dir, record, already, part), working=())
    if summary.unfinished:
        raise RunIncomplete(f"{run_dir}{part.said}", summary.unfinished, summary.blocks, session.cause or summary.cause)
    return summary


def _retry_statuses(retry: Collection[int]) -> tuple[int, ...]:
    known = {int(status) for status in Status} - {Status.PREDICTED}
    for value in retry:
        if value not in known:
            raise RecipeError("--retry", f"{value} is no status of a miss; they are {sorted(known)}")
    return tuple(sorted(set(retry)))


@dataclass
class _Session:
    """One call of `run`."""

    run_dir: Path
    record: RunRecord
    retry: tuple[int, ...]
    cluster: ClusterProfile
    part: Part = WHOLE
    name: str = field(default_factory=lambda: f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {os.getpid()}")
    cause: str = ""
    """Why the last block failed."""
    stopped: bool = False
    """A cause that the other blocks would share: none is handed out any more."""

    def work_through(self, todo: Iterable[int], pool: Pool) -> None:
        """Hand out blocks, never more than the pool's window, and note what comes back."""
        where, blocks = str(self.run_dir.resolve()), self.record.blocks
        waiting = deque(
            BlockTask(where, block, self.name, self.retry, self.cluster.threads, retrieval=self.cluster.retrieval)
            for block in todo
        )
        progress = Progress("classify", sum(blocks[task.block].rows for task in waiting), "galaxies")
        watch = StallWatch(self.run_dir, self.name, 60 * self.cluster.stall_minutes)
        active: dict[Future[BlockSummary], BlockTask] = {}
        away: dict[int, str] = {}
        failures = 0

        def look(came_back: int = 0) -> None:
            watch.look(came_back, pool.workers)
            progress.advance(0, _aside(pool.workers, failures, watch.in_work))

        while (waiting and not self.stopped) or active:
            while waiting and not self.stopped and len(active) < pool.window:
                task = replace(waiting.popleft(), workers=pool.fetching)
                active[pool.submit(task, away.pop(task.block, ""), look)] = task
            finished, _ = wait(active, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            pool.check()
            look(len(finished))
            for future in finished:
                task = active.pop(future)
                summary = self._outcome(future, task)
                self._note(summary)
                if summary.cause and not self.stopped and task.attempt <= self.record.recipe.retries:
                    away[task.block] = summary.worker
                    waiting.append(replace(task, attempt=task.attempt + 1))
                    continue
                failures += bool(summary.cause)
                progress.advance(blocks[task.block].rows, _aside(pool.workers, failures, watch.in_work))
        progress.finish()

    def _outcome(self, future: Future[BlockSummary], task: BlockTask) -> BlockSummary:
        """Return what the worker said, or record that the worker died."""
        if future.cancelled():
            raise ClusterError("the cluster", "has lost its scheduler; start it again, then repeat the command")
        error = future.exception()
        summary = future.result() if error is None else self._died(error, task)
        if summary.cause:
            self.cause = summary.cause
            self.stopped = self.stopped or summary.cause.startswith(SHARED)
        return summary

    def _died(self, error: BaseException, task: BlockTask) -> BlockSummary:
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        entry = ledger.LedgerEntry(
            block=task.block, state="failed", rows=0, seconds=0, cause=cause, attempts=task.attempt,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        with suppress(OSError):
            ledger.write_entry(self.run_dir, entry)
        return BlockSummary(task.block, 0, {}, 0.0, cause)

    def _note(self, summary: BlockSummary) -> None:
        known = {name: value for name, value in asdict(summary).items() if name != "worker"}
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "session": self.name, **known}
        try:
            with metrics_file(self.run_dir, self.part).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            self.cause, self.stopped = str(DiskFull(self.run_dir)), True


def _aside(workers: int, failures: int, in_work: int) -> str:
    """What stands behind the numbers of a progress line."""
    more = [f"{in_work:,} more in work"] if in_work else []
    failed = [f"{failures} blocks failed"] if failures else []
    return ", ".join([f"{workers} {'worker' if workers == 1 else 'workers'}", *more, *failed])
