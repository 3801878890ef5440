"""A published run is verified; every damage to it is found and named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from outputs.runs import make_run
from PIL import Image

from gzsurvey.errors import RecipeError, VerificationFailed
from gzsurvey.outputs.fits_reader import open_fits
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import read_rows, write_block
from gzsurvey.recipes.cluster import load_cluster
from gzsurvey.survey import classify, ledger, publish, verify
from gzsurvey.survey.record import read_record

from .tiny import job, write_model, write_targets

N = 280


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, targets, model and a RUN of two blocks."""
    folder = tmp_path_factory.mktemp("verify")
    targets = write_targets(folder / "targets.csv", N)
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for line in targets.read_text().splitlines()[1:-5]:
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{line.split(',')[0]}.png")
    wanted = job(write_model(folder / "model.onnx"), targets, f"images:{folder / 'images'}", keep=("mag",))
    classify(wanted, folder / "run", load_cluster("none"))
    return folder


@pytest.fixture
def run(survey: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(survey / "run", tmp_path / "run"))


def flip(path: Path, where: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def mend(run: Path, *files: Path) -> None:
    """Write the checksum of changed files where the old one stood."""
    listed = RunPaths(run).checksums
    text = listed.read_text()
    for file in files:
        digest, name = hashlib.sha256(file.read_bytes()).hexdigest(), file.relative_to(run).as_posix()
        text = re.sub(rf"^[0-9a-f]{{64}}  {re.escape(name)}$", f"{digest}  {name}", text, flags=re.MULTILINE)
    listed.write_text(text)


def faults(run: Path) -> tuple[str, ...]:
    with pytest.raises(VerificationFailed) as caught:
        verify(run)
    assert "\n" not in str(caught.value)
    return caught.value.problems


def test_a_sound_run_passes(survey: Path, run: Path) -> None:
    said = str(verify(run))
    assert f"{N} rows are the same in all products; 16 rows recomputed from the images and 0 from checks/ agree" in said
    subprocess.run(["sha256sum", "--check", "--quiet", "sha256.txt"], cwd=run, check=True)
    (survey / "images").rename(survey / "gone")
    try:
        assert "0 rows recomputed from the images and 16 from checks/ agree" in str(verify(run))
    finally:
        (survey / "gone").rename(survey / "images")


def test_chosen_targets_are_recomputed(survey: Path, run: Path, tmp_path: Path) -> None:
    lines = (survey / "targets.csv").read_text().splitlines()
    table = tmp_path / "some.csv"
    table.write_text("\n".join([lines[0], *lines[20:60]]) + "\n")
    assert "40 rows recomputed from the images" in str(verify(run, str(table)))


def test_one_flipped_byte_in_each_product_is_named(run: Path) -> None:
    paths = RunPaths(run)
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in {"metrics.jsonl", "run.lock"}]
    private = {paths.ledger, paths.logs}
    files = [path for path in files if not private & set(path.parents) and path != paths.checksums]
    kinds = {path.relative_to(run).parts[0] for path in files}
    assert {"catalogue.fits", "catalogue_full.fits", "predictions.zarr", "missing.ecsv", "provenance.json"} <= kinds
    files = [path for path in files if path.stat().st_size and path not in (paths.preview, paths.index)]
    for path in files:
        flip(path)
    found = faults(run)
    for path in files:
        name = path.relative_to(run).as_posix()
        array = re.match(r"(predictions.zarr/\w+)/c/(\d)", name)
        said = f"{array[1]}: block {array[2]} is damaged" if array else f"{name} is not the file"
        assert any(problem.startswith(said) for problem in found), name


def test_the_block_of_a_damaged_catalogue_is_named(run: Path) -> None:
    with fits.open(run / "catalogue.fits") as hdus:
        start = hdus[1].fileinfo()["datLoc"] + 270 * hdus[1].header["NAXIS1"]
    flip(run / "catalogue.fits", (start + 5) / ((run / "catalogue.fits").stat().st_size - 1))
    first, second = faults(run)
    assert first.startswith("catalogue.fits is not the file that was published")
    assert second.startswith("catalogue.fits: block 1, row 270, column id says")


