"""One block from targets to shards: a plain function of a small, picklable task."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.cutouts.remote.budget import HOSTS
from gzsurvey.cutouts.source import Cutout, CutoutSource, Miss, Request
from gzsurvey.errors import CardMismatch, SourceFault
from gzsurvey.images.prepare import prepare_cutout
from gzsurvey.inference import OnnxModel, predict
from gzsurvey.inference.predict import to_model_input
from gzsurvey.inference.provider import CPU
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import read_rows, write_block
from gzsurvey.sky.blocks import Block
from gzsurvey.status import Status
from gzsurvey.survey import checks, ledger
from gzsurvey.survey.layout import layer_columns
from gzsurvey.survey.record import RunRecord, read_record
from gzsurvey.survey.sources import answers, open_sources, requests
from gzsurvey.survey.streams import merged
from gzsurvey.survey.targets_file import KEPT, Columns, read_block_targets

logger = logging.getLogger(__name__)

_ONE_AT_A_TIME = threading.Lock()
"""A process has one model and one set of open files."""
_PIECES_PER_FETCHER = 4
"""So that the last thread of a block is not waited for long."""
_BATCHES_AHEAD = 4
"""Prepared images that wait for a GPU at most, in batches."""
HALF_LARGEST = float(np.finfo(np.float16).max)


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
    """Of the model on a CPU; with a GPU, those that fetch and prepare images for it."""
    attempt: int = 1
    workers: int = 1
    """How many processes work on the run: they share what a host may be asked for."""


@dataclass(frozen=True, slots=True)
class BlockSummary:
    """What a worker answers: about 300 bytes."""

    block: int
    rows: int
    statuses: dict[int, int]
    seconds: float
    cause: str = ""
    """Empty: finished."""
    provider: str = ""
    host: str = ""


@dataclass(frozen=True)
class Runtime:
    """What a process keeps open between blocks."""

    run: Path
    record: RunRecord
    model: OnnxModel
    sources: tuple[CutoutSource, ...]
    fetchers: int = 1
    """Threads that fetch and prepare images. On a CPU one: the model's threads fill the cores."""

    @functools.cached_property
    def set_names(self) -> dict[str, str]:
        """Short names of the sources, by their own."""
        return {source.name: record.name for source, record in zip(self.sources, self.record.sources, strict=True)}


@dataclass
class _BlockRows:
    """Everything per row of one block, filled while answers arrive."""

    values: Columns
    images: dict[int, NDArray[Any]] = field(default_factory=dict)
    """Prepared images of the rows that are kept for checks."""


def process(task: BlockTask) -> BlockSummary:
    """Fetch, prepare, predict and store one block; its ledger entry comes last.

    Parameters
    ----------
    task : BlockTask
        Which block of which run.

    Returns
    -------
    BlockSummary
        With a cause where the block failed: the failure is in the ledger, and other blocks go on.
    """
    started = time.monotonic()
    run = Path(task.run)
    try:
        with _ONE_AT_A_TIME:
            entry = _work(task, run, started)
    except Exception as error:  # noqa: BLE001 - whatever stops one block is recorded, and the others go on
        logger.warning("run %s, block %d failed: %s", run.name, task.block, error)
        entry = _entry(task, started, state="failed", cause=_cause(error))
    ledger.write_entry(run, entry)
    provider, host = entry.provider, entry.host
    return BlockSummary(task.block, entry.rows, dict(entry.statuses), entry.seconds, entry.cause, provider, host)


@functools.lru_cache(maxsize=1)
def open_runtime(run: Path, _session: str, threads: int) -> Runtime:
    """Open model and sources, once per process and session.

    Raises
    ------
    gzsurvey.errors.CardMismatch
        The model in RUN is not the one that was planned.
    """
    record = read_record(run)
    path = RunPaths(run).model
    model = OnnxModel(path, record.provider, threads, record.batch_size)  # type: ignore[arg-type]
    if model.sha256 != record.model_sha256:
        raise CardMismatch(str(path), "is not the model that was planned; plan a new RUN")
    fetchers = 1 if model.provider == CPU else threads
    return Runtime(run, record, model, open_sources(run, record, model.card.preparation), fetchers)


