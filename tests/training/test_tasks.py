"""Every kind of task learns something real, and refuses what it cannot learn, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, gammaln
from sklearn.linear_model import LinearRegression

from gzsurvey.errors import GZSurveyError, RecipeError, TableError
from gzsurvey.model.checkpoint import CheckpointInfo, find_checkpoint, load_network
from gzsurvey.model.dirichlet import VotesLayer, answer_table, votes_loss
from gzsurvey.model.network import LabelsLayer, NumberLayer
from gzsurvey.recipes.training import FinetuneRecipe, FinetuneTask
from gzsurvey.training import finetune
from gzsurvey.training.labels import read_labels
from gzsurvey.training.probe import fit_labels, fit_number, fit_probe, votes_at
from gzsurvey.training.tasks.labels import LabelsTask
from gzsurvey.training.tasks.number import NumberTask
from gzsurvey.training.tasks.votes import VotesTask
from gzsurvey.votes.tree import DecisionTree

SIZE, NOISE = 32, 0.5
TREE = DecisionTree.load("gz2")
SMOOTH = TREE.questions[0]
VOTES = {"kind": "votes", "campaign": "gz2"}


def recipe(**changes: Any) -> FinetuneRecipe:
    base = {"encoder": {"name": "test_resnet"}, "mode": "linear", "views": 1, "validation": 0.4, "image_size": SIZE}
    return FinetuneRecipe.model_validate(base | changes)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Blobs as images, and a table of all that can be said of them."""
    from PIL import Image

    folder, n = tmp_path_factory.mktemp("drawn"), 160
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    radius, red, tail = rng.uniform(2, 7, n), rng.random(n) < 0.5, rng.random(n) < 0.4
    (folder / "images").mkdir()
    for i in range(n):
        light = np.exp(-(x**2 + y**2) / radius[i] ** 2)[..., None] * ([1.0, 0.5, 0.3] if red[i] else [0.4, 0.6, 1.0])
        light = light + tail[i] * 0.8 * ((np.abs(y) < 1.5) & (x > 0))[..., None]
        pixels = np.clip(220 * light + rng.normal(12, 3, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"g{i}.png")
    featured = rng.binomial(30, np.where(red, 0.85, 0.1))
    table = pd.DataFrame(
        {
            "id": [f"g{i}" for i in range(n)],
            "ra": rng.uniform(0, 60, n),
            "dec": rng.uniform(-30, 30, n),
            "label": np.where(red, "red", "blue"),
            "radius": radius + NOISE * rng.normal(size=n),
            "tail": tail.astype(float),
            "warm": np.where(rng.random(n) < 0.2, np.nan, red),
            "smooth-or-featured-gz2_smooth": 30 - featured,
            "smooth-or-featured-gz2_featured-or-disk": featured,
            "smooth-or-featured-gz2_artifact": 0,
            "label_by": "anna",
        }
    )
    table.to_csv(folder / "labels.csv", index=False)
    return folder / "labels.csv", folder / "images"


@pytest.fixture
def write(drawn: tuple[Path, Path], tmp_path: Path) -> Any:
    def to_csv(**changes: Any) -> Path:
        pd.read_csv(drawn[0]).assign(**changes).to_csv(tmp_path / "labels.csv", index=False)
        return tmp_path / "labels.csv"

    return to_csv


def learnt(drawn: tuple[Path, Path], out: Path, **changes: Any) -> CheckpointInfo:
    """Finetune on random but fixed features of pixels, and return what is known of it."""
    done = finetune(recipe(**changes), "none", out, *drawn, "cpu")
    return load_network(find_checkpoint(str(done)))[1]


def test_a_number_beats_its_mean(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    task = {"task": "radius", "kind": "number", "label_column": "radius", "unit": "arcsec"}
    info = learnt(drawn, tmp_path / "out", **task)
    assert info.metrics["validation_explained"] > 0.5
    assert 0.45 < info.metrics["validation_within_one_deviation"] < 0.9
    (head,) = info.heads
    assert (head.kind, head.unit, head.output) == ("number", "arcsec", "radius")
    assert info.calibration["radius"].loss_after <= info.calibration["radius"].loss_before


def test_labels_beat_chance(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    info = learnt(drawn, tmp_path / "out", task="seen", kind="labels", label_columns=["tail", "warm"])
    assert info.metrics["validation_roc_auc"] > 0.85
    assert info.heads[0].classes == ("tail", "warm")
    assert set(info.calibration) == {"seen_probability"}


def test_votes_beat_the_mean_fractions(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    info = learnt(drawn, tmp_path / "out", kind="votes", campaign="gz2")
    shares = pd.read_csv(drawn[0])["smooth-or-featured-gz2_smooth"] / 30
    # Two of the three answers differ from the mean by this, and the third is never given.
    constant = float(np.abs(shares - shares.mean()).mean()) * 2 / 3
    assert info.metrics["validation_fraction_error"] < 0.6 * constant
    assert info.most_voted_campaign == "gz2"
    assert info.heads[0].tree == TREE


@pytest.mark.slow
def test_several_tasks_at_once_by_gradient(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    frame = pd.read_csv(drawn[0])
    frame.loc[:59, "radius"] = np.nan
    frame.loc[100:, "label"] = None
    frame.to_csv(tmp_path / "labels.csv", index=False)
    also = [
        {"task": "radius", "kind": "number", "label_column": "radius", "loss_weight": 0.5},
        {"task": "seen", "kind": "labels", "label_columns": ["tail"]},
        {"task": "zoo", "kind": "votes", "campaign": "gz2", "loss_weight": 0.1},
    ]
    settings = {"mode": "full", "epochs": 6, "batch_size": 32, "optimiser": {"kind": "adamw", "learning_rate": 3e-3}}
    info = learnt((tmp_path / "labels.csv", drawn[1]), tmp_path / "out", task="colour", also=also, **settings)
    assert [head.output for head in info.heads] == ["colour_probability", "radius", "seen_probability", "concentration"]
    metrics = info.metrics
    assert metrics["validation_colour_roc_auc"] > 0.9
    assert metrics["validation_loss"] == pytest.approx(
        metrics["validation_colour_loss"]
        + 0.5 * metrics["validation_radius_loss"]
        + metrics["validation_seen_loss"]
        + 0.1 * metrics["validation_zoo_loss"]
    )


@pytest.mark.slow
def test_a_frozen_encoder_keeps_other_heads_and_replaces_votes(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    first = finetune(recipe(kind="votes", campaign="gz2"), "none", tmp_path / "a", *drawn, "cpu")
    second = finetune(recipe(task="colour"), str(first), tmp_path / "b", *drawn, "cpu")
    desi = write_desi(drawn[0], tmp_path)
    third = finetune(recipe(kind="votes", campaign="gz_desi"), str(second), tmp_path / "c", desi, drawn[1], "cpu")
    (_, one), (_, two), (_, three) = (load_network(find_checkpoint(str(out))) for out in (first, second, third))
    assert [head.output for head in two.heads] == ["concentration", "colour_probability"]
    assert two.calibration["concentration"] == one.calibration["concentration"]
    assert [head.output for head in three.heads] == ["colour_probability", "concentration"]
    assert three.heads[1].tree.campaigns == ("gz_desi",)
    assert three.calibration["colour_probability"] == two.calibration["colour_probability"]
    fourth = finetune(
        recipe(task="colour", mode="full", epochs=1, least_steps=1), str(first), tmp_path / "d", *drawn, "cpu"
    )
    info = load_network(find_checkpoint(str(fourth)))[1]
    assert [head.output for head in info.heads] == ["colour_probability"]
    assert "concentration" not in info.calibration
    assert info.most_voted_campaign is None


def write_desi(labels: Path, folder: Path) -> Path:
    question = DecisionTree.load("gz_desi").questions[0]
    frame = pd.read_csv(labels).rename(columns=dict(zip(SMOOTH.vote_columns, question.vote_columns, strict=True)))
    frame.to_csv(folder / "desi.csv", index=False)
    return folder / "desi.csv"


def test_the_deviation_of_a_number_is_the_noise_of_its_labels() -> None:
    rng = np.random.default_rng(2)
    features = rng.normal(size=(1, 600, 20)).astype(np.float32) * 4 + 3
    slope, noise = rng.normal(size=20), 0.7
    target = features[0] @ slope + noise * rng.normal(size=600)
    weight, bias, deviation = fit_number(features, target, np.ones(600), np.zeros(600, np.int64), seed=0)
    assert deviation == pytest.approx(noise, rel=0.2)
    plain = LinearRegression().fit(features[0], target)
    assert np.allclose(weight, plain.coef_, atol=0.02)
    fresh = rng.normal(size=(4000, 20)) * 4 + 3
    error = fresh @ slope + noise * rng.normal(size=4000) - (fresh @ weight + bias)
    assert error.std() == pytest.approx(deviation, rel=0.2)


def test_labels_are_fitted_like_classes_where_all_is_known() -> None:
    rng = np.random.default_rng(3)
    views = rng.normal(size=(1, 120, 6)).astype(np.float32)
    having = (views[0, :, 0] + 0.5 * rng.normal(size=120) > 0).astype(float)
    partly = np.where(np.arange(120) < 80, having, np.nan)
    slopes, biases = fit_labels(views, np.column_stack([having, partly, np.zeros(120)]), np.ones(120), seed=0)
    classes = fit_probe(views, having.astype(np.int64), np.ones(120), 2, seed=0)
    assert np.allclose(expit(views[0] @ slopes[0] + biases[0]), classes.probability(views[0])[:, 1])
    some = fit_probe(views[:, :80], having[:80].astype(np.int64), np.ones(80), 2, seed=0)
    assert np.allclose(expit(views[0] @ slopes[1] + biases[1]), some.probability(views[0])[:, 1])
    assert (slopes[2] == 0).all()
    assert expit(biases[2]) < 0.01


def test_votes_are_fitted_as_scipy_fits_them() -> None:
    rng = np.random.default_rng(4)
    tree = DecisionTree(TREE.questions[:2])
    n, d, a = 40, 3, tree.n_answers
    views = rng.normal(size=(2, n, d))
    votes = np.zeros((n, a), np.int32)
    weight = rng.uniform(0.5, 2, n)
    for question in tree.questions:
        share = np.exp(views[0] @ rng.normal(size=(d, len(question.answers))))
        share /= share.sum(axis=1, keepdims=True)
        votes[:, question.columns] = [rng.multinomial(rng.integers(0, 30), row) for row in share]

    def loss(values: np.ndarray) -> float:
        slope, bias = values[: a * d].reshape(a, d), values[a * d :]
        total = (slope**2).sum() / 2
        for view in views:
            alpha = 1 + 100 * expit(view @ slope.T + bias)
            for question in tree.questions:
                k, al = votes[:, question.columns], alpha[:, question.columns]
                likelihood = gammaln(al.sum(1)) - gammaln(al.sum(1) + k.sum(1)) + (gammaln(k + al) - gammaln(al)).sum(1)
                total -= 0.5 * 0.3 * (weight * (likelihood + gammaln(k.sum(1) + 1) - gammaln(k + 1).sum(1))).sum()
        return float(total)

    ours = votes_at(views, votes, weight, tree, strength=0.3)
    start = np.concatenate([np.zeros(a * d), np.full(a, -3.0)])
    theirs = minimize(loss, start, method="L-BFGS-B", options={"maxiter": 5000, "maxfun": 10**6})
    assert loss(np.concatenate([ours[0].ravel(), ours[1]])) == pytest.approx(theirs.fun, abs=1e-4)
    assert np.allclose(ours[0].ravel(), theirs.x[: a * d], atol=0.02)


def test_losses_are_those_of_torch(drawn: tuple[Path, Path]) -> None:
    torch.manual_seed(0)
    embedding, rows = torch.randn(160, 8), np.arange(160)
    tables = (
        FinetuneTask(kind="votes", campaign="gz2"),
        FinetuneTask(task="r", kind="number", label_column="radius"),
        FinetuneTask(task="s", kind="labels", label_columns=("tail", "warm")),
    )
    votes, number, several = read_labels(drawn[0], tables).tasks
    assert isinstance(votes, VotesTask)
    assert isinstance(number, NumberTask)
    assert isinstance(several, LabelsTask)
    layer = VotesLayer(8, TREE.n_answers, 0.0)
    expected = votes_loss(torch.from_numpy(votes.target), layer(embedding), answer_table(TREE))[0]
    assert votes.loss(layer, embedding, rows).item() == pytest.approx(expected.item(), rel=1e-5)
    moments = NumberLayer(8)
    number.start(moments, rows)
    mean, deviation = moments.eval()(embedding).double().unbind(1)
    normal = torch.distributions.Normal(mean, deviation)
    expected = -normal.log_prob(torch.tensor(number.target)).mean()
    assert number.loss(moments, embedding, rows).item() == pytest.approx(expected.item(), rel=1e-4)
    labels = LabelsLayer(8, 2).eval()
    probability = labels(embedding).double().detach().numpy()
    likelihood = np.where(several.target == 1, probability, 1 - probability)
    expected = -np.nansum(np.where(np.isnan(several.target), np.nan, np.log(likelihood)), axis=1).mean()
    assert several.loss(labels, embedding, rows).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("task", "changes", "problem"),
    [
        ({"kind": "number"}, {}, "'label' holds text where numbers are expected"),
        ({"kind": "number", "label_column": "radius"}, {"radius": 3.5}, "all 160 numbers are 3.5"),
        ({"kind": "number", "label_column": "radius"}, {"radius": [np.nan, *range(159)]}, "empty or NaN.*row 0"),
        ({"kind": "number", "label_column": "size"}, {}, "no column 'size'"),
        ({"kind": "number", "label_column": "radius"}, {"radius": [np.inf, *range(159)]}, "is infinite.*row 0"),
        ({"kind": "labels", "label_columns": ["tail"]}, {"tail": [2, *[0, 1, 1] * 53]}, "0 or 1, or.*got 2.*row 0"),
        ({"kind": "labels", "label_columns": ["tail"]}, {"tail": [1] + [0] * 159}, "'tail' is 1 for 1 galaxies"),
        ({"kind": "labels", "label_columns": ["tail"]}, {"tail": 1}, "'tail' is 0 for 0 galaxies"),
        ({"kind": "votes", "campaign": "gz2"}, {SMOOTH.vote_columns[0]: 0.5}, "fractional.*row 0"),
        ({"kind": "votes", "campaign": "gz2"}, {SMOOTH.vote_columns[0]: -1}, "is negative.*row 0"),
        ({"kind": "votes", "campaign": "gz_desi"}, {}, "no vote column of gz_desi"),
        ({"kind": "votes", "campaign": "gz2"}, {"tidal-gz2_yes": 3}, "'tidal-gz2_yes'.*question that 'gz2' lacks"),
        ({"kind": "votes", "campaign": "gz2"}, {"bar-gz2_maybe": 3}, "answer that 'gz2' lacks.*yes, no"),
        ({"kind": "votes", "campaign": "gz2"}, dict.fromkeys(SMOOTH.vote_columns, 0), "empty or NaN.*row 0, 1"),
        ({}, {"label": [None, *["a", "b", "b"] * 53]}, "empty or NaN.*row 0"),
        ({}, {"weight": 0}, "'weight' is 0 in all rows"),
    ],
)  # fmt: skip
def test_bad_labels_are_one_line(write: Any, task: dict[str, Any], changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(TableError, match=problem) as caught:
        read_labels(write(**changes), (FinetuneTask.model_validate(task),))
    assert "\n" not in str(caught.value)


def test_a_galaxy_may_lack_labels_of_some_tasks_but_not_of_all(write: Any) -> None:
    path = write(radius=[np.nan, np.nan, *range(158)], label=["red", None, *["red", "blue"] * 79])
    tasks = (FinetuneTask(), FinetuneTask(task="r", kind="number", label_column="radius"))
    with pytest.raises(TableError, match=r"label of 'task', 'r' is empty or NaN.*row 1"):
        read_labels(path, tasks)


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ({"kind": "labels"}, "needs 'label_columns'"),
        ({"kind": "votes"}, "needs 'campaign'"),
        ({"unit": "mag"}, "'unit' belongs to kind 'number'"),
        ({"kind": "number", "unit": "parsnip"}, "none of the VOUnit standard"),
        ({"kind": "number", "class_weights": "balanced"}, "'class_weights' belongs to kind 'classes'"),
        ({"also": [{"task": "task"}]}, "two tasks have the task 'task'"),
        ({"also": [VOTES | {"task": "a"}, VOTES | {"task": "b"}]}, "two tasks have the output 'concentration'"),
        ({"kind": "number", "task": "embedding"}, "name of another output"),
        ({"kind": "labels", "label_columns": ["tail", "tail"]}, "must differ"),
    ],
)  # fmt: skip
def test_recipes_that_contradict_themselves_are_refused(task: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        recipe(**task)


def test_an_unknown_campaign_or_path_is_one_line(drawn: tuple[Path, Path], tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], Any, type[GZSurveyError], str]] = [
        ({"kind": "votes", "campaign": "gz9"}, drawn[1], RecipeError, "gz9"),
        ({}, "nowhere.zip", RecipeError, "nowhere.zip: does not exist"),
    ]
    for task, images, error, problem in cases:
        with pytest.raises(error, match=problem) as caught:
            finetune(recipe(**task), "none", tmp_path / "out", drawn[0], images, "cpu")
        assert "\n" not in str(caught.value)
