from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gzsurvey.card import VotesHead
from gzsurvey.cutouts.source import Cutout
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.dataset.tables import read_table
from gzsurvey.errors import OutputConflict, RecipeError
from gzsurvey.evaluation.detectability import Seen, detectability, follow, summary
from gzsurvey.evaluation.sample import galaxies_of
from gzsurvey.evaluation.steps import Step, change_sky, choose_galaxies, real_steps, simulated_steps
from gzsurvey.images.prepare import prepare_cutout
from gzsurvey.model.checkpoint import CheckpointInfo, save_checkpoint
from gzsurvey.model.encoder import create_encoder
from gzsurvey.model.network import Network
from gzsurvey.recipes.detectability import DetectabilityRecipe
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.simulation import load_simulation_recipe
from gzsurvey.simulation import simulate
from gzsurvey.simulation.field import Conditions
from gzsurvey.simulation.volunteers import signal_to_noise
from gzsurvey.training.pictures import Survey, cut_out
from gzsurvey.votes import DecisionTree

REGION = load_simulation_recipe("simulate").regions[0]
RECIPE = DetectabilityRecipe(
    galaxies=20, least_galaxies=3, least_size=3.0, fainter_mag=(0, 4), smaller=(1.0, 0.2), blurred=(1.0, 4.0),
    noisier_mag=(0, 4), campaign="gz2",
)  # fmt: skip
TREE = DecisionTree.load("gz2")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(1)
    head = VotesHead(questions=tuple(TREE.to_json()))
    network = Network(create_encoder("test_resnet"), (head,)).eval()
    info = CheckpointInfo(encoder="test_resnet", embedding_size=network.embedding_size, heads=(head,),
                          preparation=Preparation(image_size=32), trained_by="pretrain")  # fmt: skip
    save_checkpoint(folder, "best", network, info)
    return folder


def test_galaxies_are_large_and_bright_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose_galaxies(RECIPE, REGION)
    assert len(chosen) == 20
    assert (chosen["r50"] / (REGION.psf_fwhm_arcsec[1] / 2) >= 3.0).all()
    assert (chosen["mag_r"] <= RECIPE.faintest_mag).all()
    assert (chosen == choose_galaxies(RECIPE, REGION)).all()
    monkeypatch.setattr("gzsurvey.evaluation.steps._DRAWN_AT_MOST", 2000)
    with pytest.raises(RecipeError, match=r"of 2,000 simulated galaxies 0 are .*; ask for less"):
        choose_galaxies(RECIPE.model_copy(update={"faintest_mag": 3.0}), REGION)


def test_each_step_changes_what_it_says() -> None:
    galaxies = choose_galaxies(RECIPE, REGION)
    for change, nothing in (("fainter", 0), ("smaller", 1), ("blurred", 1), ("noisier", 0)):
        same, region = change_sky(galaxies, REGION, change, nothing)
        assert (same == galaxies).all()
        assert region == REGION
    by_name = {step.name: step for step in simulated_steps(RECIPE, Preparation(image_size=32))}
    before = signal_to_noise(galaxies, REGION)
    found = {name: step.signal_to_noise / before for name, step in by_name.items()}
    np.testing.assert_allclose(found["fainter-4"], 10**-1.6)
    np.testing.assert_allclose(found["noisier-4"], 10**-1.6, rtol=1e-5)
    # At equal surface brightness light goes with the area, noise with the radius.
    np.testing.assert_allclose(found["smaller-0.2"], 0.2)
    size = by_name["fainter-0"].size_over_psf
    np.testing.assert_allclose(by_name["blurred-4"].size_over_psf, size / 4)
    np.testing.assert_allclose(by_name["smaller-0.2"].size_over_psf, size * 0.2)
    faint, deep = (Conditions.of(change_sky(galaxies, REGION, "noisier", m)[1]).gain for m in (4, 0))
    np.testing.assert_allclose(faint / deep, 10**-3.2, rtol=1e-5)


def step(change: str, amount: float) -> Step:
    return Step(change, amount, np.full(20, 5.0), np.full(20, 50.0), lambda _pool: np.zeros(0, np.uint8), None)


def seen(volunteers: np.ndarray) -> list[Seen]:
    every = [(change, amount) for change in ("fainter", "noisier") for amount in (0, 4)]
    asked = np.ones((20, len(TREE.questions)))
    return [Seen(step(c, a), np.full((20, TREE.n_answers), 0.3 if a else 0.8), asked, volunteers) for c, a in every]


