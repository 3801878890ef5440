"""A card says all that is needed, or what is wrong with it in one line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gzsurvey import card as cards
from gzsurvey.card import METADATA_KEY, Card, Credit, read_card, schema_text
from gzsurvey.errors import CardMismatch
from gzsurvey.recipes.preparation import Preparation, ScaleRule, Stretch
from gzsurvey.votes.ranks import STEPS

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


def example() -> dict[str, Any]:
    page = (REFERENCE / "card.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    content: dict[str, Any] = json.loads(block)
    return content


def with_changes(**changes: Any) -> str:
    with pytest.raises(CardMismatch) as caught:
        read_card({METADATA_KEY: json.dumps(example() | changes)}, "model.onnx")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_example_of_the_documentation_is_a_card() -> None:
    card = Card.model_validate(example())
    assert card.outputs == {"embedding": 24, "concentration": 5}
    assert card.votes is not None
    assert card.votes.tree.campaigns == ("mine",)


def test_the_file_gives_back_what_was_put_in() -> None:
    card = Card.model_validate(example())
    assert read_card(card.to_metadata(), "model.onnx") == card


def test_the_documented_schema_is_that_of_the_code() -> None:
    assert (REFERENCE / "card.schema.json").read_text() == schema_text(), "see docs/reference/card.md to renew it"


@pytest.mark.parametrize(
    "model",
    [
        Card, cards.VotesHead, cards.ClassesHead, cards.LabelsHead, cards.NumberHead, cards.VotesCalibration,
        cards.ClassesCalibration, cards.LabelsCalibration, cards.NumberCalibration, Credit, cards.EmbeddingReference,
        cards.TrainingRange, Preparation, ScaleRule, Stretch,
    ],
)  # fmt: skip
def test_every_key_is_documented(model: type[BaseModel]) -> None:
    page = (REFERENCE / "card.md").read_text()
    assert [name for name in model.model_fields if f"`{name}`" not in page] == []


def test_without_card_it_says_what_is_needed() -> None:
    with pytest.raises(CardMismatch, match="name, created, preparation, embedding_size, heads"):
        read_card({}, "model.onnx")


def test_what_is_wrong_is_named() -> None:
    assert "colour: Extra inputs are not permitted" in with_changes(colour="red")
    assert "card_version" in with_changes(card_version=2)
    assert "embedding_size" in with_changes(embedding_size=0)
    assert "'default_campaign' 'gz9'" in with_changes(default_campaign="gz9")
    assert "heads" in with_changes(heads=[])
    assert "an output name of its own" in with_changes(heads=example()["heads"] * 2)
    assert "question, suffix, campaign" in with_changes(heads=[{"kind": "votes", "questions": [{"name": "x"}]}])
    assert "holds no answer" in with_changes(heads=[{"kind": "votes", "questions": []}])
    assert "bands" in with_changes(preparation={"image_size": 64, "bands": ["g", "r"]})


def test_a_calibration_must_fit_its_head() -> None:
    half, none = [0.5, 0.5, *[0.0] * (STEPS - 2)], []
    votes = {"kind": "votes", "offset": [0.0], "slope": [1.0], "sharpness": [1.0], "shift": [0.0] * 5,
             "galaxies": 20, "loss_before": 1.0, "loss_after": 1.0, "ranks": [half, *[none] * 4]}  # fmt: skip

    def said(**changes: object) -> str:
        return with_changes(calibration={"concentration": [votes | changes]})

    card = Card.model_validate(example() | {"calibration": {"concentration": [votes]}})
    assert card.rank_maps.is_even.tolist() == [[False, True, True, True, True]]
    assert Card.model_validate(example()).rank_maps.is_even.all()
    assert "'shift' for each of its head's answers" in said(shift=[0.0] * 6, ranks=[])
    assert "as many answers as 'shift'" in said(ranks=[half])
    assert f"{STEPS} shares of each answer, which add up to 1" in said(ranks=[half[1:], *[none] * 4])
    assert "which add up to 1" in said(ranks=[[0.5, *half[1:-1], 0.5], *[none] * 4])
    assert "greater than or equal to 0" in said(ranks=[[1.5, -0.5, *half[2:]], *[none] * 4])


def test_an_embedding_reference_must_fit() -> None:
    good = {"mean": [0.0] * 24, "components": [[1.0] + [0.0] * 23], "scales": [1.0, 1.0], "quantiles": [0.0, 1.0]}
    assert Card.model_validate(example() | {"embedding_reference": good}).embedding_reference is not None
    assert "'embedding_size' features" in with_changes(
        embedding_reference=good | {"mean": [0.0] * 3, "components": [[1.0, 0.0, 0.0]]}
    )
    assert "as long as 'mean'" in with_changes(embedding_reference=good | {"components": [[1.0]]})
    assert "'scales'" in with_changes(embedding_reference=good | {"scales": [1.0, 0.0]})
    assert "must ascend" in with_changes(embedding_reference=good | {"quantiles": [1.0, 0.0]})


@pytest.mark.parametrize(
    ("licence", "forbidden"),
    [
        ("CC BY-NC-SA 4.0", True),
        ("CC-BY-NC 4.0", True),
        ("non-commercial use only", True),
        ("NonCommercial", True),
        ("CC BY 4.0", False),
        ("CC0", False),
        ("BSD-3-Clause (INC)", False),
        ("", False),
    ],
)
def test_non_commercial_licences_are_recognised(licence: str, forbidden: bool) -> None:
    assert Credit(name="x", licence=licence, citation="", galaxies=1).non_commercial is forbidden


def test_licences_are_said_aloud() -> None:
    credits = [
        {"name": "open", "licence": "CC BY 4.0", "citation": "", "galaxies": 1},
        {"name": "closed", "licence": "CC BY-NC 4.0", "citation": "", "galaxies": 1},
        {"name": "unclear", "licence": " ", "citation": "", "galaxies": 1},
    ]
    notes = Card.model_validate(example() | {"credits": credits}).licence_notes
    assert notes[0].startswith("NON-COMMERCIAL: trained on closed under CC BY-NC 4.0")
    assert notes[1].startswith("Licence not stated: unclear")
    assert "No training source" in str(Card.model_validate(example()))
