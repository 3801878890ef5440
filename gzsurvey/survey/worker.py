"""One block from targets to shards: a plain function of a small, picklable task."""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey import __version__
from gzsurvey.card import EMBEDDING
from gzsurvey.cutouts.remote.budget import HOSTS
from gzsurvey.cutouts.source import Miss
from gzsurvey.errors import CardMismatch, ClusterError, DiskFull, SourceFault
from gzsurvey.inference import OnnxModel, predict
from gzsurvey.inference.provider import CPU
from gzsurvey.outputs.embedding import KeptEmbedding
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import read_rows, write_block
from gzsurvey.recipes.cluster import RetrievalPool
from gzsurvey.sky.blocks import Block
from gzsurvey.status import Status
from gzsurvey.survey import blocklog, checks, ledger
from gzsurvey.survey.activity import Reporter, nothing
from gzsurvey.survey.layout import layer_columns
from gzsurvey.survey.record import RunRecord, read_record
from gzsurvey.survey.retrieval import Arrival, Fetcher, Pieces, Retrieve
from gzsurvey.survey.sources import open_sources, requests
from gzsurvey.survey.targets_file import KEPT, Columns, read_block_targets

logger = logging.getLogger(__name__)

_ONE_AT_A_TIME = threading.Lock()
"""A process has one model and one set of open files."""
_BATCHES_AHEAD = 4
"""Prepared images that wait for a GPU at most, in batches."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class BlockTask:
    """What a worker is told."""

    run: str
    """The RUN directory."""
    block: int
    session: str
    """Which call of `run`: model and sources are opened anew for each."""
    retry: tuple[int, ...] = ()
    """Only targets of these statuses are tried again, where the block was finished."""
    threads: int = 1
    """Batches side by side on a CPU; with a GPU, those that fetch and prepare images for it."""
    attempt: int = 1
    workers: int = 1
    """How many processes fetch for the run: they share what a host may be asked for."""
    retrieval: RetrievalPool | None = None
    """Workers that fetch for this one; None: it fetches itself."""
    gzsurvey: str = __version__
    """Of the process that hands out blocks."""


@dataclass(frozen=True, slots=True)
class BlockSummary:
    """What a worker answers: about 400 bytes."""

    block: int
    rows: int
    statuses: dict[int, int]
    seconds: float
    cause: str = ""
    """Empty: finished."""
    provider: str = ""
    host: str = ""
    fetch_seconds: float = 0.0
    """Of `seconds`, those in which the model waited for images."""
    worker: str = ""
    """Its address in the cluster."""


@dataclass(frozen=True)
class Runtime:
    """What a process keeps open between blocks."""

    run: Path
    record: RunRecord
    model: OnnxModel
    threads: int = 1
    """That fetch and prepare images, with a GPU. On a CPU it is one: the model's threads fill the cores."""

    @functools.cached_property
    def embedding(self) -> KeptEmbedding:
        """What is kept of embeddings."""
        return KeptEmbedding(self.model.card, self.record.recipe.embedding)

    @functools.cached_property
    def fetcher(self) -> Fetcher:
        """The sources, opened when first used: a worker that others fetch for needs none."""
        preparation = self.model.card.preparation
        fetchers = 1 if self.model.provider == CPU else self.threads
        sources = open_sources(self.run, self.record, preparation)
        return Fetcher(sources, self.record, preparation, fetchers, _BATCHES_AHEAD * self.model.batch_size)


@dataclass
class _BlockRows:
    """Everything per row of one block, filled while answers arrive."""

    values: Columns
    images: dict[int, NDArray[Any]] = field(default_factory=dict)
    """Prepared images of the rows that are kept for checks."""


def process(task: BlockTask, look: Callable[[], None] = nothing) -> BlockSummary:
    """Fetch, prepare, predict and store one block; its ledger entry comes last.

    Whatever stops it is recorded, and other blocks go on.

    Parameters
    ----------
    task : BlockTask
        Which block of which run.
    look : callable
        Called every few seconds while the block goes forward.

    Returns
    -------
    BlockSummary
        With a cause where the block failed: the failure is in the ledger, and other blocks go on.
    """
    started = time.monotonic()
    run = Path(task.run)
    with _ONE_AT_A_TIME, blocklog.written(run, task.block, task.attempt):
        reporter = Reporter(run, task.session, task.block, task.attempt, look)
        try:
            entry = _earlier(task, run) or _work(task, run, started, reporter)
        except Exception as error:
            logger.warning("run %s, block %d failed: %s", run.name, task.block, error, exc_info=True)
            entry = _entry(task, started, state="failed", cause=_cause(error, run))
            with contextlib.suppress(OSError):
                ledger.write_entry(run, entry)
        finally:
            reporter.leave()
    return BlockSummary(
        task.block, entry.rows, dict(entry.statuses), entry.seconds, entry.cause, entry.provider, entry.host,
        entry.fetch_seconds,
    )  # fmt: skip


