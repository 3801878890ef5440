"""Votes out of tables: whatever the table looks like, counts are whole and consistent, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gzsurvey.errors import RecipeError, TableError
from gzsurvey.recipes.columns import ColumnMap, load_column_map
from gzsurvey.resources import CAMPAIGNS, COLUMNS, shipped_names
from gzsurvey.votes.counts import VoteTable, apportion, counts_from_table
from gzsurvey.votes.tree import DecisionTree

GZ2 = DecisionTree.load("gz2")
DR5 = DecisionTree.load("gz_decals_dr5")


def table(frame: pd.DataFrame, columns: str | ColumnMap = "", votes: int | None = None) -> VoteTable:
    found = load_column_map(columns) if isinstance(columns, str) and columns else columns or ColumnMap()
    assert isinstance(found, ColumnMap)
    return VoteTable(frame, found, "votes.csv", votes)


def dr5_counts(rows: int = 4, seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).integers(0, 20, (rows, DR5.n_answers))
    return pd.DataFrame(values, columns=list(DR5.vote_columns))


def test_gz_evo_has_65_questions_and_206_answers() -> None:
    tree = DecisionTree.load("gz_evo_v0_1")
    assert (len(tree.questions), tree.n_answers) == (65, 206)
    assert len(set(tree.vote_columns)) == 206


@pytest.mark.parametrize("name", shipped_names(CAMPAIGNS))
def test_counts_of_every_shipped_campaign_survive_a_round_trip(name: str) -> None:
    tree = DecisionTree.load(name)
    values = np.random.default_rng(1).integers(0, 40, (3, tree.n_answers))
    frame = pd.DataFrame(values, columns=list(tree.vote_columns))
    np.testing.assert_array_equal(counts_from_table(table(frame), tree), values)


@pytest.mark.parametrize("name", shipped_names(COLUMNS))
def test_every_shipped_column_map_names_every_answer_of_its_campaign_once(name: str) -> None:
    columns = load_column_map(name)
    if columns.campaign is None:
        return
    tree = DecisionTree.load(columns.campaign)
    assert {q: tuple(a) for q, a in columns.answers.items()}.keys() == {q.label for q in tree.questions}
    for question in tree.questions:
        assert set(columns.answers[question.label]) == set(question.answers)
    named = [column for answers in columns.answers.values() for column in answers.values()]
    assert len(set(named)) == len(named) == tree.n_answers


def test_counts_and_fractions_of_one_file_are_told_apart() -> None:
    frame = dr5_counts()
    for question in DR5.questions:
        total = frame[list(question.vote_columns)].sum(axis=1)
        frame[f"{question.name}_total-votes"] = total
        for column in question.vote_columns:
            frame[f"{column}_fraction"] = frame[column] / total
            frame[f"{column}_debiased"] = 0.123
    np.testing.assert_array_equal(counts_from_table(table(frame), DR5), frame[list(DR5.vote_columns)])


def test_a_question_nobody_was_asked_teaches_nothing() -> None:
    frame = dr5_counts().astype(float)
    frame.loc[1, list(DR5.questions[3].vote_columns)] = np.nan
    counts = counts_from_table(table(frame), DR5)
    assert counts.dtype == np.int32
    assert not counts[1, DR5.questions[3].columns].any()
    assert counts[0, DR5.questions[3].columns].any()


def test_a_table_with_one_question_only_leaves_the_others_unknown() -> None:
    frame = dr5_counts()[list(DR5.questions[0].vote_columns)]
    counts = counts_from_table(table(frame), DR5)
    assert counts[:, 3:].sum() == 0
    assert counts[:, :3].sum() == frame.to_numpy().sum()


@pytest.mark.parametrize(
    ("value", "says"),
    [(-1, "negative"), (0.5, "fractional"), (np.inf, "infinite"), (10**6, "above"), (np.nan, "empty")],
)
def test_an_impossible_count_is_refused_and_its_row_named(value: float, says: str) -> None:
    frame = dr5_counts().astype(float)
    frame.loc[2, "bar-dr5_weak"] = value
    with pytest.raises(TableError, match=says) as caught:
        counts_from_table(table(frame), DR5)
    assert caught.value.rows == (2,)
    assert "row 2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_votes_above_their_total_are_refused() -> None:
    frame = dr5_counts()
    frame["bar-dr5_total-votes"] = frame[[c for c in frame if c.startswith("bar-dr5")]].sum(axis=1)
    counts_from_table(table(frame), DR5)
    frame.loc[3, "bar-dr5_total-votes"] -= 1
    with pytest.raises(TableError, match="more than its total") as caught:
        counts_from_table(table(frame), DR5)
    assert caught.value.rows == (3,)


def test_text_and_missing_answers_are_refused() -> None:
    frame = dr5_counts()
    with pytest.raises(TableError, match="'bar-dr5_no'"):
        counts_from_table(table(frame.drop(columns="bar-dr5_no")), DR5)
    with pytest.raises(TableError, match="holds text"):
        counts_from_table(table(frame.assign(**{"bar-dr5_no": "many"})), DR5)
    with pytest.raises(TableError, match="no vote column"):
        counts_from_table(table(pd.DataFrame({"id": [1]})), DR5)


def test_fractions_with_totals_become_rounded_counts() -> None:
    counts = dr5_counts(rows=50)
    frame = pd.DataFrame()
    for question in DR5.questions:
        part = counts[list(question.vote_columns)]
        frame[f"{question.name}_total"] = part.sum(axis=1)
        for column in question.vote_columns:
            frame[f"{column}_fraction"] = (part[column] / part.sum(axis=1)).round(3)
    found = counts_from_table(table(frame, ColumnMap(holds="fractions")), DR5)
    np.testing.assert_array_equal(found, counts)


def test_fractions_without_totals_need_assumed_votes() -> None:
    frame = pd.DataFrame(
        {"bar-dr5_strong_fraction": [0.5], "bar-dr5_weak_fraction": [0.25], "bar-dr5_no_fraction": 0.25}
    )
    fractions = ColumnMap(holds="fractions")
    with pytest.raises(RecipeError, match="assumed_votes"):
        counts_from_table(table(frame, fractions), DR5)
    bar = DR5.questions[3].columns
    assert counts_from_table(table(frame, fractions, 40), DR5)[0, bar].tolist() == [20, 10, 10]


def cumulative(seed: int, rows: int) -> pd.DataFrame:
    """Fractions of all volunteers for made-up galaxies, as Kaggle published them."""
    rng = np.random.default_rng(seed)
    columns = load_column_map("kaggle_gz2")
    values: dict[str, np.ndarray] = {}
    position: dict[int, np.ndarray] = {}
    for question in GZ2.questions:
        links = GZ2.parents(question)
        asked = sum((position[column] for _, column in links), np.zeros(rows)) if links else np.ones(rows)
        shares = rng.dirichlet(np.full(len(question.answers), 0.4), rows) * asked[:, None]
        for i, answer in enumerate(question.answers):
            position[question.start + i] = shares[:, i]
            values[columns.answers[question.label][answer]] = shares[:, i]
    return pd.DataFrame(values)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), votes=st.integers(1, 120))
def test_cumulative_fractions_become_counts_that_add_up_to_their_parents(seed: int, votes: int) -> None:
    counts = counts_from_table(table(cumulative(seed, 20), "kaggle_gz2", votes), GZ2)
    assert (counts[:, :3].sum(axis=1) == votes).all()
    assert (counts >= 0).all()
    for question in GZ2.questions:
        links = GZ2.parents(question)
        if links:
            asked = counts[:, [column for _, column in links]].sum(axis=1)
            np.testing.assert_array_equal(counts[:, question.columns].sum(axis=1), asked)


def test_many_assumed_votes_give_the_fractions_back() -> None:
    frame = cumulative(3, 30)
    columns = load_column_map("kaggle_gz2")
    counts = counts_from_table(table(frame, columns, 1000), GZ2) / 1000
    for question in GZ2.questions:
        for i, answer in enumerate(question.answers):
            stated = frame[columns.answers[question.label][answer]]
            np.testing.assert_allclose(counts[:, question.start + i], stated, atol=0.005)


@settings(deadline=None)
@given(weights=st.lists(st.floats(0, 1), min_size=2, max_size=6), total=st.integers(0, 200))
def test_apportioned_votes_add_up_and_stay_within_one_of_their_share(weights: list[float], total: int) -> None:
    array = np.array([weights])
    votes = apportion(array, np.array([total]))
    if array.sum() <= 0:
        assert votes.sum() == 0
        return
    assert votes.sum() == total
    assert (np.abs(votes - total * array / array.sum()) < 1 + 1e-6).all()


def test_unknown_kaggle_questions_stay_unknown() -> None:
    frame = cumulative(0, 3)
    frame.loc[1, [c for c in frame if c.startswith(("Class3", "Class4", "Class5", "Class9", "Class1"))
                  and not c.startswith("Class1.")]] = np.nan  # fmt: skip
    counts = counts_from_table(table(frame, "kaggle_gz2", 44), GZ2)
    known = {q.label: counts[1, q.columns].sum() > 0 for q in GZ2.questions}
    assert known["smooth-or-featured"]
    assert not known["bar"]
    assert not known["has-spiral-arms"]
    assert not known["spiral-winding"]


def test_real_kaggle_fractions_convert(shared_data: Path) -> None:
    frame = pd.read_csv(shared_data / "gz2_sdss" / "catalogue.csv").sample(300, random_state=0).reset_index(drop=True)
    counts = counts_from_table(table(frame, "kaggle_gz2", 44), GZ2)
    assert (counts[:, :3].sum(axis=1) == 44).all()
    np.testing.assert_allclose(counts[:, 1] / 44, frame["Class1.2"], atol=0.5 / 44 + 0.012)
    complete = (frame["n_questions_known"] == 11).to_numpy()
    edge_on_no = GZ2.vote_columns.index("disk-edge-on-gz2_no")
    spiral = next(q for q in GZ2.questions if q.label == "has-spiral-arms")
    np.testing.assert_array_equal(counts[complete][:, spiral.columns].sum(axis=1), counts[complete][:, edge_on_no])
    assert not counts[~complete][:, spiral.columns].any()


def test_the_real_willett_table_loads_with_true_counts(shared_data: Path) -> None:
    path = shared_data / "gz_vote_catalogues" / "gz2_willett2013_table5_stripe82_coadd.csv.gz"
    frame = pd.read_csv(path)
    counts = counts_from_table(table(frame, "willett2013"), GZ2)
    np.testing.assert_array_equal(counts[:, :3].sum(axis=1), frame["total_classifications"])
    assert counts[:, GZ2.vote_columns.index("bar-gz2_yes")].sum() == frame["t03_bar_a06_bar_count"].sum()


def test_the_real_decals_counts_load(shared_data: Path) -> None:
    frame = pd.read_csv(shared_data / "gz_vote_catalogues" / "gz_decals_smooth_or_featured_votes.csv.gz")
    counts = counts_from_table(table(frame, "gz_decals"), DR5)
    np.testing.assert_array_equal(counts.sum(axis=1), frame["smooth-or-featured_total-votes"])
