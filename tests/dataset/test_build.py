"""`dataset build`: what goes in comes out, once, in its place, and interrupted builds lose nothing."""

from __future__ import annotations

import csv
import io
import os
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from collections_of_pictures import catalogue, png, recipe, zipped
from PIL import Image

from gzsurvey import dataset
from gzsurvey.dataset import building, pictures
from gzsurvey.dataset import store as storing
from gzsurvey.dataset.store import Store
from gzsurvey.errors import OutputBusy, OutputConflict, RecipeError, SourceError, TableError
from gzsurvey.images.prepare import prepare_picture
from gzsurvey.lock import alone_in
from gzsurvey.progress import Progress

IDS = [f"g{i:02d}" for i in range(20)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "quiet", True)


@pytest.fixture
def labelled(tmp_path: Path) -> dict[str, object]:
    zipped(tmp_path / "a.zip", IDS)
    catalogue(tmp_path / "a.csv", IDS, ra=np.arange(20.0), dec=np.linspace(-5, 5, 20), r50=2.5, mag=17.0)
    return {"name": "a", "campaign": "gz2", "images": "a.zip", "catalogue": "a.csv", "r50_column": "r50",
            "mag_column": "mag", "licence": "CC0", "citation": "nobody"}  # fmt: skip


def rejected(store: Store) -> list[dict[str, str]]:
    with (store.path / "rejected.csv").open() as file:
        return list(csv.DictReader(file))


def test_images_and_votes_stand_side_by_side(tmp_path: Path, labelled: dict[str, object]) -> None:
    zipped(tmp_path / "b.zip", ["u1", "u2"], first_seed=100)
    made = recipe(tmp_path, [labelled, {"name": "b", "images": "b.zip"}])
    store = dataset.build(made, tmp_path / "store")
    table = pd.read_csv(tmp_path / "a.csv")
    votes = store.vote_counts(np.arange(22))
    assert votes.shape == (22, 206)
    assert votes.dtype == np.int32
    for column in [c for c in table if "gz2_" in c]:
        np.testing.assert_array_equal(votes[:20, store.tree.vote_columns.index(column)], table[column])
    assert votes.sum() == table[[c for c in table if "gz2_" in c]].to_numpy().sum()
    for row in (0, 7, 21):
        seed = row if row < 20 else 80 + row
        original = np.asarray(Image.open(io.BytesIO(png(seed))))
        np.testing.assert_array_equal(store.images([row])[0], prepare_picture(original, made.preparation))
    galaxies = store.galaxies
    assert tuple(galaxies.columns) == storing.GALAXY_COLUMNS
    assert galaxies["id"].tolist() == [*IDS, "u1", "u2"]
    assert galaxies["campaign"].tolist() == ["gz2"] * 20 + [""] * 2
    assert np.isnan(galaxies["ra"].iloc[-1])
    assert set(galaxies["r50"].iloc[:20]) == {2.5}
    assert [c.galaxies for c in store.info.credits] == [20, 2]
    assert store.info.without_positions == ("b",)


def test_zarr_opens_and_numpy_maps_the_same_files(
    tmp_path: Path, labelled: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "ROWS_PER_CHUNK", 8)
    store = dataset.build(recipe(tmp_path, [labelled]), tmp_path / "store")
    group = zarr.open_group(tmp_path / "store" / "store.zarr", mode="r")
    assert group["images"].shape == (20, 32, 32, 3)
    assert group["images"].chunks == (8, 32, 32, 3)
    np.testing.assert_array_equal(group["images"][:], store.images(range(20)))
    np.testing.assert_array_equal(group["votes"][:], store.vote_counts(np.arange(20)))
    assert isinstance(store._map_images(2).base, np.memmap)