def test_a_lost_file_is_named(run: Path) -> None:
    (run / "missing.ecsv").unlink()
    (run / "predictions.zarr/status/c/1").unlink()
    found = faults(run)
    assert "missing.ecsv is missing" in found
    assert "predictions.zarr/status: block 1 is missing" in found


def test_one_changed_value_with_the_checksum_mended_is_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, n=600)
    publish(run)
    paths = RunPaths(run)
    for product, row, column in ((paths.catalogue, 2, "bar_no_fraction"), (paths.catalogue_full, 300, "image_id")):
        dtype = open_fits(product).records.dtype
        with fits.open(product) as hdus:
            offset = hdus[1].fileinfo()["datLoc"]
        value = np.array([0.123], dtype=">f4").tobytes() if column == "bar_no_fraction" else b"X"
        with product.open("r+b") as file:
            file.seek(offset + row * dtype.itemsize + dtype.fields[column][1])
            file.write(value)
    block = next(iter(read_record(run).blocks[2:]))
    values = read_rows(paths.zarr, block.start, block.stop)
    values["mag_r"][3] += 1
    entry = ledger.read_entries(run)[2]
    shards = write_block(paths.zarr, paths.aside, 2, values)
    changed = {name: {"bytes": shard.bytes, "sha256": shard.sha256} for name, shard in shards.items()}
    ledger.write_entry(run, ledger.LedgerEntry.model_validate(entry.model_dump() | {"shards": changed}))
    index = next((paths.hats / "id_index/dataset/index").iterdir())
    rows = pq.read_table(index)
    pq.write_table(rows.set_column(0, rows.field(0), pa.array([-9, *rows.column(0).to_pylist()[1:]])), index)
    shutil.copyfile(paths.moc / "delivered.fits", paths.moc / "missing.fits")
    lines = paths.missing.read_text().splitlines(keepends=True)
    lines[-3] = lines[-3].replace("because", "because not")
    paths.missing.write_text("".join(lines))
    document = json.loads(paths.provenance.read_text())
    document["entity"]["gzsurvey:model"]["gzsurvey:sha256"] = "0" * 64
    paths.provenance.write_text(json.dumps(document))
    mend(run, paths.catalogue, paths.catalogue_full, index, paths.moc / "missing.fits", paths.missing, paths.provenance)
    found = faults(run)
    assert not [problem for problem in found if "more rows" in problem]
    for said in (
        "catalogue.fits: block 0, row 2, column bar_no_fraction says 0.12",
        "catalogue_full.fits: block 1, row 300, column image_id says Xrick-300, predictions.zarr brick-300",
        "predictions.zarr/mag_r: block 2, row 515",
        "hats/id_index/dataset/index/part-00000.parquet: -9 does not stand where it says",
        "moc/missing.fits has other cells",
        "missing.ecsv: block 2, row 592 says",
        "provenance.json: entity gzsurvey:model is not what",
        "hats/catalogue/dataset/Norder=0/Dir=0/Npix=6.parquet: column image_id differs",
    ):
        assert any(problem.startswith(said) for problem in found), said + "\n" + "\n".join(found)


def test_a_prediction_that_its_pixels_do_not_give_is_found(run: Path) -> None:
    paths, record = RunPaths(run), read_record(run)
    block = record.blocks[0]
    row = min(record.check_rows)
    values = read_rows(paths.zarr, block.start, block.stop)
    values["embedding"][row] *= 1.5
    shards = write_block(paths.zarr, paths.aside, 0, values)
    entry = ledger.read_entries(run)[0]
    changed = {name: {"bytes": shard.bytes, "sha256": shard.sha256} for name, shard in shards.items()}
    ledger.write_entry(run, ledger.LedgerEntry.model_validate(entry.model_dump() | {"shards": changed}))
    assert f"predictions.zarr/embedding: row {row} is not what its pixels give" in faults(run)


def test_what_is_not_published_cannot_be_verified(tmp_path: Path) -> None:
    make_run(tmp_path / "run", n=20)
    with pytest.raises(RecipeError, match=r"has no sha256\.txt; make it with 'gzsurvey publish'"):
        verify(tmp_path / "run")
