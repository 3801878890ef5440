"""From finished blocks to the catalogues: everything here comes from ``predictions.zarr``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import Card, ClassesHead, LabelsHead
from gzsurvey.errors import RecipeError, RunIncomplete, TableError
from gzsurvey.inference import OnnxModel
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.columns import Column, Dtype, Layout, Stored, choose_campaigns, layer_column
from gzsurvey.outputs.coverage import Coverage
from gzsurvey.outputs.fits import open_table
from gzsurvey.outputs.hats import write_hats
from gzsurvey.outputs.missing import open_missing
from gzsurvey.outputs.opened import open_catalogue
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.prevalence import Shares, estimated_shares, parse_prevalence
from gzsurvey.outputs.rows import catalogue_rows, mean_over_members
from gzsurvey.outputs.zarr import array_attributes, consolidate, read_rows
from gzsurvey.sky.blocks import Block
from gzsurvey.sky.footprint import parse_footprint
from gzsurvey.status import Status
from gzsurvey.survey import ledger
from gzsurvey.survey.describe import finished_time, header_parameters, provenance
from gzsurvey.survey.record import RunRecord, read_record
from gzsurvey.survey.targets_file import KEPT, Columns, read_block_targets, target_columns

_ESTIMATED_FROM = 200_000
"""Predictions that a prevalence is estimated from: their sampling noise is then below 0.2 %."""
_FITS_TYPES: dict[str, Dtype] = {
    "bool": "L", "int8": "I", "uint8": "I", "int16": "I", "uint16": "J", "int32": "J", "uint32": "K", "int64": "K",
    "uint64": "K", "float16": "E", "float32": "E", "float64": "D",
}  # fmt: skip


def publish(
    run_dir: Path,
    campaigns: Sequence[str] | None = None,
    prevalence: Sequence[str] = (),
) -> Path:
    """Make the catalogues and what goes with them from the finished blocks of a run.

    Safe to repeat: every file is written aside and renamed.

    Parameters
    ----------
    run_dir : Path
        A RUN.
    campaigns : sequence of str, optional
        Whose volunteers the catalogue imitates; by default those of the plan, else the card's.
    prevalence : sequence of str
        ``TASK.CLASS=SHARE``: shares to expect in the survey; ``TASK=estimated``: from the
        predictions themselves. They make `TASK_CLASS_probability`, blank where nothing is said.

    Returns
    -------
    Path
        ``catalogue.fits``. Beside it: ``catalogue_full.fits``, ``missing.ecsv``, ``provenance.json``;
        with positions ``hats/`` and ``moc/``.

    Raises
    ------
    gzsurvey.errors.RecipeError
        `prevalence` names what the model does not predict, or no shares.
    gzsurvey.errors.RunIncomplete
        Blocks are not finished. Everything is published all the same; their targets have status 40.
    """
    run = _Run(run_dir, read_record(run_dir))
    chosen = choose_campaigns(run.card, campaigns or run.record.campaigns)
    layout = Layout(run.card, chosen, run.stored, "full", _prevalence(run, prevalence))
    counts, coverage = _write_tables(run, layout)
    coverage.write(run.paths.moc, _footprint(run.record))
    if run.record.has_positions:
        names = [column.name for column in replace(layout, flavour="catalogue").columns]
        write_hats(
            run.paths.hats, open_catalogue(run.paths.catalogue_full), names, finished_time(run.record, run.entries)
        )
    consolidate(run.paths.zarr)
    provenance(run_dir, run.record, run.entries, counts).write(run.paths.provenance)
    _refuse_unfinished(run)
    return run.paths.catalogue


@dataclass(frozen=True)
class _Run:
    """A planned run and what of it is finished."""

    run_dir: Path
    record: RunRecord
    entries: dict[int, ledger.LedgerEntry] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", ledger.finished(self.run_dir, self.record))

    @property
    def paths(self) -> RunPaths:
        return RunPaths(self.run_dir)

    @cached_property
    def card(self) -> Card:
        return OnnxModel(self.paths.model, "cpu").card

    @cached_property
    def stored(self) -> Stored:
        """Columns besides the model's, wide enough for the longest text."""
        text = _Widths()
        for block in self.record.blocks:
            names = [name for name in target_columns(self.run_dir) if name == "id" or name.startswith(KEPT)]
            text.add(read_block_targets(self.run_dir, block.number, names))
            if block.number in self.entries:
                names = [c.IMAGE_ID.name, c.IMAGE_SET.name]
                text.add(read_rows(self.paths.zarr, block.start, block.stop, names))
        return Stored(
            target_id=self._target_id(text),
            kept=tuple(self._kept(number, text) for number in range(len(self.record.kept))),
            layers=self._layers(),
            image_id_width=text.widths[c.IMAGE_ID.name],
            image_set_width=text.widths[c.IMAGE_SET.name],
        )

    def _target_id(self, text: _Widths) -> Column:
        record = self.record.id_column
        described = record.description or c.TARGET_ID.description
        column = replace(c.TARGET_ID, name=record.name, description=described)
        return text.typed("id", column)

    def _kept(self, number: int, text: _Widths) -> Column:
        record = self.record.kept[number]
        # The catalogue's own id and position are the main ones.
        ucd = ";".join(word for word in record.ucd.split(";") if word != "meta.main")
        about = record.description or f"{record.name} of {Path(self.record.targets).name}"
        column = text.typed(KEPT + record.name, Column(record.name, "E", 1, record.unit, ucd or "meta.record", about))
        return replace(column, null=record.null) if column.dtype in "IJK" else column

    def _layers(self) -> tuple[Column, ...]:
        attributes = array_attributes(self.paths.zarr)
        layers = {name: about for name, about in attributes.items() if about.get("role") == "layer"}
        return tuple(layer_column(name, about.get("units", "")) for name, about in layers.items())

    def blocks(self) -> Iterator[tuple[dict[str, NDArray[Any]], Columns]]:
        """Yield rows and targets of each block; what is not finished has status 40."""
        for block in self.record.blocks:
            targets = read_block_targets(self.run_dir, block.number)
            if block.number in self.entries:
                yield read_rows(self.paths.zarr, block.start, block.stop), targets
            else:
                yield _unfinished(self.card, block, targets, self._layers()), targets


