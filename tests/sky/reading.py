"""A table of targets read, cut and sorted as `plan` does it, and held in memory."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.sky.pairs import ClosePairs
from gzsurvey.sky.spool import Spool
from gzsurvey.sky.tables import ColumnInfo
from gzsurvey.sky.targets import (
    CLOSE_ARCSEC,
    KEPT,
    Cut,
    TargetOptions,
    TargetTable,
    close_pairs_note,
    read_targets,
)


@dataclass(frozen=True)
class Read:
    """Targets in catalogue order."""

    columns: dict[str, NDArray[Any]]
    kept_columns: tuple[ColumnInfo, ...]
    id_column: ColumnInfo
    cuts: tuple[Cut, ...]
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.id)

    @property
    def id(self) -> NDArray[Any]:
        return self.columns["id"]

    @property
    def ra_deg(self) -> NDArray[Any]:
        return self.columns["ra"]

    @property
    def dec_deg(self) -> NDArray[Any]:
        return self.columns["dec"]

    @property
    def healpix_29(self) -> NDArray[Any]:
        return self.columns["healpix_29"]

    @property
    def r50_arcsec(self) -> NDArray[Any] | None:
        return self.columns.get("r50")

    @property
    def kept(self) -> dict[str, NDArray[Any]]:
        return {name.removeprefix(KEPT): v for name, v in self.columns.items() if name.startswith(KEPT)}


def read(path: Path | str, *, length: int = 1000, **options: Any) -> Read:
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder, "spool"), 256)
        try:
            targets = read_targets(TargetTable.open(str(path), TargetOptions(**options)), spool, lambda rows: None)
            blocks = list(targets.in_order(length))
            assert [len(block["id"]) for block in blocks[:-1]] == [length] * (len(blocks) - 1)
            pairs = ClosePairs(Path(folder), CLOSE_ARCSEC, piece=length)
            for block in blocks if targets.table.has_positions else []:
                pairs.add(block["ra"], block["dec"])
        finally:
            spool.close()
        described = targets.columns
        assert targets.rows == sum(len(block["id"]) for block in blocks)
        columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        assert [columns[KEPT + info.name].dtype.kind for info in described.kept] == [
            dtype.kind for dtype in described.kept_dtypes
        ]
        notes = (*targets.notes, *close_pairs_note(pairs.finish()))
        return Read(columns, described.kept, described.id, targets.cuts, notes)
