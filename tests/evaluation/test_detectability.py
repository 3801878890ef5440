from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gzsurvey.card import VotesHead
from gzsurvey.errors import OutputConflict, RecipeError
from gzsurvey.evaluation.detectability import Seen, choose_galaxies, detectability, follow, steps, summary
from gzsurvey.model.checkpoint import CheckpointInfo, save_checkpoint
from gzsurvey.model.encoder import create_encoder
from gzsurvey.model.network import Network
from gzsurvey.recipes.detectability import DetectabilityRecipe
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.simulation import load_simulation_recipe
from gzsurvey.simulation.field import Conditions
from gzsurvey.simulation.volunteers import signal_to_noise
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
    monkeypatch.setattr("gzsurvey.evaluation.detectability._DRAWN_AT_MOST", 2000)
    with pytest.raises(RecipeError, match=r"of 2,000 simulated galaxies 0 are .*; ask for less"):
        choose_galaxies(RECIPE.model_copy(update={"faintest_mag": 3.0}), REGION)


def test_each_step_changes_what_it_says() -> None:
    galaxies = choose_galaxies(RECIPE, REGION)
    by_name = {step.name: step for step in steps(RECIPE, galaxies, REGION)}
    for change in ("fainter-0", "smaller-1", "blurred-1", "noisier-0"):
        assert (by_name[change].galaxies == galaxies).all()
        assert by_name[change].region == REGION
    before = signal_to_noise(galaxies, REGION)
    found = {name: signal_to_noise(step.galaxies, step.region) / before for name, step in by_name.items()}
    np.testing.assert_allclose(found["fainter-4"], 10**-1.6)
    np.testing.assert_allclose(found["noisier-4"], 10**-1.6, rtol=1e-5)
    # At equal surface brightness light goes with the area, noise with the radius.
    np.testing.assert_allclose(found["smaller-0.2"], 0.2)
    assert by_name["blurred-4"].region.psf_fwhm_arcsec[0] == 4 * REGION.psf_fwhm_arcsec[0]
    faint, deep = (Conditions.of(by_name[name].region).gain for name in ("noisier-4", "noisier-0"))
    np.testing.assert_allclose(faint / deep, 10**-3.2, rtol=1e-5)


def test_answers_are_followed_on_galaxies_that_plainly_show_them() -> None:
    galaxies = choose_galaxies(RECIPE, REGION)
    every = list(steps(RECIPE, galaxies, REGION))
    volunteers = np.full((20, TREE.n_answers), 0.01)
    first, second = TREE.questions[0].columns, TREE.questions[1].columns
    volunteers[:8, first.start] = 0.9
    volunteers[8:, first.start + 1] = 0.9
    volunteers[:, second.start] = 0.9
    asked = np.ones((20, len(TREE.questions)))
    seen = [
        Seen(step, np.full((20, TREE.n_answers), 0.8 if step.amount in (0, 1) else 0.3), asked, volunteers)
        for step in every
    ]
    table = follow(seen, TREE, RECIPE)
    answers = table[["question", "answer", "galaxies"]].drop_duplicates().to_numpy().tolist()
    smooth, featured = TREE.questions[0].answers[:2]
    # The second question is asked of those who saw features.
    assert answers == [
        [TREE.questions[0].name, smooth, 8], [TREE.questions[0].name, featured, 12],
        [TREE.questions[1].name, TREE.questions[1].answers[0], 12],
    ]  # fmt: skip
    row = table[(table["change"] == "fainter") & (table["amount"] == 4)].iloc[0]
    assert (row["predicted"], row["volunteers"]) == (pytest.approx(0.3), pytest.approx(0.9))
    assert "fainter 4 (size over PSF" in summary(table)


def test_bad_requests_are_one_line_each(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has no campaign 'gz9'; it has gz2"):
        detectability(RECIPE.model_copy(update={"campaign": "gz9"}), str(checkpoint), tmp_path / "a", "cpu")
    with pytest.raises(RecipeError, match="has no region 'west'"):
        detectability(RECIPE.model_copy(update={"region": "west"}), str(checkpoint), tmp_path / "b", "cpu")
    with pytest.raises(ValueError, match="'blurred' must begin with 1"):
        DetectabilityRecipe(blurred=(2.0, 3.0))


@pytest.mark.slow
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