def test_bad_images_are_listed_and_the_build_goes_on(tmp_path: Path, labelled: dict[str, object]) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i, name in enumerate(IDS[:-1]):
            data = png(i)
            if i == 3:
                data = data[:200]
            if i == 5:
                buffer = io.BytesIO()
                Image.new("RGB", (40, 40)).save(buffer, format="PNG")
                data = buffer.getvalue()
            archive.writestr(f"{name}.png", data)
    store = dataset.build(recipe(tmp_path, [labelled]), tmp_path / "store")
    assert len(store) == 17
    reasons = {row["id"]: row["reason"] for row in rejected(store)}
    assert set(reasons) == {"g03", "g05", "g19"}
    assert "blank" in reasons["g05"]
    assert "no image" in reasons["g19"]
    assert {row["source"] for row in rejected(store)} == {"a"}
    table = pd.read_csv(tmp_path / "a.csv").set_index("id").loc[store.galaxies["id"]]
    smooth = store.tree.vote_columns.index("smooth-or-featured-gz2_smooth")
    np.testing.assert_array_equal(store.vote_counts(np.arange(17))[:, smooth], table["smooth-or-featured-gz2_smooth"])


def test_of_two_that_build_one_store_the_second_is_refused(tmp_path: Path, labelled: dict[str, object]) -> None:
    with alone_in(tmp_path / "store"), pytest.raises(OutputBusy, match="is working on it now"):
        dataset.build(recipe(tmp_path, [labelled]), tmp_path / "store")
    assert len(dataset.build(recipe(tmp_path, [labelled]), tmp_path / "store").rows("train"))


