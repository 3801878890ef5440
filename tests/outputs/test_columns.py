from __future__ import annotations

from dataclasses import replace

import pytest
from astropy.io.votable.ucd import check_ucd

from gzsurvey.card import VotesHead
from gzsurvey.errors import CardMismatch, TableError
from gzsurvey.outputs.columns import PATTERNS, Column, Layout, Stored, choose_campaigns
from outputs.catalogues import make_card, make_stored

DR8 = ("gz_decals_dr8",)


def names(layout: Layout) -> list[str]:
    return [column.name for column in layout.columns]


def votes(*questions: tuple[str, tuple[str, ...]]) -> VotesHead:
    return VotesHead(
        questions=tuple(
            {"question": q, "suffix": "", "campaign": "mine", "answers": list(a), "asked_after_any": []}
            for q, a in questions
        )
    )


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda column: column.name)
def test_ucds_are_in_the_controlled_vocabulary(pattern: Column) -> None:
    assert check_ucd(pattern.ucd, check_controlled_vocabulary=True)
    assert pattern.description


def test_the_order_is_the_contracts() -> None:
    found = names(Layout(make_card(), DR8, make_stored()))
    assert found[:11] == [
        "objid", "ra", "dec", "healpix_29", "status", "missing_fraction", "masked_fraction", "cutout_width",
        "image_id", "image_set", "psfsize_r",
    ]  # fmt: skip
    assert found[11:17] == [
        "smooth_or_featured_smooth_fraction", "smooth_or_featured_featured_or_disk_fraction",
        "smooth_or_featured_artifact_fraction", "smooth_or_featured_proportion_asked", "smooth_or_featured_leading",
        "disk_edge_on_yes_fraction",
    ]  # fmt: skip
    assert found[-12:] == [
        "ood_distance", "ood_score", "in_training", "fails_training_cuts", "ring_Ring_score", "ring_not_ring_score",
        "ring_Ring_probability", "ring_not_ring_probability", "ring_leading", "mag_r", "flag", "field",
    ]  # fmt: skip


def test_full_has_more_columns_and_loses_none() -> None:
    small = names(Layout(make_card(), DR8, make_stored()))
    full = names(Layout(make_card(), DR8, make_stored(), "full"))
    assert [name for name in full if name in small] == small
    assert {name.rsplit("_", 1)[1] for name in set(full) - set(small)} == {"lower", "upper", "dirichlet"}


def test_several_campaigns_carry_their_suffix() -> None:
    found = names(Layout(make_card(), ("gz_decals_dr8", "gz2"), make_stored()))
    assert "bar_dr8_strong_fraction" in found
    assert "bar_strong_fraction" not in found


def test_all_campaigns_make_954_answer_columns_and_fit() -> None:
    card = make_card()
    full = Layout(card, card.votes.tree.campaigns, Stored(), "full")
    assert sum(len(full.question_columns(question)) for question in full.tree.questions) == 954
    assert len(full.columns) <= 999


def test_the_999th_column_is_refused_by_name() -> None:
    card = make_card()
    kept = tuple(Column(f"mag_{i}", "E") for i in range(40))
    with pytest.raises(TableError, match=r"keep fewer than mag_0, mag_1"):
        Layout(card, card.votes.tree.campaigns, Stored(kept=kept), "full")


def test_a_kept_column_cannot_take_our_name() -> None:
    with pytest.raises(TableError, match="'Status'"):
        Layout(make_card(), DR8, Stored(kept=(Column("Status", "I"),)))


def test_two_labels_cannot_become_one_name() -> None:
    head = votes(("arm-s", ("a", "b")), ("arm s", ("a", "b")))
    with pytest.raises(CardMismatch, match="two labels become the column 'arm_s_a_fraction'"):
        Layout(make_card(heads=(head,), default_campaign="mine"), ("mine",), Stored())


@pytest.mark.parametrize("answer", ["größe", "x" * 80, "a;b"])
def test_labels_that_give_no_column_name_are_refused(answer: str) -> None:
    with pytest.raises(CardMismatch, match="names are at most 68"):
        Layout(make_card(heads=(votes(("bar", (answer, "b"))),), default_campaign="mine"), ("mine",), Stored())


def test_an_unknown_campaign_is_refused() -> None:
    with pytest.raises(CardMismatch, match=r"no campaign 'dr8'; it has .*gz_decals_dr8"):
        Layout(make_card(), ("dr8",), Stored())


def test_campaigns_default_to_the_cards() -> None:
    assert choose_campaigns(make_card(), None) == DR8
    assert choose_campaigns(make_card(), ["gz2", "gz2"]) == ("gz2",)


def test_short_descriptions_keep_label_and_campaign() -> None:
    for column in Layout(make_card(), DR8, make_stored(), "full").columns:
        assert len(column.short_description.replace("'", "''")) <= 68
        if column.name == "bar_strong_fraction":
            assert column.short_description.startswith("bar-dr8_strong (gz_decals_dr8)")


def test_columns_check_themselves() -> None:
    for wrong in ({"dtype": "X"}, {"width": 0}, {"dtype": "E", "width": 2}, {"dtype": "E", "null": -1}):
        with pytest.raises(ValueError, match="'"):
            replace(Column("a", "A", 3), **wrong)
