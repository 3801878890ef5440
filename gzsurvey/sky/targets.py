"""Targets: the positions that a survey is asked to classify, read and sorted in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gzsurvey.errors import RecipeError, TableError
from gzsurvey.expressions import Expression, find_names
from gzsurvey.progress import Progress
from gzsurvey.sky import healpix
from gzsurvey.sky.columns import ColumnChoices, Roles, find_roles
from gzsurvey.sky.convert import arcsec, degrees, identifiers, to_icrs
from gzsurvey.sky.footprint import Footprint
from gzsurvey.sky.spool import ID, ROW, Columns, Spool
from gzsurvey.sky.tables import Chunk, ColumnInfo, TableFile, null_of, open_tables, plain, with_null

CLOSE_ARCSEC = 1.0
"""Targets nearer to each other than this are counted and said."""
KEPT = "keep:"
"""Prefix of kept columns, so that they never meet ours."""
_MANY = 1_000_000
"""Rows that take longer than a moment."""
ROWS_NAMED = 5
"""Rows that an error names at most."""


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """How a target table is read, and which of its rows."""

    columns: ColumnChoices = field(default_factory=ColumnChoices)
    keep: tuple[str, ...] = ()
    select: str | None = None
    footprint: Footprint | None = None
    exclude: Footprint | None = None
    exclude_ids: Path | None = None
    """A Parquet file whose column ``id`` holds the ids that an earlier RUN already has."""
    duplicates: str = "refuse"
    """``refuse`` or ``first``."""
    limit: int | None = None
    pixel_scale_arcsec: Callable[[], float] | None = None
    """Asks the source for its pixel scale; called only for sizes in pixels."""

    def __post_init__(self) -> None:
        if self.duplicates not in {"refuse", "first"}:
            raise RecipeError("--duplicates", f"is 'refuse' or 'first', got {self.duplicates!r}")
        if self.limit is not None and self.limit < 1:
            raise RecipeError("--limit", f"must be at least 1, got {self.limit}")


@dataclass(frozen=True, slots=True)
class Cut:
    """How many targets one cut left."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class TargetColumns:
    """What the columns of targets are."""

    id: ColumnInfo
    id_dtype: np.dtype[Any]
    """int64 or str."""
    kept: tuple[ColumnInfo, ...]
    kept_dtypes: tuple[np.dtype[Any], ...]
    has_r50: bool


@dataclass(frozen=True)
class TargetTable:
    """A table of targets, opened: what its columns mean is known, its rows are not yet read."""

    text: str
    """As the user wrote it."""
    files: tuple[TableFile, ...]
    roles: Roles
    options: TargetOptions
    expression: Expression | None

    @classmethod
    def open(cls, text: str, options: TargetOptions) -> TargetTable:
        """Open every file of a table.

        Parameters
        ----------
        text : str
            A FITS, CSV, ECSV, VOTable or Parquet file, a HATS directory, or a glob of such files.
        options : TargetOptions
            Columns and cuts.

        Raises
        ------
        gzsurvey.errors.TableError
            There is no such file, it cannot be read, or it has no id.
        gzsurvey.errors.RecipeError
            A column that was named is not there.
        """
        files = tuple(open_tables(text))
        infos, where = files[0].columns, str(files[0].path)
        roles = find_roles(infos, options.columns, where)
        expression = Expression(options.select) if options.select else None
        if expression:
            find_names(expression.names, infos, where)
        keep = tuple(find_names(options.keep, infos, where))
        return cls(text, files, roles, replace(options, keep=keep), expression)

    @property
    def rows(self) -> int | None:
        """How many rows it has; None: a file does not say it."""
        counts = [file.rows for file in self.files]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def is_cut(self) -> bool:
        """Whether anything is asked that may leave fewer rows."""
        asked = self.options
        regions = (asked.footprint, asked.exclude, asked.exclude_ids)
        return bool(asked.select or asked.limit or any(region is not None for region in regions))

    @property
    def has_positions(self) -> bool:
        """Whether targets have positions at all."""
        return bool(self.roles.ra)

    @property
    def id_column(self) -> ColumnInfo:
        """What the table says about its ids."""
        ids = self.roles.id
        return self.files[0].columns[ids[0]] if len(ids) == 1 else ColumnInfo("id")

    @property
    def kept(self) -> tuple[ColumnInfo, ...]:
        """What the table says about the columns to be kept."""
        return tuple(self.files[0].columns[name] for name in self.options.keep)


