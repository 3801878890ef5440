from __future__ import annotations

import numpy as np
import pytest
from cdshealpix.nested import neighbours
from scipy.stats import beta, norm

from gzsurvey.card import LabelsHead, NumberHead, TrainingRange, VotesCalibration
from gzsurvey.outputs.columns import Layout, task_columns
from gzsurvey.outputs.rows import at_prevalence, catalogue_rows, fails_training_cuts, in_training, task_rows
from gzsurvey.votes.ranks import STEPS
from outputs.catalogues import make_block, make_card, make_stored

CARD = make_card()
BLOCK = make_block(CARD)
LAYOUT = Layout(CARD, ("gz_decals_dr8",), make_stored(), "full")
ROWS = catalogue_rows(BLOCK, LAYOUT)
GOOD = BLOCK["status"] == 0


def concentration(question: str) -> np.ndarray:
    found = next(q for q in CARD.votes.tree.of_campaign("gz_decals_dr8") if q.label == question)
    return BLOCK["concentration"][:, found.columns].astype(float)


def test_every_column_is_computed() -> None:
    assert {column.name for column in LAYOUT.columns} <= set(ROWS)
    assert all(len(values) == len(GOOD) for values in ROWS.values())


def test_fractions_are_concentration_over_the_questions_sum() -> None:
    bar = concentration("bar")[GOOD]
    np.testing.assert_allclose(ROWS["bar_strong_fraction"][GOOD], bar[:, 0] / bar.sum(axis=1))
    np.testing.assert_allclose(ROWS["bar_weak_dirichlet"][GOOD], bar[:, 1])


def test_proportion_asked_is_the_product_up_the_tree() -> None:
    product = ROWS["smooth_or_featured_featured_or_disk_fraction"] * ROWS["disk_edge_on_no_fraction"]
    np.testing.assert_allclose(ROWS["bar_proportion_asked"][GOOD], product[GOOD])
    assert (ROWS["smooth_or_featured_proportion_asked"][GOOD] == 1).all()


def test_leading_answers_are_blank_where_few_are_asked() -> None:
    asked = ROWS["how_rounded_proportion_asked"]
    leading = ROWS["how_rounded_leading"]
    assert ((leading != "") == (GOOD & (asked >= 0.5))).all()
    assert set(ROWS["smooth_or_featured_leading"][GOOD]) <= {"smooth", "featured-or-disk", "artifact"}


def test_intervals_are_the_beta_marginals() -> None:
    bar = concentration("bar")[GOOD]
    marginal = beta(bar[:, 0], bar[:, 1:].sum(axis=1))
    np.testing.assert_allclose(ROWS["bar_strong_lower"][GOOD], marginal.ppf(0.05), rtol=1e-6)
    np.testing.assert_allclose(ROWS["bar_strong_upper"][GOOD], marginal.ppf(0.95), rtol=1e-6)


def mapped_rows(shares: tuple[float, ...]) -> dict[str, np.ndarray]:
    """Rows of a model that was calibrated to have true fractions at other ranks of the answer ``bar: strong``."""
    tree = CARD.votes.tree
    column = next(q for q in tree.of_campaign("gz_decals_dr8") if q.label == "bar").columns.start
    ranks = [shares if answer == column else () for answer in range(tree.n_answers)]
    q = len(tree.questions)
    calibration = VotesCalibration(
        offset=(0.0,) * q, slope=(1.0,) * q, sharpness=(1.0,) * q, shift=(0.0,) * tree.n_answers, ranks=ranks,
        galaxies=20, loss_before=1.0, loss_after=1.0,
    )  # fmt: skip
    card = make_card(calibration={"concentration": (calibration,)})
    return catalogue_rows(BLOCK, Layout(card, ("gz_decals_dr8",), make_stored(), "full"))