def test_a_finished_build_returns_at_once_and_another_recipe_is_refused(
    tmp_path: Path, labelled: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dataset.build(recipe(tmp_path, [labelled]), tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(building, "gather", lambda *_: pytest.fail("it was read again"))
        again = dataset.build(recipe(tmp_path, [labelled]), tmp_path / "store")
    assert again.info == first.info
    with pytest.raises(OutputConflict, match=r"recipe.seed was 0, now 1"):
        dataset.build(recipe(tmp_path, [labelled], seed=1), tmp_path / "store")
    catalogue(tmp_path / "a.csv", IDS, ra=1.0, dec=2.0, r50=1, mag=1)
    with pytest.raises(OutputConflict, match=r"a\.csv"):
        dataset.build(recipe(tmp_path, [labelled]), tmp_path / "store")
    with pytest.raises(OutputConflict, match="no training store"):
        dataset.build(recipe(tmp_path, [labelled]), tmp_path)


def test_an_interrupted_build_goes_on_where_it_stopped(
    tmp_path: Path, labelled: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "ROWS_PER_CHUNK", 4)
    whole = dataset.build(recipe(tmp_path, [labelled]), tmp_path / "whole")
    write, calls = building.Journal.write, []

    def interrupted(self: building.Journal, chunk: building.Chunk, following: int) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(following)
        write(self, chunk, following)

    with monkeypatch.context() as patch:
        patch.setattr(building.Journal, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dataset.build(recipe(tmp_path, [labelled]), tmp_path / "store")
    with pytest.raises(RecipeError, match="no finished store"):
        Store(tmp_path / "store")
    prepared = []
    checked = pictures.checked
    monkeypatch.setattr(pictures, "checked", lambda row, pixels: prepared.append(row) or checked(row, pixels))
    resumed = dataset.build(recipe(tmp_path, [labelled]), tmp_path / "store")
    assert min(prepared) == 8
    assert resumed.info == whole.info
    np.testing.assert_array_equal(resumed.images(range(20)), whole.images(range(20)))
    assert not (tmp_path / "store" / "journal").exists()


def test_a_killed_build_can_be_repeated(tmp_path: Path, labelled: dict[str, object]) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from test_build import IDS, recipe; from gzsurvey import dataset;"
        "from gzsurvey.dataset import building as b, store; store.ROWS_PER_CHUNK = 4; write = b.Journal.write\n"
        "def killed(self, chunk, following):\n"
        "    write(self, chunk, following)\n"
        "    if following >= 12: os.kill(os.getpid(), signal.SIGKILL)\n"
        "b.Journal.write = killed\n"
        "folder = Path(sys.argv[1])\n"
        f"dataset.build(recipe(folder, [{labelled!r}]), folder / 'store')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(Path(__file__).parent)]
    assert subprocess.run(command, capture_output=True, env=os.environ).returncode == -signal.SIGKILL
    assert (tmp_path / "store" / "journal").exists()
    resumed = dataset.build(recipe(tmp_path, [labelled]), tmp_path / "store")
    assert (
        resumed.info.content_sha256 == dataset.build(recipe(tmp_path, [labelled]), tmp_path / "b").info.content_sha256
    )


def test_equal_inputs_in_other_folders_give_equal_hashes(tmp_path: Path) -> None:
    found = set()
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        zipped(folder / "a.zip", IDS)
        catalogue(folder / "a.csv", IDS)
        source = {"name": "a", "campaign": "gz2", "images": "a.zip", "catalogue": "a.csv"}
        info = dataset.build(recipe(folder, [source]), folder / "store").info
        found.add((info.recipe_sha256, info.content_sha256))
    assert len(found) == 1


@pytest.mark.slow
def test_memory_is_bounded_by_a_chunk_not_by_the_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "ROWS_PER_CHUNK", 128)
    names = [f"{i:05d}" for i in range(5000)]
    data = [png(i, 64) for i in range(50)]
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for i, name in enumerate(names):
            archive.writestr(f"{name}.png", data[i % 50])
    made = recipe(tmp_path, [{"name": "many", "images": "many.zip"}]).model_copy(
        update={"preparation": recipe(tmp_path, [{"name": "m", "images": "m"}]).preparation.model_copy(
            update={"image_size": 64})})  # fmt: skip
    tracemalloc.start()
    store = dataset.build(made, tmp_path / "store")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(store) == 5000
    assert peak < 0.5 * 5000 * 64 * 64 * 3


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("smooth-or-featured-gz2_smooth", -3, "is negative"),
        ("dec", 95.0, "outside the sky"),
        ("id", "g00", "stands more than once"),
    ],
)
def test_a_bad_row_is_refused_by_its_number(
    column: str, value: object, says: str, tmp_path: Path, labelled: dict[str, object]
) -> None:
    table = pd.read_csv(tmp_path / "a.csv")
    table.loc[4, column] = value
    table.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(TableError, match=says) as caught:
        dataset.build(recipe(tmp_path, [labelled]), tmp_path / "store")
    assert 4 in caught.value.rows
    assert not (tmp_path / "store").exists()


def test_a_build_that_failed_before_its_first_chunk_blocks_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.png", png(0)[:300])
    with pytest.raises(TableError, match="no image could be used") as caught:
        dataset.build(recipe(tmp_path, [{"name": "a", "images": "a.zip"}]), tmp_path / "store")
    assert "\n" not in str(caught.value)
    zipped(tmp_path / "a.zip", ["x", "y"])
    store = dataset.build(recipe(tmp_path, [{"name": "a", "images": "a.zip"}], seed=3), tmp_path / "store")
    assert len(store) == 2


