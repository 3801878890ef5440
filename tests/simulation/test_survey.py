from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from PIL import Image

from gzsurvey.errors import OutputBusy, OutputConflict, RecipeError
from gzsurvey.lock import alone_in
from gzsurvey.recipes.dataset import load_dataset_recipe
from gzsurvey.recipes.simulation import SimulationRecipe, load_simulation_recipe
from gzsurvey.simulation import simulate, survey
from gzsurvey.simulation.population import population
from gzsurvey.votes import DecisionTree

SMALL = ("targets=40", "training=40", "tile_px=512", "overlap_px=64", "spacing_arcsec=45", "stamps.image_size=64")


@pytest.fixture(scope="module")
def recipe() -> SimulationRecipe:
    return load_simulation_recipe("simulate", SMALL)


@pytest.fixture(scope="module")
def out(recipe: SimulationRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "sky"
    simulate(recipe, folder)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_what_lies_where(out: Path, recipe: SimulationRecipe) -> None:
    assert {path.name for path in out.iterdir()} >= {
        "mosaic", "votes", "truth", "targets.fits", "truth.fits", "stamps.zip", "stamps.parquet", "rings.csv",
        "dataset.yaml",
    }  # fmt: skip
    names = {path.name for path in (out / "mosaic").iterdir()}
    tiles = {name.removeprefix("g_") for name in names if name.startswith("g_")}
    assert names == {f"{band}_{tile}" for band in ("g", "r", "z", "mask") for tile in tiles}
    assert not (out / "partial").exists()


def test_regions_differ_and_say_so(out: Path) -> None:
    north, south = (fits.getheader(out / "mosaic" / f"r_{name}0000.fits.fz", 1) for name in ("north", "south"))
    for key in ("BUNIT", "MAGZERO", "SEEING", "MAGLIM", "CDELT2"):
        assert north[key] != south[key], key
    assert north["FILTER"] == south["FILTER"] == "r"


def overlap(first: fits.CompImageHDU, second: fits.CompImageHDU) -> tuple[np.ndarray, np.ndarray]:
    columns = round(first.header["CRPIX1"] - second.header["CRPIX1"])
    rows = round(first.header["CRPIX2"] - second.header["CRPIX2"])
    height, width = min(first.shape[0] - rows, second.shape[0]), min(first.shape[1] - columns, second.shape[1])
    return first.data[rows : rows + height, columns : columns + width], second.data[:height, :width]


@pytest.mark.parametrize("band", ["g", "r", "z", "mask"])
@pytest.mark.parametrize("neighbour", ["0001", "0100", "0101"])
def test_tiles_agree_where_they_overlap(out: Path, band: str, neighbour: str) -> None:
    with (
        fits.open(out / "mosaic" / f"{band}_north0000.fits.fz") as first,
        fits.open(out / "mosaic" / f"{band}_north{neighbour}.fits.fz") as second,
    ):
        left, right = overlap(first[1], second[1])
        assert left.size > 1000
        different = (left != right) & ~(np.isnan(left) & np.isnan(right))
        assert different.mean() < 1e-4  # the last bit of a rounded value
        if band != "mask":
            assert np.nanmax(np.abs(left - right)) < 1e-3


def test_targets_are_where_the_mosaic_shows_them(out: Path) -> None:
    truth = Table.read(out / "truth.fits")
    with fits.open(out / "mosaic" / "r_south0000.fits.fz") as file:
        data, header = file[1].data, file[1].header
    x, y = np.nan_to_num(WCS(header).all_world2pix(truth["ra"], truth["dec"], 0), nan=-1e4)
    seen = 0
    for row, column, line in zip(truth, x, y, strict=True):
        inside = 15 < column < data.shape[1] - 16 and 15 < line < data.shape[0] - 16
        if inside and row["is_galaxy"] and row["kind"] != "irregular" and row["mag_r"] < 17.5 and not row["is_merger"]:
            cut = data[
                round(float(line)) - 8 : round(float(line)) + 9, round(float(column)) - 8 : round(float(column)) + 9
            ]
            assert cut[5:12, 5:12].mean() > 1.5 * np.median(data)
            seen += 1
    assert seen > 3


def test_zero_point_is_that_of_the_pixels(out: Path) -> None:
    truth = Table.read(out / "truth.fits")
    offsets: dict[str, list[float]] = {"north": [], "south": []}
    for path in sorted((out / "mosaic").glob("r_*.fits.fz")):
        with fits.open(path) as file:
            data, header = file[1].data, file[1].header
        x, y = np.nan_to_num(WCS(header).all_world2pix(truth["ra"], truth["dec"], 0), nan=-1e4)
        for row, column, line in zip(truth, x, y, strict=True):
            half = round(3 * row["r_major"] / header["CDELT2"] / 3600)
            i, j = round(float(line)), round(float(column))
            inside = half < j < data.shape[1] - half and half < i < data.shape[0] - half
            if inside and row["is_galaxy"] and row["mag_r"] < 17:
                flux = float(np.nansum(data[i - half : i + half, j - half : j + half]))
                offsets[row["region"]].append(header["MAGZERO"] - 2.5 * np.log10(flux) - row["mag_r"])
    for values in offsets.values():
        assert abs(np.median(values)) < 0.12


def test_tables_carry_units_and_ucds(out: Path) -> None:
    header = fits.getheader(out / "targets.fits", 1)
    units = {header[f"TTYPE{i}"]: header.get(f"TUNIT{i}") for i in range(1, header["TFIELDS"] + 1)}
    ucds = {header[f"TTYPE{i}"]: header.get(f"TUCD{i}") for i in range(1, header["TFIELDS"] + 1)}
    assert list(units) == ["id", "ra", "dec", "mag_g", "mag_r", "mag_z", "r50"]
    assert units["ra"] == "deg"
    assert units["r50"] == "arcsec"
    assert ucds["dec"] == "pos.eq.dec;meta.main"
    assert Table.read(out / "targets.fits")["id"].dtype.kind == "i"


def test_truth_holds_the_fractions_of_the_default_campaign(out: Path) -> None:
    truth = Table.read(out / "truth.fits")
    tree = DecisionTree.load("gz_decals_dr8")
    for question in tree.questions:
        total = sum(truth[f"{question.label}_{answer}_fraction".replace("-", "_")] for answer in question.answers)
        np.testing.assert_allclose(total, 1.0, rtol=1e-4)


def test_training_galaxies_are_others_than_the_targets(out: Path) -> None:
    targets, stamps = Table.read(out / "targets.fits"), pd.read_parquet(out / "stamps.parquet")
    assert not set(targets["id"]) & set(stamps["id"])
    from astropy.coordinates import SkyCoord

    sky = SkyCoord(stamps["ra"], stamps["dec"], unit="deg")
    nearest = sky.match_to_catalog_sky(SkyCoord(targets["ra"], targets["dec"], unit="deg"))[1]
    assert nearest.deg.min() > 1


def test_every_training_galaxy_has_a_stamp(out: Path) -> None:
    stamps = pd.read_parquet(out / "stamps.parquet")
    with zipfile.ZipFile(out / "stamps.zip") as archive:
        assert set(archive.namelist()) == {f"{i}.png" for i in stamps["id"]}
        picture = np.asarray(Image.open(io.BytesIO(archive.read(f"{stamps['id'].iloc[0]}.png"))))
    assert picture.shape == (64, 64, 3)
    middle = picture[24:40, 24:40].mean()
    assert middle > picture.mean() + 5


def test_some_galaxies_have_no_votes_and_some_have_two_campaigns(out: Path) -> None:
    voted = pd.concat([pd.read_parquet(path) for path in (out / "votes").glob("*.parquet")])
    unlabelled = pd.read_parquet(out / "unlabelled.parquet")
    assert not set(voted["id"]) & set(unlabelled["id"])
    assert set(voted["id"]) | set(unlabelled["id"]) == set(pd.read_parquet(out / "stamps.parquet")["id"])
    assert voted["id"].value_counts().max() <= 2


def test_votes_were_drawn_with_the_probabilities_that_truth_states(out: Path) -> None:
    squared, variance = 0.0, 0.0
    for path in (out / "votes").glob("*.parquet"):
        votes, truth = pd.read_parquet(path), pd.read_parquet(out / "truth" / path.name)
        assert votes["id"].tolist() == truth["id"].tolist()
        tree = DecisionTree.load(path.stem)
        assert list(truth.columns) == ["id", *(f"{column}_fraction" for column in tree.vote_columns)]
        first = list(tree.vote_columns)[tree.questions[0].columns]
        fractions = truth[[f"{column}_fraction" for column in first]].to_numpy()
        np.testing.assert_allclose(fractions.sum(axis=1), 1, atol=1e-5)
        counts = votes[first].to_numpy()
        expected = fractions * counts.sum(axis=1, keepdims=True)
        squared += ((counts - expected) ** 2).sum()
        variance += (expected * (1 - fractions)).sum()
    assert squared / variance == pytest.approx(1, abs=0.35)


def test_dataset_recipe_loads(out: Path) -> None:
    recipe = load_dataset_recipe(str(out / "dataset.yaml"))
    assert recipe.simulated
    assert recipe.sources[-1].campaign is None
    for source in recipe.sources:
        assert Path(str(source.catalogue)).exists()


def test_repeating_returns_and_changes_nothing(out: Path, recipe: SimulationRecipe) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    simulate(recipe, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_of_two_that_draw_one_survey_the_second_is_refused(recipe: SimulationRecipe, tmp_path: Path) -> None:
    with alone_in(tmp_path / "sky"), pytest.raises(OutputBusy, match="is working on it now"):
        simulate(recipe, tmp_path / "sky")


def test_other_inputs_are_refused(out: Path) -> None:
    with pytest.raises(OutputConflict, match="seed was 1, now 2"):
        simulate(load_simulation_recipe("simulate", (*SMALL, "seed=2")), out)


def test_a_folder_of_something_else_is_refused(tmp_path: Path, recipe: SimulationRecipe) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RecipeError, match="not empty"):
        simulate(recipe, tmp_path)


def test_killed_half_way_it_finishes_with_the_same_bytes(
    out: Path, recipe: SimulationRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "again"
    finished = survey._run

    def interrupted(tasks: list[survey.Task]) -> object:
        for number, weight in enumerate(finished(tasks)):
            if number == 2:
                raise KeyboardInterrupt
            yield weight

    monkeypatch.setattr(survey, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate(recipe, again)
    assert not (again / "truth.fits").exists()
    monkeypatch.setattr(survey, "_run", finished)
    simulate(recipe, again)
    assert digests(again) == digests(out)


def test_more_targets_leave_the_first_galaxies_as_they_are() -> None:
    np.testing.assert_array_equal(population(4, range(10, 20)), population(4, range(30))[10:20])


@pytest.mark.slow
def test_number_of_processes_does_not_matter(recipe: SimulationRecipe, out: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    original = survey._SERIAL_BELOW
    survey._SERIAL_BELOW = 0
    try:
        simulate(recipe, many)
    finally:
        survey._SERIAL_BELOW = original
    assert digests(many) == digests(out)


def test_a_misspelt_key_is_refused() -> None:
    with pytest.raises(RecipeError, match="did you mean 'targets'"):
        load_simulation_recipe("simulate", ["target=3"])


def test_shares_must_add_up() -> None:
    content = load_simulation_recipe("simulate").model_dump()
    content["regions"][0]["share"] = 0.9
    with pytest.raises(ValueError, match="add up to 1"):
        SimulationRecipe.model_validate(content)
