"""Catalogues: ids survive, positions are checked, pixels are not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from collections_of_pictures import png

from gzsurvey.dataset.tables import numbers, pick, positions, read_table, texts
from gzsurvey.errors import TableError

OBJID = 587732591714893851


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "ecsv", "fits", "parquet", "vot"])
def test_large_ids_and_text_survive_every_format(kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"objid": [OBJID, -OBJID], "name": ["0012", "b"], "value": [1.5, np.nan]})
    path = tmp_path / f"table.{kind}"
    if kind.startswith("csv"):
        frame.to_csv(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    else:
        Table.from_pandas(frame).write(path, **({"format": "votable"} if kind == "vot" else {}))
    read = read_table(path)
    assert texts(read["objid"], "t").tolist() == [str(OBJID), str(-OBJID)]
    assert texts(read["name"], "t").tolist() == ["0012", "b"]
    np.testing.assert_array_equal(numbers(read, "value", "t"), [1.5, np.nan])


def test_image_bytes_are_left_out(tmp_path: Path) -> None:
    table = pa.table({"id_str": ["a"], "image": [{"bytes": png(0), "path": "a.png"}], "ra": [1.0]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert list(read_table(tmp_path / "t.parquet").columns) == ["id_str", "ra"]
    assert list(read_table(tmp_path / "*.parquet", ["ra"]).columns) == ["ra"]
    pq.write_table(pa.table({"id": [1], "image": ["a.png"]}), tmp_path / "names.parquet")
    assert list(read_table(tmp_path / "names.parquet").columns) == ["id", "image"]


def test_ids_that_a_float_column_destroyed_are_refused() -> None:
    with pytest.raises(TableError, match="destroys"):
        texts(pd.Series([1.0, float(OBJID)], name="objid"), "t.csv")
    assert texts(pd.Series([3.0, np.nan]), "t").tolist() == ["3", ""]


def test_positions_are_degrees_on_the_sky() -> None:
    ra, dec = positions(pd.DataFrame({"RA": [-10.0, 360.0, np.nan], "Dec": [0.0, 90.0, 3.0]}), None, None, "t")
    assert ra[:2].tolist() == [350.0, 0.0]
    assert np.isnan([ra[2], dec[2]]).all()
    with pytest.raises(TableError, match="outside the sky") as caught:
        positions(pd.DataFrame({"ra": [1.0, 2.0], "dec": [3.0, 95.0]}), None, None, "t")
    assert caught.value.rows == (1,)
    with pytest.raises(TableError, match="holds text"):
        positions(pd.DataFrame({"RA": ["00:00:00.41"], "DEC": ["-10:22:25.7"]}), None, None, "t")


def test_a_column_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(TableError, match="it has a, b"):
        pick(pd.DataFrame({"a": [1], "b": [1]}), "c", (), "t")


def test_empty_and_absent_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("id,ra\n")
    for name in ("empty.csv", "absent.csv"):
        with pytest.raises(TableError, match=name):
            read_table(tmp_path / name)
