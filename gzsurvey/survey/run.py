"""A run: every pending block, handed out a few at a time."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Collection, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from gzsurvey.errors import AccessDenied, ClusterError, RecipeError, RunIncomplete
from gzsurvey.progress import Progress
from gzsurvey.recipes.cluster import ClusterProfile
from gzsurvey.status import Status
from gzsurvey.survey import ledger
from gzsurvey.survey.cluster import Pool, open_pool
from gzsurvey.survey.part import WHOLE, Part
from gzsurvey.survey.record import RunRecord, read_record
from gzsurvey.survey.status import Summary, metrics_file, summarise
from gzsurvey.survey.worker import BlockSummary, BlockTask, process

LOOK_SECONDS = 5.0
"""Between looks at a cluster that says nothing."""


def run(run_dir: Path, cluster: ClusterProfile, retry: Collection[int] = (), part: Part = WHOLE) -> Summary:
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

    Raises
    ------
    gzsurvey.errors.RunIncomplete
        Blocks failed; the rest is safe.
    gzsurvey.errors.RunBusy
        Another process works on this RUN, or on this part of it.
    gzsurvey.errors.ClusterError
        The workers cannot be reached.
    """
    record = read_record(run_dir)
    statuses = _retry_statuses(retry)
    if part != WHOLE and cluster.kind != "none":
        raise RecipeError("--part", "works in this process, without a scheduler; leave --cluster out")
    with ledger.locked(run_dir, part):
        ledger.clean(run_dir, part)
        done = ledger.finished(run_dir, record, part)
        todo = ledger.pending(record, done, statuses, part)
        if todo:
            session = _Session(run_dir, record, statuses, cluster.threads, part)
            with open_pool(cluster, run_dir, part) as pool:
                session.work_through(todo, pool)
    already = len(part.blocks(record.n_blocks)) - len(todo)
    summary = replace(summarise(run_dir, record, already, part), working=())
    if summary.unfinished:
        raise RunIncomplete(f"{run_dir}{part.said}", summary.unfinished, summary.blocks, summary.cause)
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
    threads: int
    part: Part = WHOLE
    name: str = field(default_factory=lambda: f"{datetime.now(UTC).isoformat(timespec='milliseconds')} {os.getpid()}")

    def work_through(self, todo: Iterable[int], pool: Pool) -> None:
        """Hand out blocks, never more than the pool's window, and note what comes back."""
        where = str(self.run_dir.resolve())
        waiting = deque(BlockTask(where, block, self.name, self.retry, self.threads) for block in todo)
        blocks = self.record.blocks
        progress = Progress("classify", sum(blocks[task.block].rows for task in waiting), "galaxies")
        active: dict[Future[BlockSummary], BlockTask] = {}
        failures = 0
        while waiting or active:
            while waiting and len(active) < pool.window:
                task = waiting.popleft()
                active[pool.executor.submit(process, replace(task, workers=pool.workers))] = task
            finished, _ = wait(active, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            pool.check()
            for future in finished:
                task = active.pop(future)
                summary = self._outcome(future, task)
                self._note(summary)
                if summary.cause.startswith(AccessDenied.__name__):
                    waiting.clear()  # the others would be refused too
                elif summary.cause and task.attempt <= self.record.recipe.retries:
                    waiting.append(replace(task, attempt=task.attempt + 1))
                    continue
                failures += bool(summary.cause)
                progress.advance(blocks[task.block].rows, f"{failures} blocks failed" if failures else "")
        progress.finish()

    def _outcome(self, future: Future[BlockSummary], task: BlockTask) -> BlockSummary:
        """Return what the worker said, or record that the worker died."""
        if future.cancelled():
            raise ClusterError("the cluster", "has lost its scheduler; start it again, then repeat the command")
        error = future.exception()
        if error is None:
            return future.result()
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        ledger.write_entry(
            self.run_dir,
            ledger.LedgerEntry(
                block=task.block, state="failed", rows=0, seconds=0, cause=cause, attempts=task.attempt,
                finished=finished,
            ),
        )  # fmt: skip
        return BlockSummary(task.block, 0, {}, 0.0, cause)

    def _note(self, summary: BlockSummary) -> None:
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "session": self.name,
            "block": summary.block,
            "rows": summary.rows,
            "seconds": summary.seconds,
            "statuses": summary.statuses,
            "host": summary.host,
            "provider": summary.provider,
            "cause": summary.cause,
        }
        with metrics_file(self.run_dir, self.part).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
