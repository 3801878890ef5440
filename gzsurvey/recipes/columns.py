"""How published vote tables name their columns, as written in ``catalogs/columns/``."""

from __future__ import annotations

from typing import Literal

from gzsurvey.recipes.base import Section, load
from gzsurvey.resources import COLUMNS, find

Holds = Literal["counts", "fractions", "cumulative"]
"""``counts``: of volunteers. ``fractions``: of those asked, with totals. ``cumulative``:
of all volunteers, down the tree (Kaggle), without totals."""


class ColumnMap(Section):
    """Which column of a vote table holds which answer.

    A question or answer that `answers` and `totals` do not name is looked for by
    `pattern` and `total_pattern`, in which ``{question}``, ``{suffix}`` and ``{answer}``
    are replaced.
    """

    name: str = "default"
    title: str = ""
    campaign: str | None = None
    """The campaign these columns belong to; None: any."""
    holds: Holds = "counts"
    pattern: str = "{question}{suffix}_{answer}"
    total_pattern: str | None = None
    """Column of a question's total; None: ``_total-votes`` or ``_total`` where present."""
    answers: dict[str, dict[str, str]] = {}
    """Column by question and answer."""
    totals: dict[str, str] = {}
    """Column of the total, by question."""

    def answer_column(self, question: str, suffix: str, answer: str) -> str:
        """Return the column of one answer; by pattern, fractions end in ``_fraction``."""
        named = self.answers.get(question, {}).get(answer)
        if named is not None:
            return named
        name = self.pattern.format(question=question, suffix=suffix, answer=answer)
        return f"{name}_fraction" if self.holds == "fractions" else name

    def total_columns(self, question: str, suffix: str) -> tuple[str, ...]:
        """Return the columns that may hold a question's total, best first."""
        if question in self.totals:
            return (self.totals[question],)
        if self.total_pattern is not None:
            return (self.total_pattern.format(question=question, suffix=suffix),)
        name = f"{question}{suffix}" if "{suffix}" in self.pattern else question
        return (f"{name}_total-votes", f"{name}_total")


def load_column_map(name_or_path: str) -> ColumnMap:
    """Return a shipped column map, or one in a ``.yaml`` file.

    Parameters
    ----------
    name_or_path : str
        E.g. ``kaggle_gz2``.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such map, or a misspelt key in it.
    """
    return load(find(COLUMNS, name_or_path), ColumnMap)