def _work(task: BlockTask, run: Path, started: float) -> ledger.LedgerEntry:
    HOSTS.share(task.workers)
    runtime = open_runtime(run, task.session, task.threads)
    block = runtime.record.blocks[task.block]
    targets = read_block_targets(run, task.block)
    rows, todo = _rows_to_fill(runtime, block, targets, task.retry)
    fill(runtime, block, targets, todo, rows)
    _check_faults(runtime, rows.values)
    ledger.remove_entry(run, task.block)
    checks.write(run, block, rows.values, rows.images, tuple(runtime.model.card.outputs))
    shards = write_block(RunPaths(run).zarr, RunPaths(run).aside, task.block, rows.values)
    statuses = Counter(int(status) for status in rows.values["status"])
    return _entry(
        task,
        started,
        state="done",
        rows=block.rows,
        statuses=dict(sorted(statuses.items())),
        shards={name: {"bytes": shard.bytes, "sha256": shard.sha256} for name, shard in shards.items()},
        provider=runtime.model.provider,
        versions=_versions() | runtime.model.versions,
    )


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
        values[name] = np.full((n, *shape), np.nan, dtype=np.float16 if name == "embedding" else np.float32)
    return values | kept


def fill(runtime: Runtime, block: Block, targets: Columns, todo: list[int], rows: _BlockRows) -> None:
    """Fetch and predict the rows `todo` of a block; inference runs beside fetching."""
    wanted = requests(targets, todo, runtime.model.card.preparation)
    length = max(-(-len(wanted) // (runtime.fetchers * _PIECES_PER_FETCHER)), 1)
    pieces = [wanted[start : start + length] for start in range(0, len(wanted), length)]
    streams = [_answered(runtime, piece) for piece in ([wanted] if runtime.fetchers == 1 else pieces)]
    arriving = merged(streams, runtime.fetchers, _BATCHES_AHEAD * runtime.model.batch_size)
    kept = {row - block.start for row in runtime.record.check_rows if block.start <= row < block.stop}
    for batch in predict(runtime.model, _noted(runtime, arriving, rows, kept)):
        _store(rows.values, batch.rows, batch.outputs)


def recompute_rows(runtime: Runtime, block: Block, targets: Columns, todo: list[int]) -> Columns:
    """Return the arrays of a block in which the rows `todo` alone are filled, from pixels."""
    rows = _BlockRows(empty_rows(runtime, targets))
    fill(runtime, block, targets, todo, rows)
    return rows.values


def _answered(runtime: Runtime, wanted: Sequence[Request]) -> Iterator[tuple[int, Cutout | Miss, NDArray[Any] | None]]:
    """Yield row, answer, and the prepared image of a cutout in the model's layout."""
    preparation = runtime.model.card.preparation
    for row, answer in answers(runtime.sources, wanted, runtime.record.recipe.missing_limit):
        image = None if isinstance(answer, Miss) else prepare_cutout(answer.pixels, preparation)
        yield row, answer, None if image is None else to_model_input(image)


def _noted(
    runtime: Runtime,
    arriving: Iterable[tuple[int, Cutout | Miss, NDArray[Any] | None]],
    rows: _BlockRows,
    kept: set[int],
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Note what is known of each answer, and yield the images of cutouts."""
    values = rows.values
    for row, answer, image in arriving:
        values["missing_fraction"][row] = answer.missing_fraction
        values["image_id"][row] = answer.image_id
        values["image_set"][row] = runtime.set_names.get(answer.image_set, answer.image_set)
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


def _store(values: Columns, rows: NDArray[np.int64], outputs: dict[str, NDArray[np.float32]]) -> None:
    finite = np.logical_and.reduce([np.isfinite(v).all(axis=tuple(range(1, v.ndim))) for v in outputs.values()])
    for name, value in outputs.items():
        plain = np.clip(value, -HALF_LARGEST, HALF_LARGEST) if name == "embedding" else value
        values[name][rows[finite]] = plain[finite]
    values["status"][rows[finite]] = Status.PREDICTED
    values["status"][rows[~finite]] = Status.PREDICTION_NOT_FINITE
    values["reason"][rows[~finite]] = "the model's output is not finite"


def _check_faults(runtime: Runtime, values: Columns) -> None:
    """Let the block wait when its source is down, rather than call its targets misses."""
    failed = values["status"] == Status.SOURCE_FAILED
    if failed.mean() > runtime.record.recipe.fault_limit:
        first = values["reason"][np.flatnonzero(failed)[0]]
        raise SourceFault(runtime.sources[0].name, f"failed for {failed.sum()} of {len(failed)} targets: {first}")


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


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("gzsurvey", "zarr")}