@dataclass(frozen=True)
class Targets:
    """Targets on disk, after all cuts."""

    table: TargetTable
    spool: Spool
    rows: int
    cuts: tuple[Cut, ...]
    notes: tuple[str, ...]
    """What was converted."""

    @cached_property
    def columns(self) -> TargetColumns:
        """What their columns are."""
        dtypes = self.spool.dtypes
        infos = [
            replace(info, null=self._kept[name][1]) if dtypes[name].kind in "iub" else info
            for info, name in zip(self.table.kept, self._kept, strict=True)
        ]
        kept_dtypes = tuple(dtype for dtype, _ in self._kept.values())
        return TargetColumns(self.table.id_column, dtypes[ID], tuple(infos), kept_dtypes, bool(self.table.roles.r50))

    def in_order(self, length: int) -> Iterator[Columns]:
        """Yield the columns of `length` targets at a time, in catalogue order (HEALPix NESTED order 29, ties by id).

        Targets without positions keep the order of their table.

        Yields
        ------
        dict of str to array, shape (n,)
            ``id`` (int64 or str, unique), ``ra``, ``dec`` (ICRS degrees; NaN without positions), ``healpix_29`` (-1
            without positions), where there are such ``r50``, ``r90`` (arcsec, NaN: unknown) and ``image``, and
            ``keep:NAME`` for kept columns.
        """
        by, kept = ("healpix_29", ID) if self.table.has_positions else (ROW,), self._kept
        for masked in self.spool.read(by, length):
            yield {
                name: plain(values, *kept.get(name, (values.dtype, None)))
                for name, values in masked.items()
                if name != ROW
            }

    @cached_property
    def _kept(self) -> dict[str, tuple[np.dtype[Any], int | None]]:
        """Type and null of each kept column, by its name in the spool."""
        kept = {name: dtype for name, dtype in self.spool.dtypes.items() if name.startswith(KEPT)}
        missing = self.spool.nulls([name for name, dtype in kept.items() if dtype.kind in "iub"])
        return {name: null_of(dtype, missing.get(name, 0) > 0) for name, dtype in kept.items()}


@dataclass
class _Reading:
    """What is gathered while chunks pass by."""

    table: TargetTable
    spool: Spool
    room: Callable[[int], None]
    rows: int = 0
    """That are on disk."""
    counts: dict[str, list[int]] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    """Number of the first row of each file in the whole table."""
    passed: tuple[float, float] | None = None
    """A position outside the footprint."""

    def cut(self, name: str, before: int, after: int) -> None:
        """Count what `name` left of one chunk."""
        totals = self.counts.setdefault(name, [0, 0])
        totals[0] += before
        totals[1] += after


def read_targets(table: TargetTable, spool: Spool, room: Callable[[int], None]) -> Targets:
    """Read, check and cut a table of targets, chunk by chunk.

    Parameters
    ----------
    table : TargetTable
        From `TargetTable.open`.
    spool : Spool
        Empty: takes the rows.
    room : callable
        Given how many rows are on disk so far; raises where they do not fit.

    Raises
    ------
    gzsurvey.errors.TableError
        The table is empty or cannot be read, an id is missing or stands twice, a position is
        not on the sky: the rows are named.
    """
    reading = _Reading(table, spool, room)
    progress = Progress("read targets", table.rows or 0, "rows")
    for file in table.files:
        reading.starts.append(reading.counts.get("table", [0])[0])
        for start, chunk in _chunks(file, table):
            rows = len(chunk[table.roles.id[0]])
            _take(file, start, chunk, reading)
            progress.advance(rows)
    progress.finish()
    return _finish(reading)


