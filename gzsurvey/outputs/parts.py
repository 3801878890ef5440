"""A FITS catalogue that may be too large for one file: in parts, with a list of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.outputs.aside import folder_written_aside
from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.fits import TableWriter, open_table
from gzsurvey.outputs.parameters import Parameter
from gzsurvey.outputs.paths import parts_list

PART_BYTES = 4_000_000_000
"""Largest file that every file system, mail gateway and archive takes."""


@contextmanager
def open_product(
    path: Path,
    columns: Sequence[Column],
    n_rows: int,
    parameters: Sequence[Parameter] = (),
    part_bytes: int | None = PART_BYTES,
) -> Iterator[TableWriter | PartsWriter]:
    """Write a catalogue as one file, or where its rows take more than `part_bytes` as parts.

    Parameters
    ----------
    path : Path
        ``catalogue.fits``; parts are ``catalogue/part-0000.fits``, ... and ``catalogue/parts.txt`` lists
        them in row order. What an earlier call left in the other form is removed.
    columns, n_rows, parameters
        As in `gzsurvey.outputs.fits.open_table`.
    part_bytes : int or None
        None: one file, whatever its size.
    """
    row_bytes = sum(column.numpy.itemsize for column in columns)
    folder = parts_list(path).parent
    if part_bytes is None or n_rows * row_bytes <= part_bytes:
        with open_table(path, columns, n_rows, parameters, path.stem) as table:
            yield table
        shutil.rmtree(folder, ignore_errors=True)
        return
    with folder_written_aside(folder) as aside:
        with PartsWriter(aside, columns, n_rows, parameters, max(part_bytes // row_bytes, 1)) as parts:
            yield parts
        (aside / parts_list(path).name).write_text("\n".join(parts.names) + "\n", encoding="ascii")
    path.unlink(missing_ok=True)


class PartsWriter:
    """Writes rows to one part after the other; see `open_product`."""

    def __init__(
        self, folder: Path, columns: Sequence[Column], n_rows: int, parameters: Sequence[Parameter], part_rows: int
    ) -> None:
        self._folder, self._columns, self._parameters = folder, columns, parameters
        self._n_rows, self._part_rows, self._rows = n_rows, part_rows, 0
        self._open = ExitStack()
        self.names: list[str] = []
        """Files so far."""

    def __enter__(self) -> PartsWriter:
        self._open.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._open.__exit__(*error)

    def append(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write rows: arrays of shape (N,) by column name."""
        n = len(rows[self._columns[0].name])
        edges = np.arange(self._rows // self._part_rows + 1, (self._rows + n) // self._part_rows + 1) * self._part_rows
        for start, stop in np.lib.stride_tricks.sliding_window_view([0, *(edges - self._rows), n], 2).tolist():
            if stop > start:
                self._part().append({name: values[start:stop] for name, values in rows.items()})
                self._rows += stop - start

    def _part(self) -> TableWriter:
        """Return the part that the next row belongs to."""
        if self._rows == len(self.names) * self._part_rows:
            self._open.close()
            self.names.append(f"part-{len(self.names):04d}.fits")
            rows = min(self._part_rows, self._n_rows - self._rows)
            path = self._folder / self.names[-1]
            self._table = self._open.enter_context(open_table(path, self._columns, rows, self._parameters, path.stem))
        return self._table
