from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from outputs.catalogues import make_block, make_card, make_stored

import gzsurvey
from gzsurvey.catalogue import read_catalogue
from gzsurvey.errors import TableError
from gzsurvey.outputs.columns import Layout
from gzsurvey.outputs.fits import open_table
from gzsurvey.outputs.parameters import Parameter
from gzsurvey.outputs.rows import catalogue_rows

N = 30


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    card = make_card()
    layout = Layout(card, ("gz_decals_dr8",), make_stored())
    with open_table(tmp_path / "catalogue.fits", layout.columns, N, [Parameter("MODEL", "m", "x")]) as table:
        table.append(catalogue_rows(make_block(card, N), layout))
    return tmp_path / "catalogue.fits"


def test_a_run_or_a_file_can_be_given(catalogue: Path) -> None:
    assert len(read_catalogue(catalogue)) == len(read_catalogue(str(catalogue.parent))) == N


def test_it_is_there_at_the_top(catalogue: Path) -> None:
    assert len(gzsurvey.read_catalogue(catalogue)) == N
    with pytest.raises(AttributeError, match="no attribute 'raed_catalogue'"):
        _ = gzsurvey.raed_catalogue


def test_units_descriptions_and_ucds_come_back(catalogue: Path) -> None:
    layout = Layout(make_card(), ("gz_decals_dr8",), make_stored())
    table = read_catalogue(catalogue)
    for column in layout.columns:
        read = table[column.name]
        assert read.description == column.description
        assert read.meta["ucd"] == column.ucd
        assert str(read.unit or "") == column.unit
    assert table.meta["MODEL"] == "m"


def test_nulls_are_masked(catalogue: Path) -> None:
    table = read_catalogue(catalogue)
    assert table["in_training"].mask.all()
    good = np.asarray(table["status"]) == 0
    assert not table["bar_strong_fraction"].mask[good].any()
    assert table["bar_strong_fraction"].mask[~good].all()


def test_what_is_no_catalogue_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.fits").write_text("no table")
    Table({"a": [1]}).write(tmp_path / "other.fits")
    for path, said in ((tmp_path / "text.fits", "cannot be read"), (tmp_path / "none.fits", "no such file")):
        with pytest.raises(TableError, match=said):
            read_catalogue(path)
    with pytest.raises(TableError, match="publish"):
        read_catalogue(tmp_path)
    assert len(read_catalogue(tmp_path / "other.fits")) == 1