def test_intervals_are_read_where_true_fractions_were_found() -> None:
    rows = mapped_rows((*(0.0,) * (STEPS // 4), *(2 / STEPS,) * (STEPS // 2), *(0.0,) * (STEPS // 4)))
    bar = concentration("bar")[GOOD]
    marginal = beta(bar[:, 0], bar[:, 1:].sum(axis=1))
    np.testing.assert_allclose(rows["bar_strong_lower"][GOOD], marginal.ppf(0.275), atol=2e-3)
    np.testing.assert_allclose(rows["bar_strong_upper"][GOOD], marginal.ppf(0.725), atol=2e-3)
    for name in ("bar_weak_lower", "bar_weak_upper", "bar_strong_fraction", "bar_strong_dirichlet"):
        np.testing.assert_array_equal(rows[name], ROWS[name])


def test_a_fraction_is_never_outside_its_interval() -> None:
    rows = mapped_rows((*(0.0,) * (STEPS - 1), 1.0))
    fraction, upper = rows["bar_strong_fraction"][GOOD], rows["bar_strong_upper"][GOOD]
    np.testing.assert_array_equal(rows["bar_strong_lower"][GOOD], fraction)
    assert (upper > fraction).all()


def test_rows_without_prediction_are_blank() -> None:
    for column in LAYOUT.columns:
        of_the_pixels = column.name in {"missing_fraction", "masked_fraction"}
        if column.name.endswith(("_fraction", "_lower", "_score", "_dirichlet", "asked")) and not of_the_pixels:
            assert np.isnan(ROWS[column.name][~GOOD]).all(), column.name
        if column.name.endswith("_leading"):
            assert (ROWS[column.name][~GOOD] == "").all(), column.name


def test_task_scores_are_the_models_and_probabilities_need_a_prevalence() -> None:
    scores = BLOCK["ring_probability"]
    np.testing.assert_array_equal(ROWS["ring_Ring_score"], scores[:, 0].astype(float))
    assert np.isnan(ROWS["ring_Ring_probability"]).all()
    expected = np.where(scores[:, 0] > scores[:, 1], "Ring", "not-ring")
    assert (ROWS["ring_leading"][GOOD] == expected[GOOD]).all()
    rare = Layout(CARD, ("gz_decals_dr8",), make_stored(), prevalence={"ring": {"Ring": 0.01, "not-ring": 0.99}})
    corrected = catalogue_rows(BLOCK, rare)
    assert (corrected["ring_Ring_probability"][GOOD] < scores[GOOD, 0]).all()


def test_prevalence_is_bayes() -> None:
    head = LAYOUT.tasks[0]
    corrected = at_prevalence(np.array([[0.8, 0.2]]), head, {"Ring": 0.1, "not-ring": 0.9})
    np.testing.assert_allclose(corrected, [[0.8 * 0.1 / (0.8 * 0.1 + 0.2 * 0.9), 0.2 * 0.9 / (0.8 * 0.1 + 0.2 * 0.9)]])


def test_classes_that_do_not_exclude_each_other_have_no_leader_and_odds_of_their_own() -> None:
    head = LabelsHead(task="tidal", classes=("tail", "shell"), balance={"tail": 0.5, "shell": 0.2})
    scores = np.array([[0.8, 0.7], [np.nan, np.nan]])
    rows = task_rows(scores[:, None], head, {"tail": 0.1, "shell": 0.2})
    assert list(rows) == ["tidal_tail_score", "tidal_shell_score", "tidal_tail_probability", "tidal_shell_probability"]
    assert [column.name for column in task_columns(head)] == list(rows)
    odds = 0.8 / 0.2 * (0.1 / 0.9) / (0.5 / 0.5)
    np.testing.assert_allclose(rows["tidal_tail_probability"], [odds / (1 + odds), np.nan])
    np.testing.assert_allclose(rows["tidal_shell_probability"], [0.7, np.nan])


def test_a_number_has_its_central_interval_and_its_unit() -> None:
    head = NumberHead(task="bulge", unit="arcsec", trained_on=TrainingRange(low=0, high=9))
    rows = task_rows(np.array([[[3.0, 0.5]], [[np.nan, np.nan]]]), head)
    columns = task_columns(head)
    assert [column.name for column in columns] == list(rows) == ["bulge", "bulge_lower", "bulge_upper"]
    assert {column.unit for column in columns} == {"arcsec"}
    found = [rows[name][0] for name in ("bulge_lower", "bulge_upper")]
    np.testing.assert_allclose(found, norm.interval(0.9, 3.0, 0.5))
    assert np.isnan(rows["bulge"][1])


def test_members_are_one_mixture_and_say_how_far_they_part() -> None:
    card = make_card(members=2)
    block = make_block(card)
    layout = Layout(card, ("gz_decals_dr8",), make_stored(), "full")
    rows = catalogue_rows(block, layout)
    assert {column.name for column in layout.columns} <= set(rows)
    one, two = (block["concentration"][:, m, layout.answers].astype(float) for m in (0, 1))
    bar = next(q for q in layout.tree.questions if q.label == "bar").columns
    fractions = [a[GOOD][:, bar] / a[GOOD][:, bar].sum(axis=1, keepdims=True) for a in (one, two)]
    np.testing.assert_allclose(rows["bar_strong_fraction"][GOOD], np.mean(fractions, axis=0)[:, 0])
    apart = np.sqrt(((fractions[0] - fractions[1]) ** 2).sum(axis=1) / 4 / 2)
    np.testing.assert_allclose(rows["bar_disagreement"][GOOD], apart)
    scores = block["ring_probability"][GOOD].astype(float)
    np.testing.assert_allclose(rows["ring_Ring_score"][GOOD], scores[:, :, 0].mean(axis=1))
    apart = np.abs(scores[:, 0] - scores[:, 1])[:, 0] / 2**0.5
    np.testing.assert_allclose(rows["ring_disagreement"][GOOD], apart, rtol=1e-5)
    assert np.isnan(rows["bar_disagreement"][~GOOD]).all()
    assert "bar_disagreement" not in ROWS


def test_the_interval_of_a_numbers_members_is_that_of_draws_from_all_of_them() -> None:
    head = NumberHead(task="bulge", trained_on=TrainingRange(low=0, high=9))
    rows = task_rows(np.array([[[3.0, 0.5], [4.0, 1.0]]]), head)
    draws = np.concatenate([np.random.default_rng(1).normal(m, s, 400_000) for m, s in ((3.0, 0.5), (4.0, 1.0))])
    expected = np.quantile(draws, [0.05, 0.95])
    np.testing.assert_allclose([rows["bulge_lower"][0], rows["bulge_upper"][0]], expected, atol=0.01)
    assert (rows["bulge"][0], rows["bulge_disagreement"][0]) == (3.5, 0.5)


def test_another_campaign_is_only_another_layout() -> None:
    rows = catalogue_rows(BLOCK, Layout(CARD, ("gz2",), make_stored()))
    question = CARD.votes.tree.of_campaign("gz2")[0]
    answers = BLOCK["concentration"][:, question.columns].astype(float)
    np.testing.assert_allclose(rows["smooth_or_featured_smooth_fraction"], answers[:, 0] / answers.sum(axis=1))


def test_training_galaxies_and_their_neighbours_are_found() -> None:
    cell = int(BLOCK["healpix_29"][0]) >> 22
    beside = [int(c) for c in np.asarray(neighbours(np.array([cell], dtype=np.uint64), 18)).ravel() if c != cell]
    positions = np.array([cell << 22, beside[0] << 22, (cell + 10_000) << 22, -1])
    unknown = in_training(positions, CARD)
    assert (unknown == -1).all()
    voted = CARD.model_copy(update={"training_cells": {"voted": (cell,), "seen": ()}})
    assert in_training(positions, voted).tolist() == [1, 1, 0, -1]
    seen = CARD.model_copy(update={"training_cells": {"voted": (), "seen": (cell,)}})
    assert in_training(positions, seen).tolist() == [2, 2, 0, -1]


@pytest.mark.parametrize(("r50", "expected"), [(0.5, 1), (2.0, 0), (11.0, 1), (np.nan, -1)])
def test_sizes_outside_the_training_range_are_flagged(r50: float, expected: int) -> None:
    ranges = {"r50": TrainingRange(low=1, high=10), "mag": TrainingRange(low=14, high=17.8)}
    assert fails_training_cuts({"r50": np.array([r50])}, ranges, 1).tolist() == [expected]
    assert fails_training_cuts({}, ranges, 1).tolist() == [-1]


def test_distance_and_rank_follow_the_card() -> None:
    assert np.isfinite(ROWS["ood_distance"][GOOD]).all()
    assert ((ROWS["ood_score"][GOOD] >= 0) & (ROWS["ood_score"][GOOD] <= 1)).all()
    without = catalogue_rows(BLOCK, Layout(make_card(embedding_reference=None), ("gz2",), make_stored()))
    assert np.isnan(without["ood_distance"]).all()
