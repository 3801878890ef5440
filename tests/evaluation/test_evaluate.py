from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from blobs import ELONGATED, EVIL, HEADS, QUICK, TESTED, TREE, N, write_checkpoint, write_store
from pages import Page

from gzsurvey import dataset
from gzsurvey.card import VotesCalibration
from gzsurvey.dataset.store import Store
from gzsurvey.errors import GZSurveyError, OutputConflict, RecipeError, TableError
from gzsurvey.evaluation import Given, Mixture, evaluate
from gzsurvey.evaluation.paths import EvaluationPaths
from gzsurvey.evaluation.predict import Predictor
from gzsurvey.model.checkpoint import find_checkpoint, load_network, save_checkpoint
from gzsurvey.recipes.dataset import DatasetRecipe
from gzsurvey.recipes.evaluation import load_evaluation_recipe
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.training import load_pretrain_recipe
from gzsurvey.training import pretrain
from gzsurvey.training.data import as_input
from gzsurvey.training.repeats import OUT_OF_FOLD, fold_place
from gzsurvey.votes.fractions import expected_fractions
from gzsurvey.votes.ranks import STEPS

FIRST, SECOND = "smooth-or-featured-gz2", "disk-edge-on-gz2"


def check_page(out: Path) -> str:
    text = EvaluationPaths(out).page.read_text()
    page = Page(text)
    assert page.loads
    assert all(url.startswith("data:image/png;base64,") for url in page.loads)
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import|<link", text)
    assert "default-src 'none'" in text
    return text


def results_of(out: Path) -> dict[str, object]:
    return json.loads(EvaluationPaths(out).results.read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, one: Mixture, votes: Given) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("evaluated") / "out"
    return out, evaluate(QUICK, one, out, votes)


def test_votes_are_judged_question_by_question(evaluated: tuple[Path, str]) -> None:
    out, text = evaluated
    results = results_of(out)
    assert results["galaxies"] == TESTED
    assert set(results["questions"]) == {FIRST, SECOND}
    assert results["questions"][FIRST]["galaxies"] == TESTED
    assert results["galaxies_with_assumed_votes"] == TESTED // 10
    assert len(results["questions_left_out"]) == len(TREE.questions) - 2
    assert FIRST in text
    trend = results["questions"][FIRST]["trends"]["r50"]
    assert [row["galaxies"] for row in trend] == [150, 150]
    assert "mag" not in results["questions"][FIRST]["trends"]
    assert not any(EvaluationPaths(out).out.glob("*.npy"))
    questions = results["questions"].values()
    answers = [(q["galaxies"] - q["assumed"]) * len(q["answers"]) for q in questions]
    together = np.average([q["coverage"]["0.9"]["value"] for q in questions], weights=answers)
    assert results["coverage"]["0.9"]["value"] == pytest.approx(together)
    assert "inside intervals, votes of all questions: 50%: " in text
    assert "true fractions" not in text


def test_rows_are_what_the_numbers_are_made_of(evaluated: tuple[Path, str]) -> None:
    rows = pd.read_parquet(EvaluationPaths(evaluated[0]).predictions)
    assert list(rows.columns[:3]) == ["id", "ra", "dec"]
    names = TREE.questions[0].vote_columns
    observed = rows[list(names)].to_numpy()
    error = rows[[f"{name}_predicted" for name in names]].to_numpy() - observed / observed.sum(axis=1, keepdims=True)
    stated = results_of(evaluated[0])["questions"][FIRST]["mae"]["value"]
    assert np.abs(error).mean() == pytest.approx(stated, abs=1e-6)


def test_the_page_needs_nothing_else_and_escapes_ids(evaluated: tuple[Path, str]) -> None:
    text = check_page(evaluated[0])
    assert "trained on simulated galaxies" in text
    assert "not <em>debiased</em>" in text
    assert "proportion_asked &gt;= 0.5" in text
    assert len(re.findall(r"<figure><img alt=", text)) == 9
    for name in ("errors", "reliability", "coverage", "trends", "volunteers"):
        assert EvaluationPaths(evaluated[0]).figure(name).stat().st_size > 5000


