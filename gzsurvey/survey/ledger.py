"""The ledger: one entry per block, the only truth about what a run has finished."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, ValidationError, model_validator

from gzsurvey.errors import OutputBusy
from gzsurvey.lock import held, holder, is_held
from gzsurvey.outputs.columns import STATUS
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import Shard, settle, shard_size
from gzsurvey.recipes.base import Section
from gzsurvey.survey.part import WHOLE, Part, spoken
from gzsurvey.survey.record import RunRecord


class BlockResult(Section):
    """What became of one block, without its files: a run of 10^9 rows holds 61,000 of these in some 100 MB."""

    model_config = ConfigDict(extra="ignore")

    block: int
    state: Literal["done", "failed"]
    rows: int
    statuses: dict[int, int] = {}
    """Targets by status code."""
    text_widths: dict[str, int] = {}
    """Characters of the longest text in each array of text; a finished block has such arrays."""
    seconds: float
    fetch_seconds: float = 0.0
    """Of these, waiting for images."""
    provider: str = ""
    """What the model really ran on."""
    versions: dict[str, str] = {}
    host: str = ""
    cause: str = ""
    """Why it failed."""
    attempts: int = 1
    finished: str
    """ISO 8601, UTC."""

    @model_validator(mode="after")
    def _knows_its_texts(self) -> BlockResult:
        if self.state == "done" and not self.text_widths:
            raise ValueError("'text_widths' is missing")
        return self


class LedgerEntry(BlockResult):
    """The entry of one block."""

    model_config = ConfigDict(extra="forbid")

    shards: dict[str, Shard] = {}
    """By array name."""


def contents(values: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Return what the entry of a finished block says of its arrays, shape (n, ...), by name."""
    codes, counts = np.unique(values[STATUS.name], return_counts=True)
    return {
        "rows": len(values[STATUS.name]),
        "statuses": dict(zip(codes.tolist(), counts.tolist(), strict=True)),
        "text_widths": text_widths(values),
    }


