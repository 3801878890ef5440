"""What is finished of a run, as the rows of its catalogues."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import EMBEDDING, Card
from gzsurvey.errors import TableError
from gzsurvey.inference import OnnxModel
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.columns import Column, Dtype, Flavour, Stored, layer_column
from gzsurvey.outputs.embedding import KeptEmbedding
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import array_attributes, read_rows
from gzsurvey.sky.blocks import Block
from gzsurvey.status import Status
from gzsurvey.survey import ledger
from gzsurvey.survey.record import RunRecord, read_record
from gzsurvey.survey.targets_file import KEPT, Columns, read_block_targets

_FITS_TYPES: dict[str, Dtype] = {
    "bool": "L", "int8": "I", "uint8": "I", "int16": "I", "uint16": "J", "int32": "J", "uint32": "K", "int64": "K",
    "uint64": "K", "float16": "E", "float32": "E", "float64": "D",
}  # fmt: skip


@dataclass(frozen=True)
class FinishedRun:
    """A planned run and what of it is finished."""

    run_dir: Path
    record: RunRecord
    entries: Mapping[int, ledger.BlockResult]
    """By block; a block without one counts as not finished."""

    @property
    def paths(self) -> RunPaths:
        """Where its files lie."""
        return RunPaths(self.run_dir)

    def product(self, flavour: Flavour) -> Path:
        """Return where the catalogue of a flavour lies."""
        paths = self.paths
        places = {"catalogue": paths.catalogue, "full": paths.catalogue_full, "friendly": paths.catalogue_friendly}
        return places[flavour]

    @cached_property
    def card(self) -> Card:
        """The card of its model."""
        return OnnxModel(self.paths.model, "cpu").card

    @cached_property
    def embedding(self) -> KeptEmbedding:
        """What it keeps of embeddings."""
        return KeptEmbedding(self.card, self.record.recipe.embedding)

    @cached_property
    def stored(self) -> Stored:
        """Columns besides the model's, wide enough for the longest text: the ledger knows it of finished blocks."""
        types = {name.removeprefix(KEPT): values.dtype for name, values in read_block_targets(self.run_dir, 0).items()}
        widths = Counter({c.IMAGE_ID.name: 1, c.IMAGE_SET.name: 1})
        for number in range(self.record.n_blocks):
            widths |= Counter(self._text_widths(number))
        text = _Texts(types, widths)
        return Stored(
            target_id=self._target_id(text),
            kept=tuple(self._kept(number, text) for number in range(len(self.record.kept))),
            layers=self._layers(),
            image_id_width=widths[c.IMAGE_ID.name],
            image_set_width=widths[c.IMAGE_SET.name],
            embedding=self.record.recipe.embedding,
        )

    def _text_widths(self, block: int) -> dict[str, int]:
        """Return the longest text of each column of text of one block."""
        if block in self.entries:
            return self.entries[block].text_widths
        targets = read_block_targets(self.run_dir, block)
        return ledger.text_widths({name.removeprefix(KEPT): values for name, values in targets.items()})

    def _target_id(self, text: _Texts) -> Column:
        record = self.record.id_column
        described = record.description or c.TARGET_ID.description
        column = replace(c.TARGET_ID, name=record.name, description=described)
        return text.typed("id", column)

    def _kept(self, number: int, text: _Texts) -> Column:
        record = self.record.kept[number]
        # The catalogue's own id and position are the main ones.
        ucd = ";".join(word for word in record.ucd.split(";") if word != "meta.main")
        about = record.description or f"{record.name} of {Path(self.record.targets).name}"
        column = text.typed(record.name, Column(record.name, "E", 1, record.unit, ucd or "meta.record", about))
        return replace(column, null=record.null) if column.dtype in "IJK" else column

    def _layers(self) -> tuple[Column, ...]:
        attributes = array_attributes(self.paths.zarr)
        layers = {name: about for name, about in attributes.items() if about.get("role") == "layer"}
        return tuple(
            layer_column(name, about.get("units", ""), about.get("long_name", "")) for name, about in layers.items()
        )

    @cached_property
    def counts(self) -> Counter[int]:
        """Targets by status."""
        counts: Counter[int] = Counter()
        for block in self.record.blocks:
            entry = self.entries.get(block.number)
            counts.update({int(Status.BLOCK_NOT_FINISHED): block.rows} if entry is None else entry.statuses)
        return counts

    def rows(self, block: Block) -> tuple[dict[str, NDArray[Any]], Columns]:
        """Return the arrays of a block, of status 40 where it is not finished, and its targets."""
        targets = read_block_targets(self.run_dir, block.number)
        if block.number in self.entries:
            return read_rows(self.paths.zarr, block.start, block.stop), targets
        blank = _unfinished(self.card, block, targets, self._layers())
        return blank | {EMBEDDING: np.full((block.rows, self.embedding.width), np.nan, np.float16)}, targets


@dataclass(frozen=True)
class _Texts:
    """Types of the targets' columns, and their longest texts."""

    types: Mapping[str, np.dtype[Any]]
    widths: Mapping[str, int]

    def typed(self, name: str, column: Column) -> Column:
        """Return `column` with the type of the values called `name`."""
        dtype = self.types[name]
        if dtype.kind == "U":
            return replace(column, dtype="A", width=self.widths[name])
        if dtype.name not in _FITS_TYPES:
            raise TableError("--keep", f"{column.name!r} holds {dtype.name}, which no FITS column holds")
        return replace(column, dtype=_FITS_TYPES[dtype.name])


def open_finished(run_dir: Path) -> FinishedRun:
    """Open a RUN with all blocks that its ledger says are finished.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The directory is no planned RUN.
    """
    record = read_record(run_dir)
    return FinishedRun(run_dir, record, ledger.finished(run_dir, record))


def measured(targets: Columns) -> dict[str, NDArray[Any]]:
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