def _earlier(task: BlockTask, run: Path) -> ledger.LedgerEntry | None:
    """Return the entry of a block that another worker finished meanwhile: one whose client died works on."""
    return None if task.retry else ledger.finished_block(run, task.block)


@functools.lru_cache(maxsize=1)
def open_runtime(run: Path, _session: str, threads: int) -> Runtime:
    """Open the model, once per process and session.

    Raises
    ------
    gzsurvey.errors.CardMismatch
        The model in RUN is not the one that was planned.
    gzsurvey.errors.ClusterError
        This process runs it on something else than planned.
    """
    record = read_record(run)
    path = RunPaths(run).model
    model = OnnxModel(path, record.provider, threads, record.batch_size)  # type: ignore[arg-type]
    if model.sha256 != record.model_sha256:
        raise CardMismatch(str(path), "is not the model that was planned; plan a new RUN")
    if problem := record.unlike_plan(model.provider):
        raise ClusterError(socket.gethostname(), problem)
    return Runtime(run, record, model, threads)


def _work(task: BlockTask, run: Path, started: float, reporter: Reporter) -> ledger.LedgerEntry:
    logger.info("begun", extra={"facts": {"session": task.session}})
    if task.gzsurvey != __version__:
        problem = f"has gzsurvey {__version__}, the run has {task.gzsurvey}; install the same"
        raise ClusterError(socket.gethostname(), problem)
    HOSTS.assume(task.workers)
    reporter.enter("opening model and sources")
    runtime = open_runtime(run, task.session, task.threads)
    retrieve = _retrieval(task, run, runtime)
    block = runtime.record.block(task.block)
    targets = read_block_targets(run, task.block)
    rows, todo = _rows_to_fill(runtime, block, targets, task.retry)
    reporter.rows = len(todo)
    reporter.enter("fetching and predicting")
    fill(runtime, block, targets, todo, rows, lambda wanted: reporter.watch(retrieve(wanted)))
    _check_faults(runtime.record, rows.values)
    reporter.enter("writing")

    def replace_earlier() -> None:
        checks.write(run, block, rows.values, rows.images, tuple(runtime.model.card.outputs))
        ledger.remove_entry(run, task.block)

    paths = RunPaths(run)
    shards = write_block(paths.zarr, paths.aside_of(task.block), task.block, rows.values, replace_earlier)
    entry = _entry(
        task,
        started,
        state="done",
        **ledger.contents(rows.values),
        shards={name: {"bytes": shard.bytes, "sha256": shard.sha256} for name, shard in shards.items()},
        fetch_seconds=round(reporter.seconds_waiting, 3),
        provider=runtime.model.provider,
        versions=_versions() | runtime.model.versions,
    )
    ledger.write_entry(run, entry)
    _log(entry, rows.values)
    return entry


def _retrieval(task: BlockTask, run: Path, runtime: Runtime) -> Retrieve:
    return runtime.fetcher if task.retrieval is None else Pieces(run, task.session, task.retrieval, task.workers)


def _log(entry: ledger.LedgerEntry, values: Columns) -> None:
    """Say what became of the block, and why its targets have no prediction: the first reason of each status."""
    known = {"seconds": entry.seconds, "fetch_seconds": entry.fetch_seconds, "statuses": entry.statuses}
    logger.info("finished", extra={"facts": known})
    for code in entry.statuses:
        if code != Status.PREDICTED:
            row = int(np.flatnonzero(values["status"] == code)[0])
            facts = {"targets": entry.statuses[code], "first": str(values["id"][row])}
            logger.info("status %d: %s", code, values["reason"][row], extra={"facts": facts})


def _rows_to_fill(
    runtime: Runtime, block: Block, targets: Columns, retry: tuple[int, ...]
) -> tuple[_BlockRows, list[int]]:
    """Return the block's arrays, and which rows are to be worked on."""
    earlier = ledger.finished_block(runtime.run, block.number) if retry else None
    if earlier is None:
        return _BlockRows(empty_rows(runtime, targets)), list(range(block.rows))
    values = read_rows(RunPaths(runtime.run).zarr, block.start, block.stop)
    again = np.flatnonzero(np.isin(values["status"], retry))
    values["reason"] = values["reason"].astype(object)
    for name in ("image_id", "image_set"):
        values[name] = values[name].astype(object)
    return _BlockRows(values), again.tolist()