class _Widths:
    """Types, and the longest text, of columns that pass by."""

    def __init__(self) -> None:
        self.widths: Counter[str] = Counter({c.IMAGE_ID.name: 1, c.IMAGE_SET.name: 1})
        self._types: dict[str, np.dtype[Any]] = {}

    def add(self, columns: Mapping[str, NDArray[Any]]) -> None:
        for name, values in columns.items():
            self._types[name] = values.dtype
            if values.dtype.kind == "U":
                longest = int(np.strings.str_len(values).max(initial=1))
                self.widths[name] = max(self.widths[name], longest)

    def typed(self, name: str, column: Column) -> Column:
        """Return `column` with the type of the values seen under `name`."""
        dtype = self._types[name]
        if dtype.kind == "U":
            return replace(column, dtype="A", width=self.widths[name])
        if dtype.name not in _FITS_TYPES:
            raise TableError("--keep", f"{column.name!r} holds {dtype.name}, which no FITS column holds")
        return replace(column, dtype=_FITS_TYPES[dtype.name])


def _prevalence(run: _Run, options: Sequence[str]) -> dict[str, Shares]:
    """Return the shares of the classes of each task that something is said of."""
    heads = {head.task: head for head in run.card.heads if isinstance(head, ClassesHead | LabelsHead)}
    stated = parse_prevalence(options, run.card)
    return {
        task: estimated_shares(_scores(run, heads[task]), heads[task]) if isinstance(shares, str) else shares
        for task, shares in stated.items()
    }


