"""Runs of one model become one run, as if it had been planned so."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from outputs.runs import make_run

from gzsurvey.catalogue import read_catalogue
from gzsurvey.errors import CardMismatch, OutputConflict, RunIncomplete, TableError
from gzsurvey.outputs.zarr import read_rows
from gzsurvey.recipes.cluster import load_cluster
from gzsurvey.survey import classify, merge, verify
from gzsurvey.survey.record import read_record, write_record

from .tiny import job, write_model, write_targets

N = 700


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two overlapping runs, the second with newer images, and one of all targets."""
    folder = tmp_path_factory.mktemp("merge")
    model, targets = write_model(folder / "model.onnx"), write_targets(folder / "targets.csv", N)
    lines = targets.read_text().splitlines()
    for name, rows in (("first", lines[1:451]), ("second", lines[401:])):
        (folder / f"{name}.csv").write_text("\n".join([lines[0], *rows]) + "\n")
        classify(job(model, folder / f"{name}.csv", keep=("mag",)), folder / name, load_cluster("none"))
    classify(job(model, targets, keep=("mag",)), folder / "whole", load_cluster("none"))
    merge([folder / "first", folder / "second"], folder / "merged")
    return folder


@pytest.mark.slow
def test_it_is_the_run_of_all_targets(folder: Path) -> None:
    merged, whole = (read_catalogue(folder / name) for name in ("merged", "whole"))
    assert len(merged) == N
    assert all(np.ma.allequal(merged[name], whole[name]) for name in whole.colnames)
    ours, theirs = (read_rows(folder / name / "predictions.zarr", 0, N) for name in ("merged", "whole"))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    record = read_record(folder / "merged")
    assert record.n_blocks == 3
    assert (record.cuts[-1].before, record.cuts[-1].after) == (450 + 300, N)


@pytest.mark.slow
def test_it_verifies(folder: Path) -> None:
    assert f"{N} rows are the same in all products; 3" in str(verify(folder / "merged"))


@pytest.mark.slow
def test_again_it_finishes_at_once_and_others_are_refused(folder: Path) -> None:
    before = (folder / "merged/run.json").stat().st_mtime_ns
    merge([folder / "first", folder / "second"], folder / "merged")
    assert (folder / "merged/run.json").stat().st_mtime_ns == before
    with pytest.raises(OutputConflict, match="run 1 was first"):
        merge([folder / "second", folder / "first"], folder / "merged")


@pytest.mark.slow
def test_the_last_named_wins_whatever_its_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["gzsurvey.survey.merge"], "_IDS_AT_A_TIME", 7)
    first = make_run(tmp_path / "first", n=600)
    later = {"ra": first["ra"][:300], "dec": first["dec"][:300], "healpix_29": first["healpix_29"][:300]}
    ids = np.arange(10_000, 10_300)
    ids[::2] = first["id"][300:450]
    second = make_run(tmp_path / "second", n=300, id=ids, mag_r=np.full(300, 12, np.float32), **later)
    merge([tmp_path / "first", tmp_path / "second"], tmp_path / "out")
    table = read_catalogue(tmp_path / "out")
    assert len(table) == 600 + 150
    assert len(set(table["objid"])) == len(table)
    assert (np.diff(table["healpix_29"]) >= 0).all()
    newer = np.isin(table["objid"], second["id"])
    assert (table["mag_r"][newer] == 12).all()
    assert newer.sum() == 300
    assert set(table["objid"][~newer]) == set(first["id"]) - set(second["id"])
    verify(tmp_path / "out")


def test_runs_that_do_not_belong_together(tmp_path: Path) -> None:
    make_run(tmp_path / "a", n=300)
    make_run(tmp_path / "b", n=300, id=np.array([f"x{i}" for i in range(300)]))
    make_run(tmp_path / "c", n=300, skip={1})
    with pytest.raises(TableError, match=r"has other columns than .*a: id"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    with pytest.raises(RunIncomplete, match="merged when it is finished"):
        merge([tmp_path / "a", tmp_path / "c"], tmp_path / "out")
    record = read_record(tmp_path / "b")
    write_record(tmp_path / "b", record.model_copy(update={"model_sha256": "f" * 64}))
    with pytest.raises(CardMismatch, match="another model"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