def empty_rows(runtime: Runtime, targets: Columns) -> Columns:
    """Return every array of a block before anything is known, by name."""
    n = len(targets["id"])
    layers = layer_columns([source.spec for source in runtime.record.sources])
    values: Columns = {
        "id": targets["id"],
        "ra": targets["ra"],
        "dec": targets["dec"],
        "healpix_29": targets["healpix_29"],
        "status": np.full(n, Status.BLOCK_NOT_FINISHED, dtype=np.int16),
        "missing_fraction": np.full(n, np.nan, dtype=np.float32),
        "masked_fraction": np.full(n, np.nan, dtype=np.float32),
        "cutout_width": targets["cutout_width"].astype(np.float32),
        "image_id": np.full(n, "", dtype=object),
        "image_set": np.full(n, "", dtype=object),
        "reason": np.full(n, "", dtype=object),
    } | {layer.name: np.full(n, np.nan, dtype=np.float32) for layer in layers}
    kept = {name.removeprefix(KEPT): column for name, column in targets.items() if name.startswith(KEPT)}
    values |= {"r50": targets["r50"].astype(np.float32)} if "r50" in targets and "r50" not in kept else {}
    for name, shape in runtime.model.card.output_shapes.items():
        values[name] = np.full((n, *shape), np.nan, dtype=np.float32)
    values[EMBEDDING] = np.full((n, runtime.embedding.width), np.nan, dtype=np.float16)
    return values | kept


def fill(
    runtime: Runtime, block: Block, targets: Columns, todo: list[int], rows: _BlockRows, retrieve: Retrieve
) -> None:
    """Fetch and predict the rows `todo` of a block; inference runs beside fetching."""
    wanted = requests(targets, todo, runtime.model.card.preparation)
    kept = {row - block.start for row in runtime.record.check_rows if block.start <= row < block.stop}
    for batch in predict(runtime.model, _noted(retrieve(wanted), rows, kept)):
        _store(rows.values, batch.rows, batch.outputs, runtime.embedding)


def recompute_rows(runtime: Runtime, block: Block, targets: Columns, todo: list[int], retrieve: Retrieve) -> Columns:
    """Return the arrays of a block in which the rows `todo` alone are filled, from pixels."""
    rows = _BlockRows(empty_rows(runtime, targets))
    fill(runtime, block, targets, todo, rows, retrieve)
    return rows.values


def _noted(arriving: Iterable[Arrival], rows: _BlockRows, kept: set[int]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Note what is known of each answer, and yield the images of cutouts."""
    values = rows.values
    for row, answer, image in arriving:
        values["missing_fraction"][row] = answer.missing_fraction
        values["image_id"][row] = answer.image_id
        values["image_set"][row] = answer.image_set
        if isinstance(answer, Miss) or image is None:
            assert isinstance(answer, Miss)
            values["status"][row] = answer.status
            values["reason"][row] = answer.reason
            continue
        values["masked_fraction"][row] = answer.masked_fraction
        values["reason"][row] = ""
        for name, value in answer.layers.items():
            values[name][row] = value
        if row in kept:
            rows.images[row] = np.moveaxis(image, 0, -1)
        yield row, image


def _store(
    values: Columns, rows: NDArray[np.int64], outputs: dict[str, NDArray[np.float32]], embedding: KeptEmbedding
) -> None:
    finite = np.logical_and.reduce([np.isfinite(v).all(axis=tuple(range(1, v.ndim))) for v in outputs.values()])
    for name, value in outputs.items():
        kept = embedding.of(value[finite]) if name == EMBEDDING else value[finite]
        values[name][rows[finite]] = kept
    values["status"][rows[finite]] = Status.PREDICTED
    values["status"][rows[~finite]] = Status.PREDICTION_NOT_FINITE
    values["reason"][rows[~finite]] = "the model's output is not finite"


def _check_faults(record: RunRecord, values: Columns) -> None:
    """Let the block wait when its source is down, rather than call its targets misses."""
    failed = values["status"] == Status.SOURCE_FAILED
    if failed.mean() > record.recipe.fault_limit:
        first = values["reason"][np.flatnonzero(failed)[0]]
        raise SourceFault(record.sources[0].spec.text, f"failed for {failed.sum()} of {len(failed)} targets: {first}")


def _entry(task: BlockTask, started: float, state: str, **more: Any) -> ledger.LedgerEntry:
    content = {"rows": 0, **more}
    return ledger.LedgerEntry.model_validate(
        content
        | {
            "block": task.block,
            "state": state,
            "attempts": task.attempt,
            "seconds": round(time.monotonic() - started, 3),
            "host": socket.gethostname(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def _cause(error: Exception, run: Path) -> str:
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        error = DiskFull(run)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("gzsurvey", "zarr")}