def _chunks(file: TableFile, table: TargetTable) -> Iterator[tuple[int, Chunk]]:
    roles, expression = table.roles, table.expression
    selecting = find_names(expression.names, file.columns, str(file.path)) if expression else []
    wanted = dict.fromkeys([*roles.names, *table.options.keep, *selecting])
    lacking = [name for name in wanted if name not in file.columns]
    if lacking:
        raise TableError(str(file.path), f"has no column {lacking[0]!r}, which other files of this table have")
    start = 0
    try:
        for chunk in file.read(list(wanted)):
            yield start, chunk
            start += len(chunk[roles.id[0]])
    except (OSError, EOFError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise TableError(str(file.path), f"cannot be read: {' '.join(str(error).split())[:200]}") from None


def _take(file: TableFile, start: int, chunk: Chunk, reading: _Reading) -> None:
    """Put on disk what the cuts leave of one chunk, which begins at row `start` of its file."""
    table, options = reading.table, reading.table.options
    rows = len(chunk[table.roles.id[0]])
    reading.cut("table", rows, rows)
    index = np.arange(rows)
    if table.expression:
        selecting = find_names(table.expression.names, chunk, str(file.path))
        known = {name: with_null(file.columns[name], _as_float(chunk[name]))[1] for name in selecting}
        index = index[table.expression.select(known, rows)]
        reading.cut("select", rows, len(index))
        chunk = {name: values[index] for name, values in chunk.items()}
    notes: list[str] = []
    part = _part(file, table, chunk, start + index, notes)
    reading.notes |= dict.fromkeys(notes)
    part[ROW] = part[ROW] + reading.starts[-1]
    for name, region, inside in (("footprint", options.footprint, True), ("exclude", options.exclude, False)):
        if region is not None:
            ra, dec = part["ra"].data, part["dec"].data
            kept = region.contains(ra, dec) == inside
            reading.cut(name, len(kept), int(kept.sum()))
            if name == "footprint" and not kept.all():
                first = int(np.argmin(kept))
                reading.passed = reading.passed or (float(ra[first]), float(dec[first]))
            part = {column: values[kept] for column, values in part.items()}
    part["healpix_29"] = np.ma.asarray(healpix.cells(part["ra"].data, part["dec"].data))
    reading.spool.append(part)
    reading.rows += len(part[ROW])
    reading.room(reading.rows)


def _as_float(values: Any) -> Any:
    """Let an integer with nulls compare as NaN."""
    if np.ma.getmaskarray(values).any() and values.dtype.kind in "iu":
        return values.astype(np.float64)
    return values


def _part(
    file: TableFile, table: TargetTable, chunk: Chunk, rows: NDArray[np.int64], notes: list[str]
) -> dict[str, Any]:
    """Convert and check the columns of a chunk; `rows` are their numbers in the file."""
    roles, options, infos = table.roles, table.options, file.columns
    ids = identifiers([chunk[name] for name in roles.id], str(file.path), rows)
    if roles.ra:
        ra, dec = positions(file, roles, chunk, rows, notes)
    else:
        ra = dec = np.full(len(rows), np.nan)
    part: Columns = {ROW: rows, ID: ids, "ra": ra, "dec": dec}
    for role in ("r50", "r90"):
        name = getattr(roles, role)
        if name:
            unit = options.columns.size_unit if role == "r50" or infos[name].unit == "" else None
            part[role] = arcsec(chunk[name], infos[name], unit, options.pixel_scale_arcsec, notes)
    if roles.image:
        part["image"] = np.ma.filled(chunk[roles.image].astype(str), "")
    kept = {f"{KEPT}{name}": _plain_column(name, chunk[name]) for name in options.keep}
    return {name: np.ma.asarray(values) for name, values in part.items()} | kept


def _plain_column(name: str, values: Any) -> Any:
    if values.ndim != 1:
        raise TableError("--keep", f"{name!r} holds arrays; only plain columns are kept")
    if values.dtype.kind not in "biufU":
        raise TableError("--keep", f"{name!r} holds {values.dtype}; only numbers and text are kept")
    return values


def positions(
    file: TableFile, roles: Roles, chunk: Chunk, rows: NDArray[np.int64], notes: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the positions of a chunk, ICRS degrees, shape (n,); `rows` are its rows' numbers in the file.

    Raises
    ------
    gzsurvey.errors.TableError
        One is not on the sky; names the rows.
    """
    lon = degrees(chunk[roles.ra], file.columns[roles.ra], 15.0, notes)
    lat = degrees(chunk[roles.dec], file.columns[roles.dec], 1.0, notes)
    _check_positions(lon, lat, str(file.path), rows)
    return to_icrs(lon, lat, "galactic" if roles.galactic else file.frame, notes)


def _check_positions(lon: NDArray[np.float64], lat: NDArray[np.float64], where: str, rows: NDArray[np.int64]) -> None:
    unknown = ~(np.isfinite(lon) & np.isfinite(lat))
    if unknown.any():
        raise TableError(where, "a target has no position (NaN); remove it, e.g. by --select", rows[unknown].tolist())
    bad = (np.abs(lat) > 90) | (lon < -360) | (lon > 720)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise TableError(
            where, f"a target is not on the sky: ({lon[first]:g}, {lat[first]:g}) degrees", rows[bad].tolist()
        )


def _finish(reading: _Reading) -> Targets:
    """Make the cuts that need all rows together."""
    table, spool, options = reading.table, reading.spool, reading.table.options
    if reading.counts.get("table", [0, 0])[0] == 0:
        raise TableError(table.text, "is empty")
    if reading.rows == 0:
        raise _nothing_left(reading)
    spool.seal()
    left = reading.rows
    if options.exclude_ids is not None:
        spool.leave_out(options.exclude_ids, ID)
        others = spool.count()
        reading.cut("exclude run", left, others)
        left = others
    if left > _MANY:
        Progress.say(f"looking for repeated ids among {left:,}")
    repeated = spool.count_repeated() if left else 0
    if repeated and options.duplicates == "refuse":
        raise _repeated(reading, repeated)
    if repeated:
        spool.drop_repeated()
        reading.cut("duplicates", left, left - repeated)
        left -= repeated
    if options.limit is not None:
        reading.cut("limit", left, min(options.limit, left))
        if options.limit < left:
            spool.keep_first(options.limit)
            left = options.limit
    if left == 0:
        raise _nothing_left(reading)
    cuts = tuple(Cut(name, before, after) for name, (before, after) in reading.counts.items())
    return Targets(table, spool, left, cuts, tuple(reading.notes))


def _nothing_left(reading: _Reading) -> TableError:
    counts = reading.counts
    said = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in counts.items())
    before, after = counts.get("footprint", [0, 0])
    why = ""
    if before and not after and reading.passed:
        ra, dec = reading.passed
        why = f": the footprint holds none of them, the first lies at ({ra:.6g}, {dec:.6g}) degrees, ICRS"
    return TableError(reading.table.text, f"no target is left{why} ({said})")


def _repeated(reading: _Reading, count: int) -> TableError:
    found = reading.spool.first_repeated(ROWS_NAMED)
    numbers = np.array([row for row, _ in found])
    place = np.searchsorted(reading.starts, numbers, side="right") - 1
    file = int(place[0])
    files = reading.table.files
    where = reading.table.text if len(files) == 1 else str(files[file].path)
    return TableError(
        where,
        f"{count} ids stand twice, e.g. {found[0][1]!s}; remove them, or take the first of each "
        "with --duplicates first",
        (numbers[place == file] - reading.starts[file]).tolist(),
    )


def close_pairs_note(pairs: int) -> tuple[str, ...]:
    """Say how many pairs of targets are very close."""
    return (f"{pairs:,} pairs of targets are closer than {CLOSE_ARCSEC:g} arcsec",) if pairs else ()
