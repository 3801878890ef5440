from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from gzsurvey.card import ClassesHead, LabelsHead
from gzsurvey.errors import RecipeError
from gzsurvey.outputs.prevalence import estimated_shares, parse_prevalence
from outputs.catalogues import make_card

RING = ClassesHead(task="ring", classes=("Ring", "not-ring"), balance={"Ring": 0.5, "not-ring": 0.5})
TIDAL = LabelsHead(task="tidal", classes=("tail", "shell"), balance={"tail": 0.5, "shell": 0.5})
CARD = make_card(heads=(RING, TIDAL), default_campaign=None)


def test_shares_are_read_and_completed() -> None:
    options = ["ring.Ring=0.04", "tidal.tail=0.1", "tidal.shell=0.02"]
    found = parse_prevalence(options, CARD)
    assert found["ring"] == {"Ring": 0.04, "not-ring": pytest.approx(0.96)}
    assert found["tidal"] == {"tail": 0.1, "shell": 0.02}
    assert parse_prevalence(["tidal=estimated"], CARD) == {"tidal": "estimated"}
    assert parse_prevalence([], CARD) == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["bar.yes=0.1"], "no classes of a task 'bar'; it has ring, tidal"),
        (["ring.round=0.1"], "the classes of 'ring' are Ring, not-ring"),
        (["ring=0.1"], "give TASK.CLASS=SHARE or TASK=estimated"),
        (["ring.Ring=often"], "a number between 0 and 1"),
        (["ring.Ring=1.5"], "a number between 0 and 1"),
        (["ring.Ring=0.3", "ring.not-ring=0.3"], "add up to 0.6, not 1"),
        (["tidal.tail=0.3"], "the share of 'shell' is missing"),
        (["ring=estimated", "ring.Ring=0.3"], "one or the other"),
    ],
)
def test_what_is_wrong_is_named(options: list[str], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_prevalence(options, CARD)
    assert said in str(caught.value)


def test_each_label_is_estimated_by_itself() -> None:
    """Scores of two normals have a known posterior: log odds 2 x - 2 at equal shares."""
    rng = np.random.default_rng(1)
    columns = []
    for share in (0.3, 0.05):
        member = rng.random(40_000) < share
        columns.append(expit(2.0 * (rng.normal(size=40_000) + 2.0 * member) - 2.0))
    found = estimated_shares(np.column_stack(columns), TIDAL)
    assert found["tail"] == pytest.approx(0.3, abs=0.015)
    assert found["shell"] == pytest.approx(0.05, abs=0.015)
    assert list(found) == ["tail", "shell"]