def text_widths(columns: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Return the characters of the longest text, 1 at least, of those columns, shape (n,), that hold text."""
    texts = {name: values.tolist() for name, values in columns.items() if values.dtype.kind in "UO"}
    return {name: max([1, *map(len, values)]) for name, values in texts.items()}


ResultT = TypeVar("ResultT", bound=BlockResult)


def shards(run: Path, blocks: Iterable[int]) -> Iterator[tuple[int, str, Shard]]:
    """Yield the files on record of some blocks: block, array, size and checksum; entry by entry."""
    for block in sorted(blocks):
        entry = _read(RunPaths(run).ledger_entry(block), LedgerEntry)
        for name, shard in sorted(entry.shards.items()) if entry else ():
            yield block, name, shard


def digest(run: Path, blocks: Iterable[int]) -> tuple[int, str]:
    """Return how many shards some blocks have, and one sha256 for all of them, hexadecimal."""
    total, number = hashlib.sha256(), 0
    for number, (block, name, shard) in enumerate(shards(run, blocks), 1):  # noqa: B007
        total.update(f"{block} {name} {shard.sha256}\n".encode())
    return number, total.hexdigest()


def write_entry(run: Path, entry: LedgerEntry) -> None:
    """Write one entry; a failure never replaces a finished block."""
    paths = RunPaths(run)
    place = paths.ledger_entry(entry.block)
    earlier = _read(place, BlockResult)
    if entry.state == "failed" and earlier is not None and earlier.state == "done":
        return
    aside = paths.aside_of(entry.block) / f"ledger-{uuid.uuid4().hex}"
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_text(json.dumps(json.loads(entry.model_dump_json())), encoding="utf-8")
    settle(aside, place)
    with suppress(OSError):  # another attempt at the block works in it
        aside.parent.rmdir()


def remove_entry(run: Path, block: int) -> None:
    """Declare a block unfinished, before its files are replaced."""
    RunPaths(run).ledger_entry(block).unlink(missing_ok=True)


def read_entries(run: Path, part: Part = WHOLE) -> dict[int, BlockResult]:
    """Return what became of every block with a readable entry; a damaged one counts as none."""
    return {result.block: result for result in _entries(run, BlockResult, part)}


def finished(run: Path, record: RunRecord, part: Part = WHOLE) -> dict[int, BlockResult]:
    """Return the results of finished blocks whose files have the size on record."""
    folder = RunPaths(run).zarr
    return {
        entry.block: BlockResult.model_validate(entry, from_attributes=True)
        for entry in _entries(run, LedgerEntry, part)
        if entry.state == "done" and entry.block < record.n_blocks and _files_are_there(folder, entry)
    }


def finished_block(run: Path, block: int) -> LedgerEntry | None:
    """Return the entry of one finished block whose files have the size on record."""
    entry = _read(RunPaths(run).ledger_entry(block), LedgerEntry)
    there = entry is not None and entry.state == "done" and _files_are_there(RunPaths(run).zarr, entry)
    return entry if there else None


def pending(
    record: RunRecord, done: Mapping[int, BlockResult], retry: Collection[int] = (), part: Part = WHOLE
) -> tuple[int, ...]:
    """Return the blocks still to be worked on, in order.

    Parameters
    ----------
    record : RunRecord
        The plan.
    done : mapping of int to BlockResult
        From `finished`.
    retry : collection of int
        Statuses whose targets are tried again: their blocks are pending too.
    part : Part
        Only its blocks.
    """
    wanted = set(retry)
    return tuple(
        number
        for number in part.blocks(record.n_blocks)
        if number not in done or any(done[number].statuses.get(status) for status in wanted)
    )


def clean(run: Path, part: Part = WHOLE) -> None:
    """Remove what an interrupted run left half-written, of the blocks of `part` alone."""
    paths = RunPaths(run)
    mine = [paths.aside] if part == WHOLE else [path for path in paths.aside.glob("block-*") if _block(path) in part]
    for folder in mine:
        shutil.rmtree(folder, ignore_errors=True)
    paths.aside.mkdir(parents=True, exist_ok=True)
    paths.ledger.mkdir(parents=True, exist_ok=True)


@contextmanager
def locked(run: Path, part: Part = WHOLE) -> Iterator[None]:
    """Hold a RUN, or one part of it; the lock dies with its process.

    Parts of equal number are held side by side. Nobody holds a part of a RUN that another process holds as a whole
    or in another number of parts: blocks of the two would meet.

    Raises
    ------
    gzsurvey.errors.OutputBusy
        Another process holds it.
    """
    path = _lock_file(run, part)
    path.parent.mkdir(exist_ok=True)
    with held(path, f"{run}{part.said}"):
        _refuse_others(run, part)
        yield


def _refuse_others(run: Path, part: Part) -> None:
    """Look for holders of other divisions, the own lock being held: of two who meet, one at least sees the other."""
    others = [other for other in _held_before(run) if other.of != part.of and is_held(_lock_file(run, other))]
    if WHOLE in others:
        raise OutputBusy(f"{run}{part.said}", holder(_lock_file(run, WHOLE)))
    if others:
        raise OutputBusy(f"{run}{part.said}", spoken([other for other in others if other.of == others[0].of]))


def alive(run: Path) -> tuple[Part, ...]:
    """Return the parts that processes work on now; `WHOLE` stands for the whole run."""
    return tuple(part for part in _held_before(run) if is_held(_lock_file(run, part)))


def _held_before(run: Path) -> list[Part]:
    """Return every part that was ever held."""
    names = (path.stem.split("-of-") for path in RunPaths(run).parts.glob("*.lock"))
    return [WHOLE, *sorted(Part(int(number), int(of)) for number, of in names)]


def _lock_file(run: Path, part: Part) -> Path:
    return RunPaths(run).lock if part == WHOLE else RunPaths(run).part_lock(part.number, part.of)


def _block(path: Path) -> int:
    """Return the number in ``block-NNNNNN``; -1 where there is none."""
    digits = path.stem.removeprefix("block-")
    return int(digits) if digits.isdecimal() else -1


def _entries(run: Path, kind: type[ResultT], part: Part) -> Iterator[ResultT]:
    for path in sorted(path for path in RunPaths(run).ledger.glob("block-*.json") if _block(path) in part):
        if (entry := _read(path, kind)) is not None:
            yield entry


def _read(path: Path, kind: type[ResultT]) -> ResultT | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _files_are_there(folder: Path, entry: LedgerEntry) -> bool:
    try:
        return all(shard_size(folder, name, entry.block) == shard.bytes for name, shard in entry.shards.items())
    except OSError:
        return False