def test_repeating_it_returns_at_once_and_other_inputs_are_refused(
    evaluated: tuple[Path, str], one: Mixture, votes: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, text = evaluated
    monkeypatch.setattr(Predictor, "predict", lambda *_: pytest.fail("predicted again"))
    assert evaluate(QUICK, one, out, votes) == text
    with pytest.raises(OutputConflict, match="enough_votes was 20, now 10"):
        evaluate(QUICK.model_copy(update={"enough_votes": 10}), one, out, votes)
    with pytest.raises(OutputConflict, match="split was test, now train"):
        evaluate(QUICK, one, out, Given(votes.dataset, split="train"))


def test_members_are_mixed_equally(checkpoints: tuple[str, str], votes: Given, tmp_path: Path) -> None:
    """Truths that are the mixture's own expectation lie inside every interval but the narrowest."""
    assert votes.dataset is not None
    store, both = Store(votes.dataset), Mixture(checkpoints)
    images = as_input(torch.from_numpy(store.images(range(TESTED))))
    with torch.inference_mode():
        networks = [load_network(find_checkpoint(checkpoint))[0] for checkpoint in checkpoints]
        given = [network(images)["concentration"].double().numpy() for network in networks]
    expected = np.mean([expected_fractions(a, TREE) for a in given], axis=0)
    truth = dict(zip((f"{name}_fraction" for name in TREE.vote_columns), expected.T, strict=True))
    (tmp_path / "truth").mkdir()
    pd.DataFrame({"id": store.texts("id", np.arange(TESTED))} | truth).to_parquet(tmp_path / "truth" / "gz2.parquet")
    evaluate(QUICK, both, tmp_path / "out", Given(votes.dataset, truth=tmp_path / "truth"))
    results = results_of(tmp_path / "out")
    assert results["members"] == 2
    assert results["questions"][FIRST]["disagreement"]["value"] > 0
    found = results["questions"][FIRST]["truth"]
    assert found["galaxies"] == TESTED
    assert found["beyond_reach"] == 0.0
    assert found["rmse"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert found["coverage"]["0.5"]["value"] == 1.0
    assert results["truth_coverage"]["0.5"]["value"] == 1.0
    assert "RMSE to truth" in check_page(tmp_path / "out")


def test_a_calibration_is_applied_unless_it_is_ignored(
    evaluated: tuple[Path, str], checkpoints: tuple[str, str], votes: Given, tmp_path: Path
) -> None:
    network, info = load_network(find_checkpoint(checkpoints[0]))
    q = len(TREE.questions)
    parameters = {
        "offset": (3.0,) * q, "slope": (1.0,) * q, "sharpness": (1.0,) * q, "shift": (0.0,) * TREE.n_answers,
        "galaxies": 77, "loss_before": 2.0, "loss_after": 1.5,
    }  # fmt: skip
    surer = VotesCalibration(**parameters)
    ends = (0.5, *(0.0,) * (STEPS - 2), 0.5)
    wider = VotesCalibration(**parameters | {"offset": (0.0,) * q}, ranks=(ends,) * TREE.n_answers)
    for name, calibration in (("surer", surer), ("wider", wider)):
        (tmp_path / name).mkdir()
        changed = info.model_copy(update={"calibration": {"concentration": calibration}})
        save_checkpoint(tmp_path / name, "best", network, changed)
    mixture = Mixture((str(tmp_path / "surer"),))
    evaluate(QUICK, Mixture((str(tmp_path / "wider"),)), tmp_path / "mapped", votes)
    evaluate(QUICK, mixture, tmp_path / "applied", votes)
    evaluate(QUICK.model_copy(update={"calibration": "ignored"}), mixture, tmp_path / "ignored", votes)
    plain, applied, ignored = (results_of(out) for out in (evaluated[0], tmp_path / "applied", tmp_path / "ignored"))
    assert ignored["questions"] == plain["questions"]
    before, after = (r["questions"][FIRST]["log_likelihood"]["value"] for r in (plain, applied))
    assert before != after
    errors = [r["questions"][FIRST]["rmse"]["value"] for r in (plain, applied)]
    assert errors[1] == pytest.approx(errors[0], rel=1e-6)
    # True fractions at the ends of their distributions only: intervals become wider, nothing else changes.
    mapped = results_of(tmp_path / "mapped")
    assert mapped["coverage"]["0.5"]["value"] > 1.5 * plain["coverage"]["0.5"]["value"]
    assert mapped["questions"][FIRST]["rmse"]["value"] == pytest.approx(plain["questions"][FIRST]["rmse"]["value"])
    assert "calibrated on 77 validation galaxies" in check_page(tmp_path / "applied")
    assert "not applied" in check_page(tmp_path / "ignored")
    assert "not calibrated" in check_page(evaluated[0])


@pytest.mark.parametrize("vary", ["dropout", "views"])
def test_passes_of_one_checkpoint_differ_and_are_reproducible(
    vary: str, checkpoints: tuple[str, str], votes: Given, tmp_path: Path
) -> None:
    assert votes.dataset is not None
    store = Store(votes.dataset)
    mixture = Mixture(checkpoints[:1], passes=3, vary=vary)  # type: ignore[arg-type]
    predictor = Predictor(mixture, HEADS[0], QUICK, "cpu")
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found.append(np.array(predictor.predict(store.images, 300, tmp_path / name)))
    assert found[0].shape == (300, 3, TREE.n_answers)
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0].std(axis=1).max(axis=1) > 1e-5).all()