def test_a_mosaic_that_cannot_work_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    catalogue(tmp_path / "a.csv", IDS, ra=1.0, dec=1.0)
    source = {"name": "a", "images": "mosaic:nowhere", "catalogue": "a.csv"}
    with pytest.raises(SourceError):
        dataset.build(recipe(tmp_path, [source]), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_campaign_the_store_does_not_know_is_refused(tmp_path: Path, labelled: dict[str, object]) -> None:
    made = recipe(tmp_path, [labelled], answers="gz_candels")
    with pytest.raises(RecipeError, match="gz_candels"):
        dataset.build(made, tmp_path / "store")


def test_a_crop_of_one_source_replaces_the_preparations(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", ["x"])
    zipped(tmp_path / "b.zip", ["y"])
    sources = [{"name": "a", "images": "a.zip"}, {"name": "b", "images": "b.zip", "crop": 0.5}]
    made = recipe(tmp_path, sources)
    store = dataset.build(made, tmp_path / "store")
    original = np.asarray(Image.open(io.BytesIO(png(0))))
    cropped = made.preparation.model_copy(update={"crop": 0.5})
    np.testing.assert_array_equal(store.images([0])[0], prepare_picture(original, made.preparation))
    np.testing.assert_array_equal(store.images([1])[0], prepare_picture(original, cropped))


def test_rows_are_taken_by_range_and_limit_and_joined_by_key(tmp_path: Path, labelled: dict[str, object]) -> None:
    names = pd.DataFrame({"galaxy": IDS[::-1], "asset": [f"{i}" for i in range(20)], "redshift": np.arange(20) / 100})
    names.to_csv(tmp_path / "names.csv", index=False)
    zipped(tmp_path / "a.zip", [str(i) for i in range(20)])
    join = {"file": "names.csv", "column": "id", "key": "galaxy", "columns": ["asset", "redshift"]}
    source = labelled | {"join": [join], "image_column": "asset", "ranges": {"redshift": [0.05, None]}, "limit": 4}
    store = dataset.build(recipe(tmp_path, [source]), tmp_path / "store")
    assert store.galaxies["id"].tolist() == IDS[:4]
    original = np.asarray(Image.open(io.BytesIO(png(19))))
    np.testing.assert_array_equal(
        store.images([0])[0], prepare_picture(original, recipe(tmp_path, [source]).preparation)
    )


def test_parquet_with_image_bytes_is_its_own_catalogue(tmp_path: Path) -> None:
    cells = [{"bytes": png(i), "path": None} for i in range(4)]
    columns = {"id_str": ["p", "q", "r", "s"], "image": cells, "ra": [1.0, 2, 3, 4], "dec": [0.0] * 4,
               "bar-dr5_strong": [1, 0, 0, 2], "bar-dr5_weak": [3, 0, 1, 0], "bar-dr5_no": [1, 0, 4, 0]}  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "train-0.parquet")
    source = {"name": "hf", "campaign": "gz_evo_v0_1", "images": "train-*.parquet", "split": "train"}
    store = dataset.build(recipe(tmp_path, [source], splits="published"), tmp_path / "store")
    assert store.galaxies["campaign"].tolist() == ["gz_decals_dr5", "", "gz_decals_dr5", "gz_decals_dr5"]
    assert set(store.galaxies["split"]) == {"train"}
    assert store.vote_counts(np.arange(4)).sum() == 12


def test_cutouts_of_a_survey_train_as_they_are_classified(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["a", "b", "c"], "ra": [10.0, 10.1, np.nan], "dec": [1.0, 1.0, np.nan], "r50": 2.0})
    table.to_csv(tmp_path / "t.csv", index=False)
    source = {"name": "sky", "images": "synthetic:", "catalogue": "t.csv", "r50_column": "r50"}
    store = dataset.build(recipe(tmp_path, [source]), tmp_path / "store")
    assert store.galaxies["id"].tolist() == ["a", "b"]
    assert rejected(store)[0]["reason"] == "its position or size is not known"


def test_info_and_contact_sheet_say_what_is_there(tmp_path: Path, labelled: dict[str, object]) -> None:
    store = dataset.build(recipe(tmp_path, [labelled], hold_out=[{"ids": ["g01"]}]), tmp_path / "store")
    text = dataset.info(store)
    for expected in ("19 galaxies", "206 answers", "gz2", "CC0", "1 galaxies of a held out"):
        assert expected in text
    sheet = Image.open(dataset.contact_sheet(store, tmp_path / "sheet.png"))
    assert sheet.width > 1000
    assert len(sheet.convert("L").getcolors()) > 50