def test_answers_are_followed_on_galaxies_that_plainly_show_them() -> None:
    volunteers = np.full((20, TREE.n_answers), 0.01)
    first, second = TREE.questions[0].columns, TREE.questions[1].columns
    volunteers[:8, first.start] = 0.9
    volunteers[8:, first.start + 1] = 0.9
    volunteers[:, second.start] = 0.9
    table = follow(seen(volunteers), TREE, RECIPE)
    answers = table[["question", "answer", "galaxies"]].drop_duplicates().to_numpy().tolist()
    smooth, featured = TREE.questions[0].answers[:2]
    # The second question is asked of those who saw features.
    assert answers == [
        [TREE.questions[0].name, smooth, 8], [TREE.questions[0].name, featured, 12],
        [TREE.questions[1].name, TREE.questions[1].answers[0], 12],
    ]  # fmt: skip
    row = table[(table["change"] == "fainter") & (table["amount"] == 4)].iloc[0]
    assert (row["predicted"], row["volunteers"]) == (pytest.approx(0.3), pytest.approx(0.9))
    assert "fainter 4 (size over PSF 5.0, signal-to-noise 50)" in summary(table)


def test_real_galaxies_are_followed_by_what_the_model_sees_in_them() -> None:
    table = follow(seen(np.full((20, TREE.n_answers), np.nan)), TREE, RECIPE)
    assert set(table["galaxies"]) == {20}
    assert "0.80, not known" in summary(table)
    with pytest.raises(RecipeError, match="no answer is plainly shown by 3 of 20"):
        follow(seen(np.full((20, TREE.n_answers), 0.1)), TREE, RECIPE)


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Targets and mosaics, which stand for a real survey."""
    sky = tmp_path_factory.mktemp("sky") / "sky"
    simulate(load_simulation_recipe("simulate", ["targets=12", "training=10", "astray_targets=0"]), sky)
    return sky / "targets.fits", f"mosaic:{sky / 'mosaic'}"


@pytest.mark.slow
def test_real_cutouts_are_degraded(survey: tuple[Path, str], checkpoint: Path, tmp_path: Path) -> None:
    changes = {"least_size": 0.5, "psf_fwhm_arcsec": 1.5, "plain": 0.1, "least_galaxies": 3, "fainter_mag": (0, 5)}
    recipe = RECIPE.model_copy(update=changes)
    preparation = Preparation(image_size=32)
    every = {s.name: s for s in real_steps(recipe, preparation, survey[0], Survey(SourceSpec.parse(survey[1])))}
    before, after = (every[name].pictures(ThreadPoolExecutor(1)).astype(float) for name in ("fainter-0", "fainter-5"))
    labels = galaxies_of(survey[0], read_table(survey[0]))
    answers = cut_out(labels, Survey(SourceSpec.parse(survey[1])), preparation)
    whole = [prepare_cutout(a.pixels, preparation) for _, a in answers
             if isinstance(a, Cutout) and np.isfinite(a.pixels).all()]  # fmt: skip
    assert {picture.tobytes() for picture in before.astype(np.uint8)} <= {picture.tobytes() for picture in whole}
    assert after[:, 12:20, 12:20].mean() < 0.7 * before[:, 12:20, 12:20].mean()
    np.testing.assert_allclose(every["fainter-5"].signal_to_noise, every["fainter-0"].signal_to_noise * 0.01)
    text = detectability(recipe, str(checkpoint), tmp_path / "out", "cpu", *survey)
    assert "not known" in text


def test_bad_requests_are_one_line_each(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has no campaign 'gz9'; it has gz2"):
        detectability(RECIPE.model_copy(update={"campaign": "gz9"}), str(checkpoint), tmp_path / "a", "cpu")
    with pytest.raises(RecipeError, match="has no region 'west'"):
        detectability(RECIPE.model_copy(update={"region": "west"}), str(checkpoint), tmp_path / "b", "cpu")
    assert not (tmp_path / "b" / "job.json").exists()
    with pytest.raises(RecipeError, match="both --targets and --cutouts"):
        detectability(RECIPE, str(checkpoint), tmp_path / "c", "cpu", cutouts="mosaic:x")
    (tmp_path / "t.csv").write_text("id,ra,dec,r50\n1,10,10,9\n")
    with pytest.raises(RecipeError, match=r"psf_fwhm_arcsec=1\.2"):
        detectability(RECIPE, str(checkpoint), tmp_path / "d", "cpu", tmp_path / "t.csv", "mosaic:x")
    with pytest.raises(ValueError, match="'blurred' must begin with 1"):
        DetectabilityRecipe(blurred=(2.0, 3.0))


@pytest.mark.long
def test_a_checkpoint_is_followed_and_the_same_again(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    text = detectability(RECIPE, str(checkpoint), out, "cpu")
    table = pd.read_csv(out / "detectability.csv")
    assert set(table["change"]) == {"fainter", "smaller", "blurred", "noisier"}
    plain = table[table["amount"].isin([0, 1])]
    assert (plain["volunteers"] >= RECIPE.plain).all()
    spread = plain.groupby(["question", "answer"])["predicted"].nunique()
    assert (spread == 1).all(), "each change begins with the same pictures"
    assert (out / "detectability.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(out.glob("*.npy"))
    assert detectability(RECIPE, str(checkpoint), out, "cpu") == text
    with pytest.raises(OutputConflict, match=r"recipe\.seed was 1, now 2"):
        detectability(RECIPE.model_copy(update={"seed": 2}), str(checkpoint), out, "cpu")