def _scores(run: _Run, head: ClassesHead | LabelsHead) -> NDArray[np.float64]:
    """Probabilities (N, K) of predicted rows of finished blocks, evenly chosen, about 200,000 at most."""
    finished = [block for block in run.record.blocks if block.number in run.entries]
    step = max(1, sum(block.rows for block in finished) // _ESTIMATED_FROM)
    parts = [np.zeros((0, len(head.classes)))]
    for block in finished[::step]:
        rows = read_rows(run.paths.zarr, block.start, block.stop, [c.STATUS.name, head.output])
        parts.append(mean_over_members(rows[head.output][rows[c.STATUS.name] == Status.PREDICTED]))
    found = np.concatenate(parts)
    if not len(found):
        raise RecipeError("--prevalence", f"{head.task}=estimated: no target has a prediction to estimate from")
    return found


def _write_tables(run: _Run, full: Layout) -> tuple[Counter[int], Coverage]:
    """Write both catalogues and the misses in one pass; return rows by status, and the sky."""
    small = replace(full, flavour="catalogue")
    counts = _count(run)
    parameters = header_parameters(run.record, full, run.entries, counts)
    coverage = Coverage()
    with ExitStack() as files:
        tables = [
            files.enter_context(open_table(path, layout.columns, run.record.rows, parameters, path.stem))
            for path, layout in ((run.paths.catalogue, small), (run.paths.catalogue_full, full))
        ]
        missing = files.enter_context(open_missing(run.paths.missing, full.stored.target_id))
        for block, targets in run.blocks():
            rows = catalogue_rows(block, full, _measured(targets))
            for table in tables:
                table.append(rows)
            missing.append(block)
            coverage.append(block)
    return counts, coverage


def _count(run: _Run) -> Counter[int]:
    """Return the number of targets by status."""
    counts: Counter[int] = Counter()
    for block in run.record.blocks:
        entry = run.entries.get(block.number)
        counts.update({int(Status.BLOCK_NOT_FINISHED): block.rows} if entry is None else entry.statuses)
    return counts


def _measured(targets: Columns) -> dict[str, NDArray[Any]]:
    """Return sizes and magnitudes under the names that cards use."""
    known = {"r50": targets.get("r50"), "mag": targets.get(f"{KEPT}mag")}
    return {name: values for name, values in known.items() if values is not None and values.dtype.kind in "fiu"}


def _unfinished(card: Card, block: Block, targets: Columns, layers: Sequence[Column]) -> dict[str, NDArray[Any]]:
    """Return the rows of a block without a result."""
    n = block.rows
    unknown = np.full(n, np.nan, dtype=np.float32)
    blank = np.full(n, "", dtype="U1")
    rows: dict[str, NDArray[Any]] = {
        **{name: targets[name] for name in ("id", "ra", "dec", "healpix_29", "cutout_width")},
        c.STATUS.name: np.full(n, Status.BLOCK_NOT_FINISHED, dtype=np.int16),
        "reason": blank,
        c.MISSING_FRACTION.name: unknown,
        c.MASKED_FRACTION.name: unknown,
        c.IMAGE_ID.name: blank,
        c.IMAGE_SET.name: blank,
    }
    rows |= {layer.name: unknown for layer in layers}
    rows |= {name.removeprefix(KEPT): values for name, values in targets.items() if name.startswith(KEPT)}
    return rows | {name: np.full((n, *shape), np.nan, dtype=np.float32) for name, shape in card.output_shapes.items()}


def _footprint(record: RunRecord) -> Any | None:
    return parse_footprint(record.footprint).moc() if record.footprint else None


def _refuse_unfinished(run: _Run) -> None:
    left = run.record.n_blocks - len(run.entries)
    if left:
        failed = [e for e in ledger.read_entries(run.run_dir).values() if e.state == "failed"]
        cause = failed[0].cause if failed else "not run yet"
        raise RunIncomplete(run.run_dir, left, run.record.n_blocks, cause)
