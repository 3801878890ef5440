"""Whether the products of a RUN hold the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gzsurvey.errors import TableError
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.columns import Column, Layout
from gzsurvey.outputs.coverage import Coverage, read_maps
from gzsurvey.outputs.fits import ascii_text
from gzsurvey.outputs.hats import DATASET, HATS_HEALPIX, INDEX, MARGIN, PRIMARY, PROPERTIES, HatsRows
from gzsurvey.outputs.missing import read_missing
from gzsurvey.outputs.opened import Catalogue, open_catalogue
from gzsurvey.outputs.paths import is_there
from gzsurvey.outputs.rows import catalogue_rows, friendly_rows
from gzsurvey.sky.blocks import Block
from gzsurvey.survey.finished import FinishedRun, measured
from gzsurvey.survey.targets_file import KEPT, Columns

RELATIVE, ABSOLUTE = 1e-5, 1e-6
"""Other versions of numpy and SciPy round otherwise: computed columns may differ by this much."""
Array = NDArray[Any]


@dataclass(frozen=True)
class Agreement:
    """Compares every product with ``predictions.zarr``, block by block."""

    run: FinishedRun
    layout: Layout
    """Of the full catalogue."""
    damaged: frozenset[Path]
    """Files whose checksum differs: Parquet files among them are not read."""
    lost: frozenset[int]
    """Blocks with a damaged shard: they are not compared."""

    def problems(self) -> list[str]:
        """Return what does not agree: which product, block, row and column."""
        return [*self._rows(), *self._ids(), *self._hats()]

    def _rows(self) -> Iterator[str]:
        paths, coverage = self.run.paths, Coverage()
        products: dict[str, Catalogue] = {}
        for path in paths.catalogues:
            if path == paths.catalogue_friendly and not is_there(path):
                continue
            try:
                products[path.name] = open_catalogue(path)
            except TableError as error:
                yield f"{path.name}: {error.problem}"
        missing = read_missing(paths.missing) if paths.missing not in self.damaged else None
        for name, product in products.items():
            if len(product) != self.run.record.rows:
                yield f"{name} has {len(product)} rows, {self.run.record.rows} were planned"
        sound = {name: product for name, product in products.items() if len(product) == self.run.record.rows}
        for block in self.run.record.blocks:
            if block.number in self.lost:
                missing = None
                continue
            stored, targets = self.run.rows(block)
            yield from _beside_targets(block, stored, targets)
            rows = catalogue_rows(stored, self.layout, measured(targets))
            for name, product in sound.items():
                held = friendly_rows(rows, self.layout) if name == paths.catalogue_friendly.name else rows
                yield from _beside_catalogue(name, product, block, held)
            if missing is not None and (wrong := _beside_missing(paths.missing.name, missing, block, stored)):
                yield wrong
                missing = None
            coverage.append(stored)
        if missing is not None and next(missing, None) is not None:
            yield f"{paths.missing.name} has more rows than there are misses"
        if not self.lost and paths.moc.is_dir():
            yield from _beside_maps(paths.moc, coverage, self.damaged)

    def _ids(self) -> Iterator[str]:
        if self.run.paths.hats.is_dir():
            return
        ids = np.concatenate([self.run.rows(block)[1]["id"] for block in self.run.record.blocks])
        if len(np.unique(ids)) != len(ids):
            yield "an id stands twice"

    def _hats(self) -> Iterator[str]:
        paths = self.run.paths
        if not paths.hats.is_dir() or paths.catalogue_full in self.damaged:
            return
        full = open_catalogue(paths.catalogue_full)
        rows = HatsRows(full, _partition_limit(paths.hats / PRIMARY / PROPERTIES))
        for part, table in ((PRIMARY, rows.primary), (MARGIN, rows.margin)):
            for partition in rows.parts:
                place = Path(part, DATASET, partition.place)
                if paths.hats / place in self.damaged:
                    continue
                expected = table(partition)
                if len(expected):
                    yield from _beside_parquet(paths.hats / place, f"{paths.hats.name}/{place}", expected)
        yield from self._index(full)

    def _index(self, full: Catalogue) -> Iterator[str]:
        """Compare the id index with the catalogue; its order shows that ids are unique."""
        folder, id_column = self.run.paths.hats / INDEX / DATASET, full.columns[0].name
        last, total = None, 0
        for file in sorted(folder.rglob("part-*.parquet")):
            where = file.relative_to(self.run.run_dir)
            if file in self.damaged:
                return
            table = pq.read_table(file)
            ids, cells = (table[name].to_numpy() for name in (id_column, HATS_HEALPIX))
            ids = ids.astype(str) if ids.dtype.kind == "O" else ids
            if not (ids[1:] > ids[:-1]).all() or (last is not None and ids[0] <= last):
                yield f"{where}: an id stands twice, or ids are not in order"
            numbers = full.count_below(c.HEALPIX.name, cells)
            order = np.argsort(numbers, kind="stable")
            found = full.read(np.minimum(numbers[order], len(full) - 1), [id_column, c.HEALPIX.name])
            alone = full.count_below(c.HEALPIX.name, cells[order] + 1) - numbers[order] == 1
            wrong = (found[c.HEALPIX.name] != cells[order]) | (alone & (found[id_column] != ids[order]))
            if wrong.any():
                yield f"{where}: {ids[order][np.flatnonzero(wrong)[0]]} does not stand where it says"
            last, total = ids[-1], total + len(ids)
        if total != len(full):
            yield f"{self.run.paths.hats.name}/{INDEX} has {total} rows, the catalogue {len(full)}"


def _beside_targets(block: Block, stored: Mapping[str, Array], targets: Columns) -> Iterator[str]:
    """Compare what was carried along with the targets."""
    given = {name.removeprefix(KEPT): values for name, values in targets.items() if name.removeprefix(KEPT) in stored}
    for name, values in given.items():
        expected = values.astype(stored[name].dtype) if values.dtype.kind in "fiub" else values
        row = _first_difference(stored[name], expected)
        if row is not None:
            yield _said(f"predictions.zarr/{name}", block, row, "", stored[name][row], "the targets", expected[row])


def _beside_catalogue(name: str, product: Catalogue, block: Block, rows: Mapping[str, Array]) -> Iterator[str]:
    found = product.read(np.arange(block.start, block.stop), list(product.by_name))
    for column in product.columns:
        expected = _as_fits(column, rows[column.name])
        row = _first_difference(found[column.name], expected)
        if row is not None:
            here, there = found[column.name][row], expected[row]
            yield _said(name, block, row, column.name, here, "predictions.zarr", there)
            return


def _beside_missing(name: str, missing: Iterator[list[str]], block: Block, stored: Mapping[str, Array]) -> str:
    """Say what is wrong with the misses of a block; nothing: an empty text."""
    for row in np.flatnonzero(stored[c.STATUS.name] != 0).tolist():
        line = next(missing, None)
        expected = [str(stored["id"][row]), repr(float(stored["ra"][row])), repr(float(stored["dec"][row]))]
        expected += [str(stored[c.STATUS.name][row]), " ".join(str(stored["reason"][row]).split())]
        if line is None or line[:4] != expected[:4] or (expected[4] and line[4] != expected[4]):
            return _said(name, block, row, "", line, "predictions.zarr", expected)
    return ""


def _beside_maps(folder: Path, coverage: Coverage, damaged: frozenset[Path]) -> Iterator[str]:
    expected = coverage.maps()
    for name, found in read_maps(folder, [name for name in expected if folder / f"{name}.fits" not in damaged]):
        if found != expected[name]:
            yield f"{folder.name}/{name}.fits has other cells than the rows"


def _beside_parquet(file: Path, name: str, expected: Any) -> Iterator[str]:
    if not file.is_file():
        yield f"{name} is missing"
        return
    table = pq.read_table(file, partitioning=None)
    if len(table) != len(expected):
        yield f"{name} has {len(table)} rows, {len(expected)} lie in its cell"
        return
    for column in expected.column_names:
        if column not in table.column_names or not table[column].equals(expected[column]):
            yield f"{name}: column {column} differs from catalogue_full.fits"
            return


def _partition_limit(properties: Path) -> int:
    lines = dict(line.partition("=")[::2] for line in properties.read_text(encoding="ascii").splitlines())
    return int(lines["hats_max_rows"])


def _as_fits(column: Column, values: Array) -> Array:
    """Return values as they come back from a FITS column."""
    if column.dtype == "A":
        return np.strings.rstrip(ascii_text(values).astype(str))
    return np.asarray(values, dtype=bool if column.dtype == "L" else column.numpy.newbyteorder("="))


def _first_difference(found: Array, expected: Array) -> int | None:
    if found.dtype.kind == "f":
        same = np.isclose(found, expected, RELATIVE, ABSOLUTE, equal_nan=True)
    else:
        same = found == expected
    return None if same.all() else int(np.flatnonzero(~same)[0])


def _said(name: str, block: Block, row: int, column: str, here: Any, source: str, there: Any) -> str:
    what = f", column {column}" if column else ""
    return f"{name}: block {block.number}, row {block.start + row}{what} says {here}, {source} {there}"
