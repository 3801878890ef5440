"""``hats/``: the rows of a catalogue as a HATS collection, which LSDB opens and cross-matches.

Three datasets of Parquet files: ``catalogue/``, split where the sky is crowded; ``margin/``, to each partition
the rows just outside it, so that matches across a border are found; ``id_index/``, which says where an id stands.
The layout is that of the IVOA note on HATS (1.0). It is written here with pyarrow, and read by hats and LSDB in
the tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey import __version__
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.aside import folder_written_aside
from gzsurvey.outputs.columns import Column
from gzsurvey.outputs.id_index import write_id_index
from gzsurvey.outputs.opened import Catalogue, Rows, row_numbers
from gzsurvey.outputs.parquet import Dataset, arrow_schema, arrow_table

HATS_HEALPIX = "_healpix_29"
"""What HATS calls `healpix_29`."""
PARTITION_ROWS = 50_000
"""Most rows of a partition: about 50 MB in memory."""
_ROWS_AT_A_TIME = 8192
"""Rows that are held twice, as they were read and as they will be written."""
MARGIN_ARCSEC = 10.0
SKYMAP_ORDER = 8
"""Cells of 14 arcmin."""
_FINEST, _MARGIN_ORDER = 12, 13
"""Order of the smallest partitions; cells of the margin, at least 16 arcsec wide, are smaller."""
PRIMARY, MARGIN, INDEX = "catalogue", "margin", "id_index"
DATASET, PROPERTIES = "dataset", "hats.properties"

Cells = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Partition:
    """Rows `start` to `stop` (exclusive), which lie in one HEALPix cell."""

    order: int
    pixel: int
    start: int
    stop: int

    @property
    def place(self) -> Path:
        """File of its rows in a dataset."""
        folder = self.pixel // 10_000 * 10_000
        return Path(f"Norder={self.order}", f"Dir={folder}", f"Npix={self.pixel}.parquet")


def write_hats(
    folder: Path, catalogue: Catalogue, default_columns: Sequence[str], created: str, limit: int = PARTITION_ROWS
) -> None:
    """Write a HATS collection, a partition at a time.

    Parameters
    ----------
    folder : Path
        ``hats/``; it takes the place of an older one when it is whole.
    catalogue : Catalogue
        Rows in HEALPix order, with positions.
    default_columns : sequence of str
        What readers load when they are not asked for columns.
    created : str
        ISO 8601, UTC.
    limit : int
        Most rows of a partition, unless they all lie in one cell of order 12.
    """
    id_column = catalogue.columns[0].name
    with folder_written_aside(folder) as aside:
        writer = _Writer(aside, HatsRows(catalogue, limit), created)
        writer.primary(default_columns)
        writer.margin()
        writer.index()
        collection = {
            "obs_collection": "gzsurvey",
            "hats_primary_table_url": PRIMARY,
            "all_margins": MARGIN,
            "default_margin": MARGIN,
            "all_indexes": f"{id_column} {INDEX}",
            "default_index": id_column,
        }
        _write_properties(aside / "collection.properties", collection | writer.about)


def partitions(catalogue: Catalogue, limit: int) -> tuple[Partition, ...]:
    """Split a catalogue into cells of at most `limit` rows, as large as can be, in the order of its rows."""
    found: list[Partition] = []
    cells: Cells = np.arange(12)
    for order in range(_FINEST + 1):
        starts, stops = _rows_of(catalogue, cells, order)
        crowded = (stops - starts > limit) & (order < _FINEST)
        whole = (stops > starts) & ~crowded
        leaves = zip(*(values[whole].tolist() for values in (cells, starts, stops)), strict=True)
        found += [Partition(order, *leaf) for leaf in leaves]
        cells = (cells[crowded, np.newaxis] * 4 + np.arange(4)).ravel()
    return tuple(sorted(found, key=lambda partition: partition.start))


def margin_rows(catalogue: Catalogue, partition: Partition) -> NDArray[np.int64]:
    """Return the rows outside a partition that are at most `MARGIN_ARCSEC` (and a cell) away, ascending."""
    from cdshealpix.nested import external_neighbours

    pixel = np.array([partition.pixel], dtype=np.uint64)
    borders, corners = external_neighbours(pixel, partition.order, _MARGIN_ORDER - partition.order)
    cells = np.unique(np.concatenate([borders.ravel(), corners.ravel()]).astype(np.int64))
    starts, stops = _rows_of(catalogue, cells[cells >= 0], _MARGIN_ORDER)
    return np.concatenate([np.zeros(0, np.int64), *row_numbers(starts, stops, len(catalogue))])


@dataclass(frozen=True)
class HatsRows:
    """The rows of a catalogue as the files of a collection hold them."""

    catalogue: Catalogue
    limit: int
    """Most rows of a partition."""

    @cached_property
    def parts(self) -> tuple[Partition, ...]:
        """Partitions, in the order of the rows."""
        return partitions(self.catalogue, self.limit)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Those of the catalogue, the HEALPix cell under HATS's name."""
        return tuple(
            replace(column, name=HATS_HEALPIX, null=None) if column.name == c.HEALPIX.name else column
            for column in self.catalogue.columns
        )

    @cached_property
    def schema(self) -> Any:
        """The `pyarrow.Schema` of every file."""
        return arrow_schema(self.columns, self.catalogue.parameters)

    def primary(self, partition: Partition) -> Any:
        """Return the rows of a partition, a `pyarrow.Table`."""
        return self._table(np.arange(partition.start, partition.stop))

    def margin(self, partition: Partition) -> Any:
        """Return the rows of the margin of a partition, a `pyarrow.Table`."""
        return self._table(margin_rows(self.catalogue, partition))

    def index(self) -> Iterator[Rows]:
        """Yield the rows of the index, partition by partition."""
        names = [self.catalogue.columns[0].name, c.HEALPIX.name]
        for partition in self.parts:
            rows = self.catalogue.read(np.arange(partition.start, partition.stop), names)
            n = partition.stop - partition.start
            yield {
                names[0]: rows[names[0]],
                HATS_HEALPIX: rows[c.HEALPIX.name],
                "Norder": np.full(n, partition.order, dtype=np.uint8),
                "Npix": np.full(n, partition.pixel, dtype=np.uint64),
            }

    def _table(self, numbers: NDArray[np.int64]) -> Any:
        import pyarrow as pa

        parts = [numbers[first : first + _ROWS_AT_A_TIME] for first in range(0, len(numbers), _ROWS_AT_A_TIME)]
        return pa.concat_tables([self.schema.empty_table(), *map(self._some, parts)])

    def _some(self, numbers: NDArray[np.int64]) -> Any:
        read = self.catalogue.read(numbers, list(self.catalogue.by_name))
        rows = dict(zip((column.name for column in self.columns), read.values(), strict=True))
        return arrow_table(self.columns, rows, self.schema)


