"""Splits, folds, seeds, and images straight from a survey."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Column, Table
from astropy.wcs import WCS
from pictures import pictures
from PIL import Image
from sklearn.metrics import roc_auc_score
from sky.reading import read

from gzsurvey.cutouts.open import open_source
from gzsurvey.cutouts.source import Cutout
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import SourceError, TableError
from gzsurvey.images.frame import field_of_view
from gzsurvey.images.prepare import prepare_cutout
from gzsurvey.model.checkpoint import find_checkpoint, load_network, read_tensors
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.training import FinetuneRecipe, FinetuneTask
from gzsurvey.sky.healpix import cells
from gzsurvey.survey.sources import answers, requests
from gzsurvey.training import finetune
from gzsurvey.training.fitting import Finetuning
from gzsurvey.training.labels import read_labels
from gzsurvey.training.parts import Parts, folds, split
from gzsurvey.training.pictures import Pictures, Survey, collect
from gzsurvey.training.split import deal, deal_cells, stratified_order

SIZE, N = 32, 60


def recipe(**changes: Any) -> FinetuneRecipe:
    base = {"encoder": {"name": "test_resnet"}, "mode": "linear", "views": 0, "image_size": SIZE}
    return FinetuneRecipe.model_validate(base | changes)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("drawn")
    images, long = pictures(N, 4)
    (folder / "images").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / "images" / f"g{number}.png")
    rng = np.random.default_rng(6)
    positions = {"ra": rng.uniform(100, 160, N), "dec": rng.uniform(-20, 20, N)}
    table = pd.DataFrame({"id": [f"g{i}" for i in range(N)], **positions, "label": np.where(long, "long", "round")})
    table.assign(label_by="anna", r50=3.0).to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv", folder / "images"


def labelled(path: Path) -> Pictures:
    """Labels without pixels, for splits."""
    return Pictures(read_labels(path, (FinetuneTask(),)), np.empty((N, 1, 1, 3), np.uint8), None)


def test_no_cell_of_the_sky_is_in_two_parts(drawn: tuple[Path, Path]) -> None:
    known = labelled(drawn[0])
    parts = split(known, recipe(split="sky"))
    of_each = cells(known.labels.ra, known.labels.dec, 4)
    assert not set(of_each[parts.training]) & set(of_each[parts.validation])
    assert sorted([*parts.training, *parts.validation]) == list(range(N))
    share = len(parts.validation) / N
    assert 0.1 < share < 0.3
    target = known.labels.only_task.target
    assert abs(target[parts.validation].mean() - target.mean()) < 0.25
    dealt = list(folds(known, recipe(split="sky"), 4))
    assert sorted(np.concatenate([fold.tested for fold in dealt])) == list(range(N))
    for fold in dealt:
        apart = [set(of_each[rows]) for rows in (fold.parts.training, fold.parts.validation, fold.tested)]
        assert sum(map(len, apart)) == len(set().union(*apart)) == len(np.unique(of_each))


def test_cells_are_dealt_evenly_and_no_part_stays_empty() -> None:
    rng = np.random.default_rng(1)
    of_cell, strata = rng.integers(0, 200, 4000), rng.integers(0, 3, 4000)
    dealt = deal_cells(of_cell, strata, (0.8, 0.2), seed=0)
    shares = [np.mean(dealt[strata == k] == 1) for k in range(3)]
    assert shares == pytest.approx([0.2] * 3, abs=0.01)
    assert len(np.unique(np.stack([of_cell, dealt]), axis=1).T) == len(np.unique(of_cell))
    assert set(deal_cells(np.repeat([7, 9], 50), np.zeros(100, np.int64), (0.8, 0.2), seed=0)) == {0, 1}


def test_folds_are_dealt_class_by_class() -> None:
    strata = np.repeat([0, 1, 2], [50, 20, 7])
    dealt = deal(strata, 5, seed=3)
    counts = np.array([np.bincount(dealt[strata == k], minlength=5) for k in range(3)])
    assert np.ptp(counts, axis=1).max() <= 1
    assert np.ptp(counts.sum(axis=0)) <= 1
    assert np.array_equal(dealt, deal(strata, 5, seed=3))


def test_subsets_are_nested_and_stratified() -> None:
    target = np.repeat([0, 1, 2], [60, 30, 10])
    order = stratified_order(target, [3, 0])
    assert sorted(order) == list(range(100))
    for n in (10, 20, 50):
        assert np.bincount(target[order[:n]]).tolist() == [6 * n // 10, 3 * n // 10, n // 10]
    assert not np.array_equal(order, stratified_order(target, [4, 0]))


def test_fewer_labels_are_drawn_class_by_class_and_are_among_more(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    known = labelled(drawn[0])
    target = known.labels.only_task.target
    parts = {n: split(known, recipe(label_limit=n)) for n in (12, 30, N)}
    used = {n: set(part.training) | set(part.validation) for n, part in parts.items()}
    assert [len(rows) for rows in used.values()] == [12, 30, N]
    assert used[12] < used[30] < used[N]
    assert abs(target[list(used[12])].sum() - 12 * target.mean()) <= 1
    for fold in folds(known, recipe(label_limit=12), 4):
        assert len(fold.parts.training) + len(fold.parts.validation) == 12
        assert not {*fold.parts.training, *fold.parts.validation} & set(fold.tested)
    rare = pd.read_csv(drawn[0])
    rare["label"] = ["rare"] * 2 + ["common"] * (N - 2)
    rare.to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(TableError, match=r"class 'rare' has \d labels among the 10 of label_limit, at least two"):
        split(labelled(tmp_path / "labels.csv"), recipe(label_limit=10))


def test_labels_that_the_sky_cannot_divide_are_one_line(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    frame = pd.read_csv(drawn[0])
    cases = [
        (frame.assign(ra=frame["ra"].where(frame.index != 3)), r"1 labels have no position.*g3; add ra and dec"),
        (frame.assign(ra=10.0, dec=5.0), "all labels lie in 1 cells of the sky of HEALPix order 4.*higher sky_order"),
    ]
    for table, problem in cases:
        table.to_csv(tmp_path / "labels.csv", index=False)
        with pytest.raises(TableError, match=problem) as caught:
            split(labelled(tmp_path / "labels.csv"), recipe(split="sky"))
        assert "\n" not in str(caught.value)
    with pytest.raises(TableError, match="60 labels cannot be dealt into 61 folds"):
        list(folds(labelled(drawn[0]), recipe(), 61))


def test_folds_and_seeds_go_on_where_they_stopped(
    drawn: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = recipe(folds=2, seeds=2)
    straight = finetune(several, "none", tmp_path / "straight", *drawn, "cpu")
    done: list[str] = []
    run = Finetuning.run

    def stop_at_the_third(self: Finetuning, out: Path, device: Any) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(str(out))
        run(self, out, device)

    with monkeypatch.context() as patch:
        patch.setattr(Finetuning, "run", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            finetune(several, "none", tmp_path / "stopped", *drawn, "cpu")
    monkeypatch.setattr(Finetuning, "run", lambda self, out, device: done.append(str(out)) or run(self, out, device))
    resumed = finetune(several, "none", tmp_path / "stopped", *drawn, "cpu")
    assert len(done) == len(set(done)) == 2 + 2 + 1
    for name in ("out_of_fold.csv", "folds.json", "seeds.json"):
        assert (resumed / name).read_bytes() == (straight / name).read_bytes()
    ours, theirs = (read_tensors(out / "best.safetensors") for out in (resumed, straight))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    alone = finetune(recipe(), "none", tmp_path / "alone", *drawn, "cpu")
    once = read_tensors(alone / "best.safetensors")
    assert all(np.array_equal(once[name], theirs[name]) for name in theirs)
    check_out_of_fold(straight, drawn[0])


def check_out_of_fold(out: Path, labels: Path) -> None:
    table, told = pd.read_csv(out / "out_of_fold.csv"), json.loads((out / "folds.json").read_text())
    truth = pd.read_csv(labels).set_index("id")
    assert sorted(table["id"]) == sorted(truth.index)
    assert (table["task"] == truth.loc[table["id"], "label"].to_numpy()).all()
    assert set(table["label_by"]) == {"anna"}
    area = roc_auc_score(table["task"] == "round", table["task_round_p"])
    assert told["together"]["roc_auc"] == pytest.approx(area)
    assert area > 0.8
    losses = told["metrics"]["loss"]
    assert losses["mean"] == pytest.approx(np.mean(losses["of_each"]))
    assert losses["spread"] == pytest.approx(np.std(losses["of_each"], ddof=1))
    for fold, part in table.groupby("fold"):
        chosen = np.where(part["task"] == "round", part["task_round_p"], part["task_long_p"])
        assert -np.log(chosen).mean() == pytest.approx(losses["of_each"][int(str(fold))], rel=1e-4)
    members = [load_network(find_checkpoint(str(out / "seeds" / n)))[0].state_dict() for n in ("1", "2")]
    name = "heads.task_probability.linear.weight"
    assert not np.array_equal(members[0][name], members[1][name])


def write_mosaic(folder: Path) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [200.5, 200.5]
    wcs.wcs.cdelt = [-0.5 / 3600, 0.5 / 3600]
    folder.mkdir()
    for seed, band in enumerate("grz"):
        pixels = np.random.default_rng(seed).normal(0.05, 0.02, (400, 400)).astype(np.float32)
        header = wcs.to_header()
        header["BUNIT"], header["FILTER"] = "nanomaggy", band
        fits.writeto(folder / f"{band}.fits", pixels, header)
    return wcs


@pytest.mark.parametrize(("name", "unit", "arcsec"), [("r50", "arcmin", 60.0), ("R50", "pix", 0.5)])
def test_images_of_a_survey_are_what_classify_sees(
    name: str, unit: str, arcsec: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wcs = write_mosaic(tmp_path / "sky")
    columns, rows = np.random.default_rng(3).uniform(120, 280, (2, 12))
    columns[4] = 5000
    ra, dec = wcs.all_pix2world(columns, rows, 0)
    r50 = np.array([np.nan, *np.linspace(2, 4.5, 11)])
    table = Table({"id": [f"m{i}" for i in range(12)], "ra": ra, "dec": dec, "label": [0, 1] * 6})
    table[name] = Column(r50 / arcsec, unit=unit)
    table.write(tmp_path / "labels.fits")
    preparation = Preparation(image_size=SIZE, crop=0.8)
    spec = SourceSpec.parse(f"mosaic:{tmp_path / 'sky'}")
    labels = read_labels(tmp_path / "labels.fits", (FinetuneTask(),))
    found = collect(labels, Survey(spec), preparation, tmp_path)
    lost = pd.read_csv(tmp_path / "unmatched.csv")
    assert lost["id"].tolist() == ["m4"]
    assert lost["reason"].str.len().item() > 10

    targets = read(tmp_path / "labels.fits", pixel_scale_arcsec=lambda: 0.5)
    assert targets.r50_arcsec is not None
    known = np.nan_to_num(targets.r50_arcsec)
    asked = {"id": targets.id, "ra": targets.ra_deg, "dec": targets.dec_deg,
             "cutout_width": field_of_view(preparation.scale_rule, known) * preparation.crop}  # fmt: skip
    wanted = requests(asked, range(12), preparation)
    seen = {str(targets.id[row]): answer for row, answer in answers((open_source(spec, preparation),), wanted, 0.2)}
    assert found.labels.ids is not None
    assert len(found.labels) == 11
    for own, image in zip(found.labels.ids, found.images, strict=True):
        answer = seen[str(own)]
        assert isinstance(answer, Cutout)
        assert np.array_equal(image, prepare_cutout(answer.pixels, preparation))
    assert not isinstance(seen["m4"], Cutout)


def test_a_source_is_learnt_from_and_what_it_lacks_is_listed(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    frame = pd.read_csv(drawn[0])
    frame.loc[5, "ra"] = np.nan
    frame.to_csv(tmp_path / "labels.csv", index=False)
    out = finetune(recipe(), "none", tmp_path / "out", tmp_path / "labels.csv", "synthetic:", "cpu")
    (lost,) = pd.read_csv(out / "unmatched.csv").itertuples()
    assert (lost.id, lost.reason) == ("g5", "its position is not known")
    assert np.isfinite(load_network(find_checkpoint(str(out)))[1].metrics["validation_loss"])


def test_a_source_that_cannot_serve_is_one_line(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    frame = pd.read_csv(drawn[0])
    cases: list[tuple[pd.DataFrame, str, dict[str, Any], type[Exception], str]] = [
        (frame.drop(columns="r50"), "synthetic:", {}, TableError, "has no size.*half-light radius.*size_column"),
        (frame.drop(columns=["ra", "dec"]), "synthetic:", {}, TableError, "has no positions.*add columns ra and dec"),
        (frame, "synthetic:", {"size_column": "radius"}, TableError, "no column 'radius'"),
        (frame, "mosiac:/data", {}, SourceError, "did you mean 'mosaic'"),
    ]
    for table, images, changes, error, problem in cases:
        table.to_csv(tmp_path / "labels.csv", index=False)
        with pytest.raises(error, match=problem) as caught:
            finetune(recipe(**changes), "none", tmp_path / "out", tmp_path / "labels.csv", images, "cpu")
        assert "\n" not in str(caught.value)


def test_parts_without_a_class_are_refused(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    known = labelled(drawn[0])
    long, others = (np.flatnonzero(known.labels.only_task.target == k) for k in (0, 1))
    with pytest.raises(TableError, match="class 'long' has 0 labels to learn from, at least one is needed"):
        Finetuning(recipe(), None, known, Parts(others, long, ""))  # type: ignore[arg-type]
