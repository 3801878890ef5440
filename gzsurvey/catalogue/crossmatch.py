"""Neighbours of a table's positions in a catalogue, for tables and catalogues of any length."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from gzsurvey.catalogue.query import ROWS_AT_ONCE, ROWS_SHOWN, catalogue_with
from gzsurvey.catalogue.read import as_table
from gzsurvey.errors import TableError
from gzsurvey.expressions import find_names
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.formats import opener
from gzsurvey.outputs.opened import Catalogue, Rows, row_numbers
from gzsurvey.sky import healpix
from gzsurvey.sky.columns import ColumnChoices, Roles, find_roles
from gzsurvey.sky.convert import identifiers
from gzsurvey.sky.footprint import parse_radius
from gzsurvey.sky.tables import Chunk, TableFile, open_tables
from gzsurvey.sky.targets import positions

if TYPE_CHECKING:
    from astropy.table import Table

Find = Literal["nearest", "all"]
CANDIDATES_AT_ONCE = 2_000_000
"""Rows of the catalogue that a piece of the table is compared with: bounds memory."""
_NARROWEST = 35.0
"""Degrees: a HEALPix cell of order k is at least this wide over 2 to the k."""

SEPARATION = Column("separation", "D", 1, "arcsec", "pos.angDistance", "Between the two positions", display="F10.5")
MATCHED_ID = Column("matched_id", "K", ucd="meta.id.cross", description="Id in {table}")


@dataclass(frozen=True)
class Matches:
    """Pairs of one piece of a table: `n` of them, in the order of the catalogue."""

    ids: NDArray[np.generic]
    """Of the table, int64 or str, shape (n,)."""
    rows: NDArray[np.int64]
    """Of the catalogue, shape (n,)."""
    separation_arcsec: NDArray[np.float64]


def crossmatch(
    run: Path | str,
    table: str,
    radius: str,
    *,
    find: Find = "nearest",
    columns: Sequence[str] = (),
    choices: ColumnChoices | None = None,
) -> Crossmatch:
    """Find the rows of a catalogue that lie near the positions of a table.

    Parameters
    ----------
    run : Path or str
        A published RUN.
    table : str
        FITS, CSV, ECSV, VOTable, Parquet, a HATS directory, or a glob, read as targets are: columns by UCD,
        then by name, other frames and units converted.
    radius : str
        Such as ``1arcsec``.
    find : {"nearest", "all"}
        For each position the nearest row within the radius, or all rows.
    columns : sequence of str
        Of the catalogue; by default those of ``catalogue.fits``.
    choices : ColumnChoices, optional
        Names of the table's columns that are not found by themselves.

    Returns
    -------
    Crossmatch
        Matches when asked: ``.table()`` gives an astropy Table, ``.write("matched.fits")`` a file.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The radius or a column cannot be understood.
    gzsurvey.errors.TableError
        A table cannot be read, or has no positions.

    Examples
    --------
    >>> crossmatch("run", "gaia.fits", "1arcsec").write("matched.fits")  # doctest: +SKIP
    """
    radius_deg, files = parse_radius(radius), open_tables(table)
    roles = find_roles(files[0].columns, choices or ColumnChoices(), str(files[0].path))
    if not roles.ra:
        raise TableError(table, "has no positions; name them with --ra-column and --dec-column")
    catalogue = catalogue_with(Path(run), columns)
    catalogue.require_positions()
    names = find_names(columns, catalogue.by_name, "--columns") or list(catalogue.by_name)
    return Crossmatch(catalogue, tuple(dict.fromkeys(names)), tuple(files), roles, radius_deg, find)


@dataclass(frozen=True)
class Crossmatch:
    """Matches of a table with a catalogue, not searched yet."""

    catalogue: Catalogue
    names: tuple[str, ...]
    """Columns of the catalogue."""
    files: tuple[TableFile, ...]
    roles: Roles
    radius_deg: float
    find: Find

    def matches(self) -> Iterator[Matches]:
        """Yield matches, a piece of the table at a time."""
        for file in self.files:
            first = 0
            for chunk in file.read(self.roles.names):
                n = len(chunk[self.roles.id[0]])
                yield from self._chunk(file, chunk, np.arange(first, first + n))
                first += n

    def table(self) -> Table:
        """Return all matches as an astropy Table, with units, descriptions and UCDs."""
        return self._table(list(self.matches()))

    def write(self, path: Path | str) -> str:
        """Write all matches in bounded memory; return how many rows went where.

        Raises
        ------
        gzsurvey.errors.TableError
            The ending of the name is none of .fits, .csv, .ecsv, .vot, .parquet.
        """
        place = Path(path)
        open_rows = opener(place)
        with tempfile.TemporaryDirectory() as folder:
            kept: list[Path] = []
            types: set[np.dtype[np.generic]] = set()
            total = 0
            for number, match in enumerate(self.matches()):
                kept.append(Path(folder, f"{number}.npz"))
                np.savez(kept[-1], ids=match.ids, rows=match.rows, separation=match.separation_arcsec)
                types.add(match.ids.dtype)
                total += len(match.rows)
            columns = self._columns(types)
            with open_rows(place, columns, total, self.catalogue.parameters, "matches") as file:
                for spool in kept:
                    with np.load(spool, allow_pickle=False) as held:
                        file.append(self._rows(Matches(held["ids"], held["rows"], held["separation"])))
        return f"{total:,} rows in {place}"

    def __str__(self) -> str:
        """Return the first matches as a terminal shows them, and how many there are."""
        first: list[Matches] = []
        total = 0
        for match in self.matches():
            first += [match] if total < ROWS_SHOWN else []
            total += len(match.rows)
        if not total:
            return "no match"
        width = shutil.get_terminal_size().columns
        lines = self._table(first)[:ROWS_SHOWN].pformat(max_lines=-1, max_width=width)
        return "\n".join([*lines, f"{total:,} matches; -o FILE writes them"])

    def _table(self, found: Sequence[Matches]) -> Table:
        columns = self._columns(match.ids.dtype for match in found)
        nothing = Matches(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
        pieces = [self._rows(match) for match in found or [nothing]]
        rows = {column.name: np.concatenate([piece[column.name] for piece in pieces]) for column in columns}
        return as_table(columns, rows, self.catalogue.parameters)

    def _columns(self, types: Iterable[np.dtype[np.generic]]) -> tuple[Column, ...]:
        where = self.files[0].path.name
        column = replace(MATCHED_ID.of(table=where), name=MATCHED_ID.name)
        widths = [dtype.itemsize // 4 for dtype in types if dtype.kind == "U"]
        if widths:
            column = replace(column, dtype="A", width=max(1, *widths))
        return (column, SEPARATION, *(self.catalogue.by_name[name] for name in self.names))

    def _rows(self, match: Matches) -> Rows:
        rows = self.catalogue.read(match.rows, self.names)
        return {MATCHED_ID.name: match.ids, SEPARATION.name: match.separation_arcsec} | rows

    def _chunk(self, file: TableFile, chunk: Chunk, numbers: NDArray[np.int64]) -> Iterator[Matches]:
        """Match one chunk, in pieces of neighbouring positions."""
        ids = identifiers([chunk[name] for name in self.roles.id], str(file.path), numbers)
        ra, dec = positions(file, self.roles, chunk, numbers, [])
        yield from self.near(np.asarray(ids), ra, dec)

    def near(self, labels: NDArray[np.generic], ra: NDArray[np.float64], dec: NDArray[np.float64]) -> Iterator[Matches]:
        """Yield the matches of some positions (ICRS degrees, shape (n,)); `labels`, shape (n,), become their ids."""
        order = np.argsort(healpix.cells(ra, dec), kind="stable")
        for start in range(0, len(order), ROWS_AT_ONCE):
            part = order[start : start + ROWS_AT_ONCE]
            yield from self._piece(labels[part], ra[part], dec[part])

    def _piece(self, ids: NDArray[np.generic], ra: NDArray[np.float64], dec: NDArray[np.float64]) -> Iterator[Matches]:
        starts, stops = self._candidates(ra, dec)
        if (stops - starts).sum() > CANDIDATES_AT_ONCE and len(ids) > 1:
            for half in np.array_split(np.arange(len(ids)), 2):
                yield from self._piece(ids[half], ra[half], dec[half])
            return
        for rows in row_numbers(starts, stops, max(CANDIDATES_AT_ONCE, int((stops - starts).sum()))):
            found = self._pairs(ra, dec, rows)
            if len(found[0]):
                yield Matches(ids[found[0]], rows[found[1]], found[2])

    def _candidates(
        self, ra: NDArray[np.float64], dec: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the ranges of rows in the cells of the positions and those beside them."""
        order = int(np.clip(np.floor(np.log2(_NARROWEST / self.radius_deg)), 0, healpix.ORDER))
        cells = healpix.with_neighbours(np.unique(healpix.cells(ra, dec, order)), order)
        shift = 2 * (healpix.ORDER - order)
        starts, stops = (self.catalogue.count_below(c.HEALPIX.name, edge << shift) for edge in (cells, cells + 1))
        return starts[stops > starts], stops[stops > starts]

    def _pairs(
        self, ra: NDArray[np.float64], dec: NDArray[np.float64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return positions and candidates that lie together, and how far apart (arcsec), by candidate."""
        from scipy.spatial import cKDTree

        near = self.catalogue.read(rows, [c.RA.name, c.DEC.name])
        ours = cKDTree(healpix.unit_vectors(near[c.RA.name], near[c.DEC.name]))
        theirs = cKDTree(healpix.unit_vectors(ra, dec))
        chord = 2 * np.sin(np.radians(min(self.radius_deg, 180.0)) / 2)
        pairs = theirs.sparse_distance_matrix(ours, chord, output_type="ndarray")
        if self.find == "nearest":
            pairs = pairs[np.lexsort((pairs["j"], pairs["v"], pairs["i"]))]
            pairs = pairs[np.unique(pairs["i"], return_index=True)[1]]
        pairs = pairs[np.lexsort((pairs["v"], pairs["j"]))]
        apart = np.degrees(2 * np.arcsin(np.clip(pairs["v"] / 2, 0, 1))) * 3600
        return pairs["i"], pairs["j"], apart