@dataclass(frozen=True)
class _Writer:
    """Writes the datasets of one collection."""

    folder: Path
    rows: HatsRows
    created: str

    @property
    def about(self) -> dict[str, str]:
        """What every part says of its making."""
        date = self.created[:16] + "UTC"
        return {"hats_builder": f"gzsurvey {__version__}", "hats_creation_date": date, "hats_version": "v1.0"}

    def primary(self, default_columns: Sequence[str]) -> None:
        """Write ``catalogue/``."""
        folder, sky = self.folder / PRIMARY, np.zeros(12 * 4**SKYMAP_ORDER, dtype=np.int64)
        dataset = Dataset(folder / DATASET, self.rows.schema)
        for partition in self.rows.parts:
            table = self.rows.primary(partition)
            sky += np.bincount(table[HATS_HEALPIX].to_numpy() >> 2 * (29 - SKYMAP_ORDER), minlength=len(sky))
            dataset.write(partition.place, table)
        dataset.finish()
        _write_skymap(folder / "skymap.fits", sky)
        names = [HATS_HEALPIX if name == c.HEALPIX.name else name for name in default_columns]
        about = {
            "dataproduct_type": "object",
            "hats_cols_default": " ".join(names),
            "hats_max_rows": self.rows.limit,
            "hats_skymap_order": SKYMAP_ORDER,
            "hats_estsize": dataset.bytes // 1024,
        }
        self._describe(folder, self.rows.parts, dataset.rows, about)

    def margin(self) -> None:
        """Write ``margin/``, empty where there is but one partition."""
        folder, filled = self.folder / MARGIN, []
        dataset = Dataset(folder / DATASET, self.rows.schema)
        for partition in self.rows.parts:
            table = self.rows.margin(partition)
            if len(table):
                dataset.write(partition.place, table)
                filled.append(partition)
        dataset.finish()
        about = {
            "dataproduct_type": "margin",
            "hats_primary_table_url": PRIMARY,
            "hats_margin_threshold": MARGIN_ARCSEC,
        }
        self._describe(folder, filled, dataset.rows, about)

    def index(self) -> None:
        """Write ``id_index/``."""
        folder, id_column, n_rows = self.folder / INDEX, self.rows.columns[0], len(self.rows.catalogue)
        folder.mkdir()
        write_id_index(folder / DATASET, id_column, self.rows.index())
        about: dict[str, Any] = {
            "obs_collection": INDEX,
            "dataproduct_type": "index",
            "hats_nrows": n_rows,
            "hats_primary_table_url": PRIMARY,
            "hats_index_column": id_column.name,
        }
        _write_properties(folder / PROPERTIES, about | self.about)

    def _describe(self, folder: Path, parts: Sequence[Partition], rows: int, about: Mapping[str, Any]) -> None:
        """Write the list of partitions and the properties of a dataset whose files are cells of the sky."""
        cells = sorted((partition.order, partition.pixel) for partition in parts)
        lines = ["Norder,Npix", *(f"{order},{pixel}" for order, pixel in cells)]
        (folder / "partition_info.csv").write_text("\n".join(lines) + "\n", encoding="ascii")
        spatial = {
            "obs_collection": folder.name,
            "hats_nrows": rows,
            "hats_col_ra": c.RA.name,
            "hats_col_dec": c.DEC.name,
            "hats_col_healpix": HATS_HEALPIX,
            "hats_col_healpix_order": 29,
            "hats_npix_suffix": ".parquet",
            "hats_order": max((order for order, _ in cells), default=0),
            "moc_sky_fraction": f"{sum(4.0**-order for order, _ in cells) / 12:.5f}",
        }
        _write_properties(folder / PROPERTIES, spatial | dict(about) | self.about)


def _rows_of(catalogue: Catalogue, cells: Cells, order: int) -> tuple[Cells, Cells]:
    """Return first rows, and rows after the last, of some cells."""
    shift = 2 * (29 - order)
    below = [catalogue.count_below(c.HEALPIX.name, edge << shift) for edge in (cells, cells + 1)]
    return below[0], below[1]


def _write_skymap(path: Path, counts: NDArray[np.int64]) -> None:
    from cdshealpix.skymap import SkymapImplicit

    SkymapImplicit(counts, null_value=0).to_explicit().to_fits(str(path))


def _write_properties(path: Path, values: Mapping[str, Any]) -> None:
    lines = ["#HATS 1.0", *(f"{key}={value}" for key, value in values.items())]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
