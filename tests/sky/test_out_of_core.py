"""Targets of any number: the same as if they were sorted in memory, whatever the pieces they were read in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Column, MaskedColumn, Table

from gzsurvey.errors import TableError
from gzsurvey.sky import healpix, tables
from gzsurvey.sky.footprint import parse_footprint
from gzsurvey.sky.pairs import ClosePairs
from gzsurvey.sky.tables import open_tables
from sky.reading import read

N = 900
NULL = np.iinfo(np.int64).min


def sky(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions all over the sky, and a crowded field across the meridian."""
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    crowd = n // 3
    ra[:crowd], dec[:crowd] = rng.normal(0, 20 / 3600, crowd) % 360, rng.normal(0, 20 / 3600, crowd)
    return ra, dec


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One table in three files: ids are numbers in two of them, text in one, some twice."""
    folder, rng = tmp_path_factory.mktemp("mixed"), np.random.default_rng(1)
    ra, dec = sky(N)
    ids = (2**53 + rng.permutation(N)).astype(np.int64)
    ids[[700, 710]] = ids[[10, 650]]
    ra[800], dec[800] = ra[20], dec[20]
    r50, mag = rng.uniform(0.5, 5, N), rng.uniform(14, 20, N)
    r50[rng.random(N) < 0.1] = np.nan
    flag, missing = rng.integers(-5, 5, N), rng.random(N) < 0.1
    name = np.array([f"g{i}é" for i in range(N)])
    about = {"id": ids, "ra": ra, "dec": dec, "r50": r50, "mag": mag, "name": name}
    whole = Table({**about, "flag": MaskedColumn(flag, mask=missing)})
    first, second, third = whole[:300], whole[300:600], whole[600:]
    pq.write_table(pa.Table.from_pandas(first.to_pandas()), folder / "a.parquet", row_group_size=70)
    second.write(folder / "b.ecsv")
    third["id"] = Column([f"{value}" if row % 7 else f"x{value}" for row, value in enumerate(third["id"])])
    third.write(folder / "c.csv", format="ascii.csv")
    text = np.concatenate([ids[:600].astype(str), np.asarray(third["id"])])
    return about | {"folder": folder, "id": text, "flag": np.where(missing, NULL, flag), "missing": missing}


def expected(mixed: dict[str, Any], limit: int) -> np.ndarray:
    """Rows in catalogue order, by numpy in memory."""
    inside = parse_footprint("box(0,0,160,160)").contains(mixed["ra"], mixed["dec"])
    rows = np.flatnonzero((mixed["mag"] < 19) & inside)
    rows = rows[np.sort(np.unique(mixed["id"][rows], return_index=True)[1])][:limit]
    return rows[np.lexsort((mixed["id"][rows], healpix.cells(mixed["ra"][rows], mixed["dec"][rows])))]


@pytest.mark.parametrize("chunk", [37, 10_000])
def test_the_same_as_in_memory_whatever_the_chunk(
    mixed: dict[str, Any], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_CHUNK", chunk)
    found = read(
        mixed["folder"] / "*",
        select="mag < 19",
        footprint=parse_footprint("box(0,0,160,160)"),
        duplicates="first",
        limit=300,
        keep=("mag", "name", "flag"),
        length=64,
    )
    rows = expected(mixed, 300)
    assert found.id.tolist() == mixed["id"][rows].tolist()
    for ours, given in (("ra", "ra"), ("dec", "dec"), ("r50", "r50"), ("keep:mag", "mag"), ("keep:name", "name")):
        np.testing.assert_array_equal(found.columns[ours], mixed[given][rows])
    flag = np.where(mixed["missing"][rows], NULL, mixed["flag"][rows])
    assert found.kept["flag"].tolist() == flag.tolist()
    assert found.kept_columns[2].null == NULL
    pairs = healpix.close_pairs(mixed["ra"][rows], mixed["dec"][rows], 1.0)
    assert pairs > 0
    assert found.notes[-1] == f"{pairs:,} pairs of targets are closer than 1 arcsec"
    assert [cut.name for cut in found.cuts] == ["table", "select", "footprint", "duplicates", "limit"]
    assert found.cuts[0].before == N
    assert found.cuts[-1].after == 300


def test_numbers_stay_numbers_and_repeated_ones_are_named_by_file(mixed: dict[str, Any], tmp_path: Path) -> None:
    for number, rows in enumerate((slice(0, 4), slice(4, 8))):
        ids = np.array([1, 2, 3, 2**62, 5, 3, 7, 1])[rows]
        Table({"id": ids, "ra": np.arange(4.0) + number, "dec": np.zeros(4)}).write(tmp_path / f"{number}.fits")
    with pytest.raises(TableError, match=r"1\.fits: 2 ids stand twice, e\.g\. 3") as refused:
        read(tmp_path / "*.fits")
    assert refused.value.rows == (1, 3)
    kept = read(tmp_path / "*.fits", duplicates="first")
    assert kept.id.dtype == np.int64
    assert sorted(kept.id.tolist()) == [1, 2, 3, 5, 7, 2**62]


def test_targets_of_an_earlier_run_are_left_out_as_numbers_and_as_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,ra,dec\n7,10,5\n8,11,5\n9,12,5\n")
    for number, earlier in enumerate(([8], ["8", "x"])):
        pq.write_table(pa.table({"id": earlier}), tmp_path / f"{number}.parquet")
        found = read(tmp_path / "t.csv", exclude_ids=tmp_path / f"{number}.parquet")
        assert found.id.tolist() == [7, 9] or sorted(found.id.tolist()) == [7, 9]
        assert (found.cuts[-1].name, found.cuts[-1].before, found.cuts[-1].after) == ("exclude run", 3, 2)


@pytest.mark.parametrize("piece", [50, 700, 5000])
def test_close_pairs_are_the_same_in_any_pieces(piece: int, tmp_path: Path) -> None:
    ra, dec = sky(3000, seed=4)
    order = np.argsort(healpix.cells(ra, dec))
    counted = ClosePairs(tmp_path, 1.0, piece)
    for start in range(0, len(ra), 400):
        counted.add(ra[order[start : start + 400]], dec[order[start : start + 400]])
    assert counted.finish() == healpix.close_pairs(ra, dec, 1.0) > 100
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("last", "kind", "values"),
    [
        ("8", "i", [7, 8]),
        ("8.5", "f", [7.0, 8.5]),
        ("+1e2", "f", [7.0, 100.0]),
        ("0012", "U", ["7", "0012"]),
        ("abc", "U", ["7", "abc"]),
        ("9999999999999999999", "U", ["7", "9999999999999999999"]),
    ],
)
def test_the_whole_text_file_decides_what_a_column_is(
    last: str, kind: str, values: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_CHUNK", 2)
    (tmp_path / "t.csv").write_text(f"# a comment\nx, y\n7,a\n,b\n null ,c\n{last},d\n")
    (file,) = open_tables(str(tmp_path / "t.csv"))
    chunks = [chunk["x"] for chunk in file.read(["x"])]
    assert [len(chunk) for chunk in chunks] == [2, 2]
    assert {chunk.dtype.kind for chunk in chunks} == {kind}
    together = np.ma.concatenate(chunks)
    assert together.mask.tolist() == [False, True, True, False]
    assert together.compressed().tolist() == values


def test_ecsv_is_what_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "t.ecsv"
    Table(
        {
            "id": np.array([2**64 - 1, 5], dtype=np.uint64),
            "code": ["0012", 'two "words" # here'],
            "good": [True, False],
            "few": MaskedColumn(np.array([3, 4], dtype=np.int16), mask=[False, True]),
            "x": np.array([np.nan, np.inf], dtype=np.float32),
        }
    ).write(path)
    (file,) = open_tables(str(path))
    (chunk,) = file.read(list(file.columns))
    assert chunk["id"].tolist() == [2**64 - 1, 5]
    assert chunk["code"].tolist() == ["0012", 'two "words" # here']
    assert chunk["good"].tolist() == [True, False]
    assert (chunk["few"].dtype, chunk["few"].tolist()) == (np.int16, [3, None])
    assert chunk["x"].dtype == np.float32
    path.write_text(path.read_text().replace("18446744073709551615", "many"))
    with pytest.raises(TableError, match="column 'id' holds something that is no uint64"):
        read(path)


@pytest.mark.parametrize("stated", [True, False])
def test_a_votable_that_is_too_long_names_the_converter(
    stated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"<TR><TD>{row}</TD><TD>{row / 1000}</TD><TD>5</TD></TR>\n" for row in range(40_000))
    fields = "".join(f'<FIELD name="{name}" datatype="double"/>' for name in ("id", "ra", "dec"))
    nrows = 'nrows="40000"' if stated else ""
    (tmp_path / "t.vot").write_text(
        '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE>'
        f"<TABLE name='t' {nrows}>{fields}<DATA><TABLEDATA>{rows}</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"
    )
    monkeypatch.setattr(tables, "VOTABLE_ROWS", 39_999)
    with pytest.raises(TableError, match=r"has 40,000 rows.*stilts tcopy in=t\.vot out=t\.fits"):
        open_tables(str(tmp_path / "t.vot"))


def test_an_empty_footprint_says_where_the_targets_lie(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,ra,dec\n7,10,5\n8,11,5\n")
    with pytest.raises(TableError, match=r"the footprint holds none of them, the first lies at \(10, 5\) degrees"):
        read(tmp_path / "t.csv", footprint=parse_footprint("circle(190,5,1)"))
