"""Plan and run: every target once, the same bytes however often it is interrupted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table
from PIL import Image

from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.synthetic import SyntheticSource
from gzsurvey.errors import (
    CardMismatch,
    ClusterError,
    OutputBusy,
    OutputConflict,
    RecipeError,
    RunIncomplete,
    SourceError,
    TableError,
)
from gzsurvey.images.frame import Frame
from gzsurvey.inference import OnnxModel
from gzsurvey.outputs.zarr import array_attributes, read_rows
from gzsurvey.recipes.cluster import ClusterProfile, load_cluster
from gzsurvey.recipes.preparation import ScaleRule, Stretch
from gzsurvey.status import Status
from gzsurvey.survey import checks, ledger, plan, run, sources, status, worker
from gzsurvey.survey.record import read_record
from survey import tiny

HERE = load_cluster("none")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_model(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    return tiny.write_targets(tmp_path / "targets.csv", 700)


def shards(run_dir: Path) -> dict[str, str]:
    """Checksum of every file of the store but metadata."""
    files = (path for path in (run_dir / "predictions.zarr").rglob("*") if path.is_file() and path.name != "zarr.json")
    return {str(p.relative_to(run_dir)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_every_target_is_predicted_once_and_in_sky_order(model: Path, targets: Path, tmp_path: Path) -> None:
    planned = plan(tiny.job(model, targets, keep=("mag",)), tmp_path / "run", HERE)
    assert planned.record.n_blocks == 3
    assert "700 targets in 3 blocks of 256" in str(planned)
    summary = run(tmp_path / "run", HERE)
    assert (summary.finished, summary.already_finished) == (3, 0)
    rows = read_rows(tmp_path / "run/predictions.zarr", 0, 700)
    given = np.loadtxt(targets, delimiter=",", skiprows=1)
    assert sorted(rows["id"]) == sorted(given[:, 0].astype(int))
    assert (np.diff(rows["healpix_29"]) >= 0).all()
    assert (rows["status"] == Status.PREDICTED).all()
    by_id = dict(zip(given[:, 0].astype(int), given, strict=True))
    np.testing.assert_allclose(rows["mag"], [by_id[i][4] for i in rows["id"]])
    np.testing.assert_allclose(rows["cutout_width"], np.maximum(424 * 0.04 * rows["r50"], 42.4), rtol=1e-6)
    assert rows["embedding"].dtype == np.float16
    assert rows["concentration"].shape == (700, 5)
    assert np.isfinite(rows["ring_probability"]).all()
    assert array_attributes(tmp_path / "run/predictions.zarr")["mag"]["role"] == "kept"


def test_a_plan_need_not_look_at_any_target(model: Path, targets: Path, tmp_path: Path) -> None:
    planned = plan(tiny.job(model, targets, recipe=tiny.recipe(preview_targets=0)), tmp_path / "run", HERE)
    assert "700 targets in 3 blocks" in str(planned)
    assert not (tmp_path / "run/preview.png").exists()


def test_checks_hold_what_the_model_saw(model: Path, targets: Path, tmp_path: Path) -> None:
    plan(tiny.job(model, targets), tmp_path / "run", HERE)
    run(tmp_path / "run", HERE)
    kept = list(checks.read(tmp_path / "run"))
    assert sorted(np.concatenate([block["row"] for block in kept])) == sorted(read_record(tmp_path / "run").check_rows)
    again = OnnxModel(model).run(np.ascontiguousarray(kept[0]["image"].transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(again["concentration"], kept[0]["concentration"])
    stored = read_rows(tmp_path / "run/predictions.zarr", 0, 700, ["concentration"])["concentration"]
    np.testing.assert_array_equal(stored[kept[0]["row"]], kept[0]["concentration"])


def test_a_row_has_the_same_bytes_whatever_its_neighbours(model: Path, targets: Path, tmp_path: Path) -> None:
    lines = targets.read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join([lines[0], *lines[:1:-3]]) + "\n")
    found = []
    for name, asked, threads in (
        ("all", tiny.job(model, targets), 1),
        ("some", tiny.job(model, tmp_path / "some.csv", batch_size=5), 3),
    ):
        plan(asked, tmp_path / name, HERE)
        run(tmp_path / name, ClusterProfile(kind="none", threads=threads))
        found.append(read_rows(tmp_path / name / "predictions.zarr", 0, read_record(tmp_path / name).rows))
    rows = {id_: row for row, id_ in enumerate(found[0]["id"])}
    chosen = [rows[id_] for id_ in found[1]["id"]]
    assert len(chosen) == 233
    for output in ("embedding", "concentration", "ring_probability"):
        assert found[1][output].tobytes() == found[0][output][chosen].tobytes()


def test_a_flux_model_sees_nanomaggies(targets: Path, tmp_path: Path) -> None:
    model = tiny.write_model(tmp_path / "flux.onnx", stretch=Stretch(kind="flux"))
    assert OnnxModel(model).card.input_type == "float32"
    plan(tiny.job(model, targets), tmp_path / "run", HERE)
    run(tmp_path / "run", HERE)
    rows = read_rows(tmp_path / "run/predictions.zarr", 0, 700)
    assert (rows["status"] == Status.PREDICTED).all()
    kept = next(checks.read(tmp_path / "run"))
    assert kept["image"].dtype == np.float32
    request = Request(0, str(kept["id"][0]), 0.0, 0.0, Frame(tiny.SIZE, 1.0))
    ((_, drawn),) = SyntheticSource(OnnxModel(model).card.preparation).fetch([request])
    assert isinstance(drawn, Cutout)
    np.testing.assert_array_equal(np.moveaxis(kept["image"][0], -1, 0)[:, ::-1], drawn.pixels)
    again = OnnxModel(model).run(np.ascontiguousarray(kept["image"].transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(again["concentration"], rows["concentration"][kept["row"]], rtol=1e-6)
    assert Image.open(tmp_path / "run/preview.png").size[0] > 0


def test_pictures_are_refused_for_a_flux_model(targets: Path, tmp_path: Path) -> None:
    model = tiny.write_model(tmp_path / "flux.onnx", stretch=Stretch(kind="flux"))
    (tmp_path / "stamps").mkdir()
    (tmp_path / "stamps" / "1.jpg").write_bytes(jpeg(9))
    with pytest.raises(SourceError, match="gives ready pictures, and the model takes flux"):
        plan(tiny.job(model, targets, f"images:{tmp_path / 'stamps'}"), tmp_path / "run", HERE)


def test_a_look_without_a_common_range_is_said(targets: Path, tmp_path: Path) -> None:
    model = tiny.write_model(tmp_path / "model.onnx", stretch=Stretch(kind="percentile"))
    planned = plan(tiny.job(model, targets), tmp_path / "run", HERE)
    assert "stretch 'percentile' takes its range from each cutout" in str(planned)


def test_repeating_a_finished_run_does_nothing(model: Path, targets: Path, tmp_path: Path) -> None:
    job = tiny.job(model, targets)
    plan(job, tmp_path / "run", HERE)
    run(tmp_path / "run", HERE)
    before = shards(tmp_path / "run")
    assert "planned before" in str(plan(job, tmp_path / "run", load_cluster("laptop")))
    again = run(tmp_path / "run", HERE)
    assert "3 of 3 blocks were already finished" in str(again)
    assert shards(tmp_path / "run") == before


def test_blocks_without_a_ledger_entry_or_with_damaged_files_are_redone(
    model: Path, targets: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    plan(tiny.job(model, targets), run_dir, HERE)
    run(run_dir, HERE)
    before = shards(run_dir)
    (run_dir / "ledger/block-000000.json").unlink()
    (run_dir / "predictions.zarr/status/c/2").write_bytes(b"half")
    (run_dir / "aside/stray").write_bytes(b"left by a killed worker")
    assert status(run_dir).finished == 2, "it counts entries; files are looked at by what needs them"
    assert run(run_dir, HERE).already_finished == 1
    assert shards(run_dir) == before
    assert not list((run_dir / "aside").iterdir())


def test_same_bytes_wherever_it_runs(model: Path, targets: Path, tmp_path: Path) -> None:
    plan(tiny.job(model, targets), tmp_path / "one", HERE)
    run(tmp_path / "one", HERE)
    plan(tiny.job(model, targets), tmp_path / "two", HERE)
    summary = run(tmp_path / "two", load_cluster("laptop"))
    assert summary.finished == 3
    assert shards(tmp_path / "one") == shards(tmp_path / "two")


def test_other_inputs_are_refused_with_the_difference(model: Path, targets: Path, tmp_path: Path) -> None:
    plan(tiny.job(model, targets), tmp_path / "run", HERE)
    with pytest.raises(OutputConflict, match="select was nothing, now mag < 17"):
        plan(tiny.job(model, targets, select="mag < 17"), tmp_path / "run", HERE)
    tiny.write_targets(targets, 700, seed=2)
    with pytest.raises(OutputConflict, match="targets was"):
        plan(tiny.job(model, targets), tmp_path / "run", HERE)


def test_a_second_run_is_refused_while_one_is_alive(model: Path, targets: Path, tmp_path: Path) -> None:
    plan(tiny.job(model, targets), tmp_path / "run", HERE)
    with ledger.locked(tmp_path / "run"):
        assert status(tmp_path / "run").alive
        with pytest.raises(OutputBusy, match="is working on it now"):
            run(tmp_path / "run", HERE)
    assert not status(tmp_path / "run").alive
    assert run(tmp_path / "run", HERE).finished == 3


def test_one_failed_block_is_recorded_and_the_others_go_on(
    model: Path, targets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(tiny.job(model, targets), tmp_path / "run", HERE)
    real = worker.read_block_targets

    def broken(run_dir: Path, block: int) -> dict[str, np.ndarray]:
        if block == 1:
            raise ValueError("a worm in the disk")
        return real(run_dir, block)

    monkeypatch.setattr(worker, "read_block_targets", broken)
    with pytest.raises(RunIncomplete, match="1 of 3 blocks are not finished"):
        run(tmp_path / "run", HERE)
    assert ledger.read_entries(tmp_path / "run")[1].attempts == 3
    assert "block 1 failed: ValueError" in str(status(tmp_path / "run"))
    monkeypatch.undo()
    assert run(tmp_path / "run", HERE).already_finished == 2


def jpeg(colour: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), colour, np.uint8)).save(out, format="JPEG")
    return out.getvalue()


def test_missing_and_broken_images_are_misses_and_can_be_retried(model: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name, content in (("b", jpeg(90)), ("a", jpeg(200)[:300]), ("d", jpeg(10))):
        (images / f"{name}.jpg").write_bytes(content)
    (tmp_path / "t.csv").write_text("id\nd\nb\na\nc\n")
    run_dir = tmp_path / "run"
    plan(tiny.job(model, tmp_path / "t.csv", f"images:{images}"), run_dir, HERE)
    assert run(run_dir, HERE).statuses == {0: 2, 20: 1, 22: 1}
    rows = read_rows(run_dir / "predictions.zarr", 0, 4)
    assert rows["id"].tolist() == ["d", "b", "a", "c"]
    assert rows["status"].tolist() == [0, 0, 22, 20]
    assert (rows["healpix_29"] == -1).all()
    assert np.isnan(rows["ra"]).all()
    assert np.isnan(rows["concentration"][2:]).all()
    assert rows["image_set"][0] == "images:images"
    assert "c" in rows["reason"][3]
    (images / "c.jpg").write_bytes(jpeg(50))
    assert run(run_dir, HERE, retry=[20]).statuses == {0: 3, 22: 1}
    after = read_rows(run_dir / "predictions.zarr", 0, 4)
    assert after["status"].tolist() == [0, 0, 22, 0]
    np.testing.assert_array_equal(after["concentration"][:2], rows["concentration"][:2])
    assert after["reason"].tolist()[3] == ""
    with pytest.raises(RecipeError, match="99 is no status"):
        run(run_dir, HERE, retry=[99])


def test_predictions_that_are_not_finite_are_marked(targets: Path, tmp_path: Path) -> None:
    model = tiny.write_model(tmp_path / "nan.onnx", gain=float("nan"))
    plan(tiny.job(model, targets), tmp_path / "run", HERE)
    assert run(tmp_path / "run", HERE).statuses == {Status.PREDICTION_NOT_FINITE: 700}
    rows = read_rows(tmp_path / "run/predictions.zarr", 0, 700, ["embedding", "reason"])
    assert np.isnan(rows["embedding"]).all()
    assert set(rows["reason"]) == {"the model's output is not finite"}


class Listed:
    """A source with the answers it was given."""

    def __init__(self, name: str, found: dict[int, Cutout | Miss]) -> None:
        self.name, self.found = name, found

    def fetch(self, requests):  # type: ignore[no-untyped-def]
        for request in requests:
            yield request.row, self.found.get(request.row, Miss(Status.OUTSIDE_IMAGING, "outside", image_set=self.name))


def test_the_first_source_that_covers_a_target_serves_it() -> None:
    pixels = np.ones((3, 8, 8), np.float32)
    nan, inf = np.full_like(pixels, np.nan), np.full_like(pixels, np.inf)
    first = Listed("first", {0: Cutout(pixels, image_set="first"), 1: Cutout(pixels, 0.5, image_set="first")})
    good, better = Cutout(pixels, image_set="second"), Cutout(pixels, 0.1, image_set="second")
    second = Listed("second", {0: good, 2: better, 3: Cutout(nan), 4: Cutout(inf)})
    wanted = sources.requests(
        {"id": np.arange(6), "ra": np.zeros(6), "dec": np.zeros(6), "cutout_width": np.full(6, 30.0)},
        range(6), tiny.card().preparation,
    )  # fmt: skip
    found = dict(sources.answers((first, second), wanted, 0.2))
    assert sorted(found) == list(range(6))
    assert [found[row].image_set for row in (0, 2)] == ["first", "second"]
    assert found[1].status == Status.MISSING_PIXELS  # type: ignore[union-attr]
    assert [found[row].status for row in (3, 4)] == [Status.PIXELS_NOT_FINITE] * 2  # type: ignore[union-attr]
    assert found[5].status == Status.OUTSIDE_IMAGING  # type: ignore[union-attr]


def test_a_source_that_is_down_makes_the_block_wait(model: Path, targets: Path, tmp_path: Path) -> None:
    plan(tiny.job(model, targets), tmp_path / "run", HERE)
    record = read_record(tmp_path / "run")
    rows = {"status": np.full(256, 21), "reason": np.full(256, "HTTP 503", object)}
    with pytest.raises(worker.SourceFault, match="256 of 256 targets: HTTP 503"):
        worker._check_faults(record, rows)
    rows["status"][:128] = 0
    worker._check_faults(record, rows)


@pytest.mark.parametrize(
    ("table", "changes", "error", "said"),
    [
        ("id,ra,dec,r50\n1,10,95,2\n", {}, TableError, "not on the sky: .10, 95."),
        ("id,ra,dec,r50\n1,10,5,2\n1,11,5,2\n", {}, TableError, "1 ids stand twice, e.g. 1"),
        ("id,ra,dec\n1,10,5\n", {}, TableError, "--size-column"),
        ("id,ra,dec,r50\n", {}, TableError, "is empty"),
        ("id,ra,dec,r50,status\n1,10,5,2,0\n", {"keep": ("status",)}, TableError, "rename it"),
        ("id,ra,dec,r50\n1,10,5,2\n", {"campaigns": ("gz9",)}, CardMismatch, "no campaign 'gz9'"),
        ("id,ra,dec,r50\n1,10,5,2\n", {"footprint": "circle(1,1,0.1)"}, TableError, "no target is left"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    model: Path, tmp_path: Path, table: str, changes: dict[str, object], error: type[Exception], said: str
) -> None:
    (tmp_path / "t.csv").write_text(table)
    with pytest.raises(error, match=said):
        plan(tiny.job(model, tmp_path / "t.csv", **changes), tmp_path / "run", HERE)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_other_files_is_no_place_for_a_run(model: Path, targets: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("...")
    with pytest.raises(RecipeError, match=r"chapter1\.tex"):
        plan(tiny.job(model, targets), tmp_path / "thesis", HERE)


def test_a_fixed_field_needs_no_size_and_unknown_sizes_get_the_smallest(tmp_path: Path, model: Path) -> None:
    (tmp_path / "t.csv").write_text("id,ra,dec,r50\n1,10,5,\n2,10.1,5,5\n")
    planned = plan(tiny.job(model, tmp_path / "t.csv"), tmp_path / "rule", HERE)
    assert "1 targets have no size" in str(planned)
    (tmp_path / "u.csv").write_text("id,ra,dec\n1,10,5\n")
    fixed = tiny.write_model(tmp_path / "fixed.onnx", ScaleRule(kind="fixed", fov_arcsec=30.0))
    plan(tiny.job(fixed, tmp_path / "u.csv"), tmp_path / "fixed", HERE)
    run(tmp_path / "fixed", HERE)
    assert read_rows(tmp_path / "fixed/predictions.zarr", 0, 1)["cutout_width"].tolist() == [30.0]


def test_cuts_are_counted_and_an_earlier_run_can_be_left_out(model: Path, targets: Path, tmp_path: Path) -> None:
    first = plan(tiny.job(model, targets, select="mag < 16", limit=200), tmp_path / "one", HERE)
    rest = plan(tiny.job(model, targets, exclude=str(tmp_path / "one")), tmp_path / "two", HERE)
    assert first.record.rows == 200
    assert rest.record.rows == 500
    assert [(cut.name, cut.before, cut.after) for cut in rest.record.cuts][-1] == ("exclude run", 700, 500)


def test_a_scheduler_that_is_not_there_is_one_line(model: Path, targets: Path, tmp_path: Path) -> None:
    plan(tiny.job(model, targets), tmp_path / "run", HERE)
    with pytest.raises(ClusterError, match="no Dask scheduler answers"):
        run(tmp_path / "run", ClusterProfile(kind="address", address="tcp://127.0.0.1:9", wait_seconds=1))


def command(model: Path, targets: Path, run_dir: Path, cluster: str) -> list[str]:
    options = ["--model", model, "--targets", targets, "--cutouts", "synthetic:", "--out", run_dir, "--keep", "mag"]
    return [sys.executable, "-m", "gzsurvey", "classify", *map(str, options), "--cluster", cluster]


@pytest.mark.slow
def test_kill_nine_in_the_middle_loses_nothing(model: Path, tmp_path: Path) -> None:
    table = tiny.write_targets(tmp_path / "many.csv", 10_240)
    subprocess.run(command(model, table, tmp_path / "calm", "none"), check=True, capture_output=True)
    process = subprocess.Popen(
        command(model, table, tmp_path / "killed", "laptop"), start_new_session=True, stderr=subprocess.DEVNULL
    )
    entries, total = tmp_path / "killed/ledger", 0
    deadline = time.monotonic() + 120
    while not total or len(list(entries.glob("*.json"))) < 0.4 * total:
        assert process.poll() is None
        assert time.monotonic() < deadline
        total = total or ((tmp_path / "killed/run.json").exists() and read_record(tmp_path / "killed").n_blocks)
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1)
    left = status(tmp_path / "killed")
    assert total >= 8
    assert 0.3 <= left.finished / total <= 0.7
    again = subprocess.run(
        command(model, table, tmp_path / "killed", "laptop"), check=True, capture_output=True, text=True
    )
    assert f"{left.finished} of {total} blocks were already finished" in again.stdout
    metrics = (tmp_path / "killed/metrics.jsonl").read_text().splitlines()
    last = json.loads(metrics[-1])["session"]
    assert sum(json.loads(line)["session"] == last for line in metrics) == total - left.finished
    calm = read_rows(tmp_path / "calm/predictions.zarr", 0, 10_240)
    for name, values in read_rows(tmp_path / "killed/predictions.zarr", 0, 10_240).items():
        np.testing.assert_array_equal(values, calm[name], err_msg=name)
    one, two = (Table.read(tmp_path / name / "catalogue.fits") for name in ("calm", "killed"))
    assert one.colnames == two.colnames
    for name in one.colnames:
        a, b = (np.ma.filled(np.ma.asarray(table[name])) for table in (one, two))
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), name


@pytest.mark.long
def test_a_cluster_started_elsewhere_gives_the_same_bytes(model: Path, targets: Path, tmp_path: Path) -> None:
    bin_dir = Path(sys.executable).parent
    address = "tcp://127.0.0.1:18786"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    scheduler = subprocess.Popen(
        [bin_dir / "dask", "scheduler", "--host", "127.0.0.1", "--port", "18786", "--no-dashboard"], **quiet
    )
    worker_process = subprocess.Popen([bin_dir / "dask", "worker", address, "--nthreads", "2"], **quiet)
    try:
        plan(tiny.job(model, targets), tmp_path / "here", HERE)
        run(tmp_path / "here", HERE)
        plan(tiny.job(model, targets), tmp_path / "there", HERE)
        time.sleep(3)
        assert run(tmp_path / "there", load_cluster(address)).finished == 3
        assert shards(tmp_path / "here") == shards(tmp_path / "there")
    finally:
        worker_process.terminate()
        scheduler.terminate()
        worker_process.wait()
        scheduler.wait()
