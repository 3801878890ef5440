"""Targets: the positions that a survey is asked to classify."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import RecipeError, TableError
from gzsurvey.expressions import Expression, find_names
from gzsurvey.sky import healpix
from gzsurvey.sky.columns import ColumnChoices, Roles, find_roles
from gzsurvey.sky.convert import arcsec, degrees, identifiers, to_icrs
from gzsurvey.sky.footprint import Footprint
from gzsurvey.sky.tables import Chunk, ColumnInfo, TableFile, open_tables, with_null

CLOSE_ARCSEC = 1.0
"""Targets nearer to each other than this are counted and said."""


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """How a target table is read, and which of its rows."""

    columns: ColumnChoices = field(default_factory=ColumnChoices)
    keep: tuple[str, ...] = ()
    select: str | None = None
    footprint: Footprint | None = None
    exclude: Footprint | None = None
    exclude_ids: frozenset[int | str] = frozenset()
    """Ids that an earlier RUN already has."""
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
class Targets:
    """Targets in catalogue order (HEALPix NESTED order 29, ties by id)."""

    id: NDArray[Any]
    """int64 or str, shape (N,), unique."""
    ra_deg: NDArray[np.float64]
    """ICRS, shape (N,); NaN where there are no positions."""
    dec_deg: NDArray[np.float64]
    healpix_29: NDArray[np.int64]
    """-1 where there are no positions."""
    r50_arcsec: NDArray[np.float64] | None
    """Half-light radius, NaN: unknown; None: no such column."""
    r90_arcsec: NDArray[np.float64] | None
    image: NDArray[np.str_] | None
    """Names of ready images; None: no such column."""
    kept: dict[str, NDArray[Any]]
    kept_columns: tuple[ColumnInfo, ...]
    id_column: ColumnInfo
    cuts: tuple[Cut, ...]
    notes: tuple[str, ...] = ()
    """What was converted, and what a user should know."""

    def __len__(self) -> int:
        return len(self.id)

    @property
    def has_positions(self) -> bool:
        """Whether targets have positions at all."""
        return bool(np.isfinite(self.ra_deg).any())


@dataclass
class _Reading:
    """What is asked of a table, and what is gathered while its chunks pass by."""

    roles: Roles
    options: TargetOptions
    expression: Expression | None
    parts: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    def cut(self, name: str, before: int, after: int) -> None:
        """Count what `name` left of one chunk."""
        totals = self.counts.setdefault(name, [0, 0])
        totals[0] += before
        totals[1] += after

    def joined(self, name: str) -> Any:
        """Return a column of all parts as one array."""
        return _joined([part[name] for part in self.parts])


def read_targets(table: str, options: TargetOptions) -> Targets:
    """Read, check, cut and sort a table of targets.

    Parameters
    ----------
    table : str
        A FITS, CSV, ECSV, VOTable or Parquet file, a HATS directory, or a glob of such files.
    options : TargetOptions
        Columns and cuts.

    Raises
    ------
    gzsurvey.errors.TableError
        The table is empty or cannot be read, an id is missing or stands twice, a position is
        not on the sky: the rows are named.
    gzsurvey.errors.RecipeError
        A column that was named is not there.
    """
    files = open_tables(table)
    roles = find_roles(files[0].columns, options.columns, str(files[0].path))
    expression = Expression(options.select) if options.select else None
    options = replace(options, keep=tuple(find_names(options.keep, files[0].columns, str(files[0].path))))
    reading = _Reading(roles, options, expression)
    for file in files:
        for start, chunk in _chunks(file, reading):
            _take(file, start, chunk, reading)
    return _finish(table, files, roles, options, reading)


def _chunks(file: TableFile, reading: _Reading) -> Iterator[tuple[int, Chunk]]:
    roles, expression = reading.roles, reading.expression
    selecting = find_names(expression.names, file.columns, str(file.path)) if expression else []
    wanted = dict.fromkeys([*roles.names, *reading.options.keep, *selecting])
    lacking = [name for name in wanted if name not in file.columns]
    if lacking:
        raise TableError(str(file.path), f"has no column {lacking[0]!r}, which other files of this table have")
    start = 0
    try:
        for chunk in file.read(list(wanted)):
            yield start, chunk
            start += len(chunk[roles.id[0]])
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TableError(str(file.path), f"cannot be read: {' '.join(str(error).split())[:200]}") from None


def _take(file: TableFile, start: int, chunk: Chunk, reading: _Reading) -> None:
    """Add what the cuts leave of one chunk, which begins at row `start` of its file."""
    roles, options, expression = reading.roles, reading.options, reading.expression
    rows = len(chunk[roles.id[0]])
    reading.cut("table", rows, rows)
    index = np.arange(rows)
    if expression:
        selecting = find_names(expression.names, chunk, str(file.path))
        plain = {name: with_null(file.columns[name], _as_float(chunk[name]))[1] for name in selecting}
        index = index[expression.select(plain, rows)]
        reading.cut("select", rows, len(index))
        chunk = {name: values[index] for name, values in chunk.items()}
    part = _part(file, roles, options, chunk, start + index)
    reading.notes |= dict.fromkeys(part.pop("notes"))
    for name, region, inside in (("footprint", options.footprint, True), ("exclude", options.exclude, False)):
        if region is not None:
            kept = region.contains(part["ra"].data, part["dec"].data) == inside
            reading.cut(name, len(kept), int(kept.sum()))
            part = {column: values[kept] for column, values in part.items()}
    reading.parts.append(part)


def _as_float(values: Any) -> Any:
    """Let an integer with nulls compare as NaN."""
    if np.ma.getmaskarray(values).any() and values.dtype.kind in "iu":
        return values.astype(np.float64)
    return values


def _part(
    file: TableFile, roles: Roles, options: TargetOptions, chunk: Chunk, rows: NDArray[np.int64]
) -> dict[str, Any]:
    """Convert and check the columns of a chunk; `rows` are their numbers in the file."""
    where, infos = str(file.path), file.columns
    notes: list[str] = []
    ids = identifiers([chunk[name] for name in roles.id], where, rows)
    if roles.ra:
        ra, dec = positions(file, roles, chunk, rows, notes)
    else:
        ra = dec = np.full(len(rows), np.nan)
    part: dict[str, Any] = {"id": np.ma.asarray(ids), "ra": np.ma.asarray(ra), "dec": np.ma.asarray(dec)}
    part["row"] = np.ma.asarray(rows)
    for role in ("r50", "r90"):
        name = getattr(roles, role)
        if name:
            unit = options.columns.size_unit if role == "r50" or infos[name].unit == "" else None
            part[role] = np.ma.asarray(arcsec(chunk[name], infos[name], unit, options.pixel_scale_arcsec, notes))
    if roles.image:
        part["image"] = chunk[roles.image]
    return part | {f"keep:{name}": chunk[name] for name in options.keep} | {"notes": notes}


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


def _finish(table: str, files: Sequence[TableFile], roles: Roles, options: TargetOptions, reading: _Reading) -> Targets:
    total = reading.counts.get("table", [0, 0])[0]
    if total == 0:
        raise TableError(table, "is empty")
    ids = _one_type(reading)
    keep = np.arange(len(ids))
    if options.exclude_ids:
        keep = np.flatnonzero([value not in options.exclude_ids for value in ids.tolist()])
        reading.cut("exclude run", len(ids), len(keep))
    keep = _without_duplicates(table, ids, keep, options, reading)
    if options.limit is not None:
        reading.cut("limit", len(keep), min(options.limit, len(keep)))
        keep = keep[: options.limit]
    cuts = tuple(Cut(name, before, after) for name, (before, after) in reading.counts.items())
    if len(keep) == 0:
        said = ", ".join(f"{cut.name} {cut.before} -> {cut.after}" for cut in cuts)
        raise TableError(table, f"no target is left ({said})")
    return _sorted(files, roles, options, reading, (ids, keep, cuts))


def _sorted(
    files: Sequence[TableFile],
    roles: Roles,
    options: TargetOptions,
    reading: _Reading,
    found: tuple[NDArray[Any], NDArray[np.int64], tuple[Cut, ...]],
) -> Targets:
    ids, keep, cuts = found
    ra, dec = (np.asarray(reading.joined(name).data)[keep] for name in ("ra", "dec"))
    order = healpix.sky_order(cells := healpix.cells(ra, dec), ids[keep])
    rows = keep[order]
    infos = files[0].columns
    plain = {name: with_null(infos[name], reading.joined(f"keep:{name}")[rows]) for name in options.keep}

    def size(role: str) -> NDArray[np.float64] | None:
        return np.asarray(reading.joined(role).data)[rows] if getattr(roles, role) else None

    return Targets(
        id=ids[rows],
        ra_deg=ra[order],
        dec_deg=dec[order],
        healpix_29=cells[order],
        r50_arcsec=size("r50"),
        r90_arcsec=size("r90"),
        image=np.asarray(reading.joined("image").filled("")[rows]).astype(str) if roles.image else None,
        kept={name: values for name, (_, values) in plain.items()},
        kept_columns=tuple(info for info, _ in plain.values()),
        id_column=infos[roles.id[0]] if len(roles.id) == 1 else ColumnInfo("id"),
        cuts=cuts,
        notes=(*reading.notes, *_close(ra, dec)),
    )


def _joined(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else np.ma.concatenate(parts)  # type: ignore[no-untyped-call]


def _one_type(reading: _Reading) -> NDArray[Any]:
    """Join ids; where one file has numbers and another text, all are text."""
    kinds = {part["id"].dtype.kind for part in reading.parts}
    parts = [part["id"].astype(str) if len(kinds) > 1 else part["id"] for part in reading.parts]
    return np.asarray(_joined(parts).data)


def _without_duplicates(
    table: str, ids: NDArray[Any], keep: NDArray[np.int64], options: TargetOptions, reading: _Reading
) -> NDArray[np.int64]:
    _, first, inverse = np.unique(ids[keep], return_index=True, return_inverse=True)
    if len(first) == len(keep):
        return keep
    again = np.flatnonzero(first[inverse] != np.arange(len(keep)))
    if options.duplicates == "refuse":
        rows = np.asarray(reading.joined("row").data)[keep[again]]
        raise TableError(
            table,
            f"{len(again)} ids stand twice, e.g. {ids[keep[again[0]]]!s}; remove them, or take the first of each "
            "with --duplicates first",
            rows.tolist(),
        )
    reading.cut("duplicates", len(keep), len(first))
    return keep[np.sort(first)]


def _close(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> tuple[str, ...]:
    known = np.isfinite(ra) & np.isfinite(dec)
    pairs = healpix.close_pairs(ra[known], dec[known], CLOSE_ARCSEC)
    return (f"{pairs:,} pairs of targets are closer than {CLOSE_ARCSEC:g} arcsec",) if pairs else ()