def test_what_was_predicted_before_a_kill_is_not_done_again(
    checkpoints: tuple[str, str], votes: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gzsurvey.evaluation.predict.PART", 16)
    monkeypatch.setattr("gzsurvey.evaluation.predict._PARTS_PER_SAVE", 2)
    assert votes.dataset is not None
    store = Store(votes.dataset)
    predictor = Predictor(Mixture(checkpoints[:1], passes=2), HEADS[0], QUICK, "cpu")
    seen: list[int] = []

    def images(rows: np.ndarray, last: int) -> np.ndarray:
        if rows[0] > last:
            raise KeyboardInterrupt
        seen.append(int(rows[0]))
        return store.images(rows)

    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    whole = np.array(predictor.predict(store.images, 200, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        predictor.predict(lambda rows: images(rows, 80), 200, tmp_path / "cut")
    seen.clear()
    again = predictor.predict(lambda rows: images(rows, 999), 200, tmp_path / "cut")
    assert min(seen) >= 32
    np.testing.assert_array_equal(again, whole)


def test_classes_with_a_hostile_name(one: Mixture, votes: Given, labels: Callable[..., Path], tmp_path: Path) -> None:
    table = labels(label=np.where(ELONGATED, EVIL, "no"))
    recipe = QUICK.model_copy(update={"task": "ring", "prevalence": {"no": 0.9, EVIL: 0.1}})
    given = Given(labels=table, images=votes.dataset, by=("snr",))
    text = evaluate(recipe, one, tmp_path / "out", given)
    results = results_of(tmp_path / "out")
    assert results["galaxies"] == TESTED
    assert np.sum(results["confusion"]) == TESTED
    assert results["by_class"][EVIL]["galaxies"] == ELONGATED[:TESTED].sum()
    assert results["by_class"][EVIL]["curve"]["purity"][-1] == pytest.approx(0.1)
    assert len(results["by_class"][EVIL]["trends"]["snr"]) == 2
    assert "accuracy" in text
    check_page(tmp_path / "out")
    rows = pd.read_parquet(EvaluationPaths(tmp_path / "out").predictions)
    raw = rows[f"{EVIL}_score"]
    np.testing.assert_allclose(rows[f"{EVIL}_probability"], 0.1 * raw / (0.1 * raw + 0.9 * (1 - raw)), rtol=1e-5)


def test_labels_that_do_not_exclude_each_other(
    one: Mixture, votes: Given, labels: Callable[..., Path], tmp_path: Path
) -> None:
    shell = np.where(np.arange(len(ELONGATED)) % 3 == 0, np.nan, 1.0 - ELONGATED)
    table = labels(tail=ELONGATED.astype(int), shell=shell)
    recipe = QUICK.model_copy(update={"task": "tidal", "prevalence": "estimated"})
    evaluate(recipe, one, tmp_path / "out", Given(votes.dataset, labels=table))
    results = results_of(tmp_path / "out")
    assert np.sum(results["by_class"]["tail"]["confusion"]) == TESTED
    assert np.sum(results["by_class"]["shell"]["confusion"]) == 200
    assert results["prevalence_from"] == "estimated"
    check_page(tmp_path / "out")


def test_a_number(one: Mixture, votes: Given, labels: Callable[..., Path], tmp_path: Path) -> None:
    table = labels(label=np.where(ELONGATED, 8.0, 3.0))
    given = Given(labels=table, images=votes.dataset, by=("snr",))
    text = evaluate(QUICK.model_copy(update={"task": "size"}), one, tmp_path / "out", given)
    rows = pd.read_parquet(EvaluationPaths(tmp_path / "out").predictions)
    stated = results_of(tmp_path / "out")
    assert stated["bias"]["value"] == pytest.approx((rows["predicted"] - rows["label"]).mean(), abs=1e-5)
    assert "rmse" in text
    assert "arcsec" not in text
    check_page(tmp_path / "out")


def test_votes_of_a_table_are_judged_as_those_of_the_store(
    evaluated: tuple[Path, str], one: Mixture, votes: Given, labels: Callable[..., Path], tmp_path: Path
) -> None:
    """The same galaxies and counts; the store's every tenth has assumed votes, which count for fewer numbers."""
    assert votes.dataset is not None
    store = Store(votes.dataset)
    counts = store.vote_counts(np.arange(N))
    table = labels(**dict(zip(TREE.vote_columns, counts.T, strict=True)), redshift=np.linspace(0, 0.2, N))
    given = Given(labels=table, images=votes.dataset, by=("redshift",))
    evaluate(QUICK.model_copy(update={"task": "votes"}), one, tmp_path / "out", given)
    found, stored = (results_of(out)["questions"] for out in (tmp_path / "out", evaluated[0]))
    for name in (FIRST, SECOND):
        for measure in ("rmse", "mae", "accuracy"):
            assert found[name][measure] == stored[name][measure]
        assert found[name]["assumed"] == 0
    assert [row["galaxies"] for row in found[FIRST]["trends"]["redshift"]] == [150, 150]
    assert EvaluationPaths(tmp_path / "out").figure("trends").is_file()
    check_page(tmp_path / "out")
    alone = Mixture((write_checkpoint(tmp_path / "votes", 1, HEADS[:1]),))
    evaluate(QUICK, alone, tmp_path / "alone", given)
    assert results_of(tmp_path / "alone")["kind"] == "votes"
    first = dict(zip(TREE.vote_columns[:3], counts.T[:3], strict=True))
    strange = Given(labels=labels(**first | {"shells-gz2_yes": 1}), images=votes.dataset)
    refused(
        TableError, "'shells-gz2_yes' holds votes on a question that 'gz2' lacks", QUICK, alone, tmp_path / "x", strange
    )
    few = Given(labels=labels(**{name: column * 0 + 3 for name, column in first.items()}), images=votes.dataset)
    refused(RecipeError, "no question has 10 galaxies with 20 votes", QUICK, alone, tmp_path / "x", few)


def test_numbers_along_which_votes_are_judged_may_stand_in_a_table_of_their_own(
    one: Mixture, votes: Given, tmp_path: Path
) -> None:
    table = tmp_path / "catalogue.csv"
    ids = [f"g{i}" for i in reversed(range(1, 101))]
    pd.DataFrame({"id": ids, "redshift": np.linspace(0.2, 0.1, 100)}).to_csv(table, index=False)
    given = Given(votes.dataset, by=("redshift",), catalogue=table)
    evaluate(QUICK, one, tmp_path / "out", given)
    low, high = results_of(tmp_path / "out")["questions"][FIRST]["trends"]["redshift"]
    assert (low["low"], high["high"]) == pytest.approx((0.1, 0.2))
    assert low["galaxies"] + high["galaxies"] == 100
    refused(TableError, "has no column 'snr'; it has id, redshift", QUICK, one, tmp_path / "other",
            replace(given, by=("snr",)))  # fmt: skip
    refused(TableError, "name some by --by", QUICK, one, tmp_path / "other", replace(given, by=()))
    pd.DataFrame({"id": ["x"], "redshift": [1.0]}).to_csv(table, index=False)
    refused(TableError, "has none of these galaxies; their ids look like", QUICK, one, tmp_path / "other", given)


def cross_validated(folder: Path) -> Mixture:
    """Write two folds with other weights than the network of all labels, and who was tested by which."""
    write_checkpoint(folder, 7, HEADS[1:2])
    for fold in range(2):
        write_checkpoint(fold_place(folder, fold), fold, HEADS[1:2])
    ids = [EVIL, *(f"g{i}" for i in range(1, N - 5))]
    tested = pd.DataFrame({"id": ids, "ra": 0.0, "dec": 0.0, "fold": np.arange(N - 5) % 2})
    tested.to_csv(folder / OUT_OF_FOLD, index=False)
    return Mixture((str(folder),))


def test_each_galaxy_of_a_cross_validation_is_judged_by_the_network_that_did_not_learn_from_it(
    votes: Given, labels: Callable[..., Path], tmp_path: Path
) -> None:
    mixture = cross_validated(tmp_path / "rings")
    table = labels(label=np.where(ELONGATED, EVIL, "no"))
    given = Given(labels=table, images=votes.dataset, split="folds")
    evaluate(QUICK, mixture, tmp_path / "out", given)
    rows = pd.read_parquet(EvaluationPaths(tmp_path / "out").predictions)
    assert len(rows) == N - 5
    assert votes.dataset is not None
    images = as_input(torch.from_numpy(Store(votes.dataset).images(np.arange(N - 5))))
    with torch.inference_mode():
        each = [load_network(find_checkpoint(str(fold_place(tmp_path / "rings", fold))))[0](images) for fold in (0, 1)]
    expected = torch.stack([found["ring_probability"][:, 0] for found in each], dim=1).numpy()
    chosen = expected[np.arange(N - 5), np.arange(N - 5) % 2]
    np.testing.assert_allclose(rows["no_score"], chosen, atol=1e-6)
    assert np.abs(expected[:, 0] - expected[:, 1]).max() > 1e-3
    results = results_of(tmp_path / "out")
    assert len(results["checkpoints"]) == 2
    assert results["split"] == "folds"
    assert not list((tmp_path / "out").glob("fold-*"))
    assert "the one of 2 networks that neither learnt" in check_page(tmp_path / "out")


def test_a_cross_validation_that_is_not_there_is_one_line(
    one: Mixture, votes: Given, labels: Callable[..., Path], tmp_path: Path
) -> None:
    recipe, out = QUICK.model_copy(update={"task": "ring"}), tmp_path / "out"
    given = Given(labels=labels(label=np.where(ELONGATED, EVIL, "no")), images=votes.dataset, split="folds")
    mixture = cross_validated(tmp_path / "rings")
    refused(RecipeError, "was not cross-validated: give finetune --set folds=5", recipe, one, out, given)
    refused(RecipeError, "add --labels", recipe, one, out, replace(given, labels=None, dataset=votes.dataset))
    refused(
        RecipeError, "cannot be a member", recipe, Mixture((*mixture.checkpoints, *mixture.checkpoints)), out, given
    )
    (tmp_path / "rings" / OUT_OF_FOLD).write_text("id,fold\nx,0\n")
    refused(RecipeError, "cross-validated on none of these galaxies: .*g1", recipe, mixture, out, given)


def refused(kind: type[GZSurveyError], match: str, *arguments: object) -> None:
    with pytest.raises(kind, match=match) as caught:
        evaluate(*arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_bad_inputs_are_refused_before_anything_is_written(
    one: Mixture, votes: Given, labels: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    blind = Mixture((write_checkpoint(tmp_path / "blind", 3, ()),))
    task = Mixture((write_checkpoint(tmp_path / "task", 4, HEADS[1:2]),))
    refused(RecipeError, "predicts no votes; give --labels", QUICK, blind, out, votes)
    refused(RecipeError, "add --dataset STORE", QUICK, one, out, Given())
    refused(RecipeError, "no galaxy in split 'validation'; it has train 30", QUICK, one, out,
            Given(votes.dataset, "validation"))  # fmt: skip
    refused(RecipeError, "enough_votes: no question has 10 galaxies", QUICK.model_copy(update={"enough_votes": 99}),
            one, out, votes)  # fmt: skip
    refused(TableError, "has no column of numbers 'redshift'; it has r50, mag", QUICK, one, out,
            Given(votes.dataset, by=("redshift",)))  # fmt: skip
    refused(RecipeError, "does not predict what", QUICK, Mixture((one.checkpoints[0], task.checkpoints[0])), out, votes)
    table = labels(label=np.where(ELONGATED, "ring", "no"))
    refused(
        RecipeError,
        "not finetuned to a task that --labels could judge, and predicts no votes",
        QUICK,
        blind,
        out,
        Given(votes.dataset, labels=table),
    )
    refused(RecipeError, "several tasks \\(ring, tidal, size\\)", QUICK, one, out, Given(votes.dataset, labels=table))
    refused(TableError, "class 'ring' is none of the checkpoint's", QUICK, task, out,
            Given(votes.dataset, labels=table))  # fmt: skip
    refused(RecipeError, "add --images", QUICK, task, out, Given(labels=labels(label=np.where(ELONGATED, EVIL, "no"))))
    refused(RecipeError, "must add up to 1, not 0.3", QUICK.model_copy(update={"prevalence": {"no": 0.2, EVIL: 0.1}}),
            task, out, Given(votes.dataset, labels=table))  # fmt: skip
    assert not out.exists()


def test_a_store_prepared_differently_is_refused(one: Mixture, tmp_path: Path) -> None:
    other = write_store(tmp_path / "store", Preparation(image_size=32, crop=0.5))
    refused(
        RecipeError, "prepared differently .*crop is 0.5 there, 1.0 here", QUICK, one, tmp_path / "out", Given(other)
    )


def test_unknown_truth_columns_are_refused(one: Mixture, votes: Given, tmp_path: Path) -> None:
    table = tmp_path / "truth.csv"
    for columns, match in (
        ({"bar_yes": [0.5]}, "needs their 'id' and columns such as 'smooth-or-featured-gz2_smooth_fraction'"),
        ({f"{FIRST}_smooth_fraction": [0.5]}, "has no column 'smooth-or-featured-gz2_featured-or-disk_fraction'"),
    ):
        pd.DataFrame({"id": ["g1"]} | columns).to_csv(table, index=False)
        refused(TableError, match, QUICK, one, tmp_path / "out", Given(votes.dataset, truth=table))
    refused(TableError, "holds none of gz2.parquet", QUICK, one, tmp_path / "out", Given(votes.dataset, truth=tmp_path))


@pytest.mark.long
def test_real_galaxies_of_galaxy_zoo_2(shared_data: Path, tmp_path: Path) -> None:
    """Kaggle's fractions have errors, but no floor: their number of votes is assumed."""
    source = {
        "name": "gz2", "campaign": "gz2", "images": str(shared_data / "gz2_sdss" / "images.zip"),
        "catalogue": str(shared_data / "gz2_sdss" / "catalogue.csv"), "id_column": "galaxy_id",
        "image_column": "image", "columns": "kaggle_gz2", "assumed_votes": 44, "limit": 500,
    }  # fmt: skip
    content = {"name": "gz2", "answers": "gz2", "preparation": {"image_size": 32}, "sources": [source],
               "splits": {"train": 0.5, "validation": 0.1, "test": 0.4}}  # fmt: skip
    built = dataset.build(DatasetRecipe.model_validate(content), tmp_path / "store")
    recipe = load_pretrain_recipe(
        "pretrain", ["approach=supervised", "encoder.name=test_resnet", "batch_size=64", "steps=40"]
    )
    pretrain(recipe, built.path, tmp_path / "pretrained", "cpu")
    evaluate(QUICK, Mixture((str(tmp_path / "pretrained"),)), tmp_path / "out", Given(built.path))
    results = results_of(tmp_path / "out")
    first = results["questions"][FIRST]
    assert results["galaxies_with_assumed_votes"] == results["galaxies"]
    assert first["galaxies"] > 100
    assert first["rmse"]["value"] < 0.35
    assert first["rmse_floor"]["value"] is None
    assert first["coverage"]["0.9"]["value"] is None
    assert "assumed number of" in check_page(tmp_path / "out")


def test_the_shipped_recipe_says_what_the_defaults_are() -> None:
    assert load_evaluation_recipe("evaluate") == QUICK.model_validate({})
