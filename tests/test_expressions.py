"""Expressions: parsed, never run."""

from __future__ import annotations

import numpy as np
import pytest

from gzsurvey.errors import RecipeError
from gzsurvey.expressions import Expression

COLUMNS = {
    "mag": np.array([15.0, 17.0, np.nan]),
    "n": np.array([1, 2, 3]),
    "survey": np.array(["north", "south", "north"]),
    "log10": np.array([1.0, 1.0, 1.0]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mag < 16", [True, False, False]),
        ("not mag < 16", [False, True, True]),
        ("mag != 17", [True, False, False]),
        ("isnan(mag) or n == 2", [False, True, True]),
        ("14 < mag <= 17 and survey == 'south'", [False, True, False]),
        ("n ** 2 - 2 * n + 1 > 0", [False, True, True]),
        ("log10(n * 10) > 1.2 and abs(-n) < 3", [False, True, False]),
        ("-n < -1", [False, True, True]),
        ("survey == 'north' and n / 2 < 1", [True, False, False]),
    ],
)
def test_conditions(text: str, expected: list[bool]) -> None:
    assert Expression(text).select(COLUMNS, 3).tolist() == expected


def test_a_constant_condition_is_broadcast() -> None:
    assert Expression("1 < 2").select({}, 4).tolist() == [True] * 4


def test_names_are_columns_not_functions() -> None:
    assert Expression("log10(mag) > n").names == ("mag", "n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("__import__('os').system('x')", "functions are"), ("mag.__class__", "Attribute"), ("[1, 2]", "List"),
        ("(lambda: 1)()", "not known|functions are"), ("open('x')", "functions are"), ("mag <", "cannot be read"),
        ("log10(mag, 2)", "one value"), ("mag if n else 2", "IfExp"), ("n[0]", "Subscript"), ("True", "neither"),
        ("9" * 3000, "characters"), ("(" * 900 + "1" + ")" * 900, "cannot be read"), ("", "cannot be read"),
    ],
)  # fmt: skip
def test_anything_else_is_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Expression(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mga < 3", "did you mean mag"), ("mag + 1", "is no condition"), ("survey > 3", "string is compared"),
        ("mag and n > 1", "join conditions"), ("survey * 2 == 1", "cannot be computed"), ("isnan(survey)", "cannot"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_is_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Expression(text).select(COLUMNS, 3)
