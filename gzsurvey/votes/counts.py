"""From published vote tables to a matrix of volunteer counts.

Letters: N galaxies, A answers (columns of a `DecisionTree`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gzsurvey.errors import RecipeError, TableError
from gzsurvey.recipes.columns import ColumnMap
from gzsurvey.votes.tree import DecisionTree, Question

Bools = NDArray[np.bool_] | np.bool_

logger = logging.getLogger(__name__)

MOST_VOTES = 100_000
"""More volunteers than any campaign showed one galaxy to."""
FRACTION_TOLERANCE = 0.02
"""Published fractions are rounded to two or three digits."""


@dataclass(frozen=True)
class VoteTable:
    """A table with the rules that turn it into counts."""

    frame: pd.DataFrame
    columns: ColumnMap
    where: str
    """The file, for errors."""
    assumed_votes: int | None = None
    """Volunteers per galaxy, for fractions without totals."""


def counts_from_table(table: VoteTable, tree: DecisionTree) -> NDArray[np.int32]:
    """Return volunteer counts, zero where a question was not asked or is not known.

    Parameters
    ----------
    table : VoteTable
        Columns by `ColumnMap`; a question without any column is taken as not asked.
    tree : DecisionTree
        The campaign's questions; A columns of the result.

    Returns
    -------
    int32, shape (N, A)

    Raises
    ------
    gzsurvey.errors.TableError
        No vote column at all, some answers of a question missing, or counts that are
        negative, fractional, not finite or more than their total; names the rows.
    gzsurvey.errors.RecipeError
        Cumulative fractions without `assumed_votes`.
    """
    values = {q.name: read for q in tree.questions if (read := _answers(table, q)) is not None}
    if not values:
        question = tree.questions[0]
        wanted = table.columns.answer_column(question.label, question.suffix, question.answers[0])
        raise TableError(table.where, f"has no vote column of {', '.join(tree.campaigns)}, e.g. {wanted!r}")
    if table.columns.holds == "cumulative":
        return _from_cumulative(table, tree, values)
    counts = np.zeros((len(table.frame), tree.n_answers), dtype=np.int32)
    for question in tree.questions:
        if question.name in values:
            convert = _checked_counts if table.columns.holds == "counts" else _from_fractions
            counts[:, question.columns] = convert(table, question, values[question.name])
    return counts


def _answers(table: VoteTable, question: Question) -> NDArray[np.float64] | None:
    """Return the columns of one question, (N, answers), NaN where not known; None: no such columns."""
    names = [table.columns.answer_column(question.label, question.suffix, a) for a in question.answers]
    present = [name for name in names if name in table.frame.columns]
    if not present:
        return None
    missing = [name for name in names if name not in table.frame.columns]
    if missing:
        raise TableError(table.where, f"has column {present[0]!r} but not {missing[0]!r} of the same question")
    values = np.column_stack([_numbers(table, name) for name in names])
    known = np.isfinite(values)
    partly = known.any(axis=1) & ~known.all(axis=1)
    _refuse(table, partly, f"some answers of {question.name!r} are empty and others are not")
    return values


def _numbers(table: VoteTable, name: str) -> NDArray[np.float64]:
    try:
        values = pd.to_numeric(table.frame[name]).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError):
        raise TableError(table.where, f"column {name!r} holds text where votes are expected") from None
    _refuse(table, np.isinf(values), f"column {name!r} is infinite")
    _refuse(table, values < 0, f"column {name!r} is negative")
    return values


def _refuse(table: VoteTable, wrong: Bools, problem: str) -> None:
    if wrong.any():
        raise TableError(table.where, problem, np.flatnonzero(wrong).tolist())


def _checked_counts(table: VoteTable, question: Question, values: NDArray[np.float64]) -> NDArray[np.int32]:
    counts = np.nan_to_num(values)
    for i, answer in enumerate(question.vote_columns):
        whole = counts[:, i] == np.floor(counts[:, i])
        _refuse(table, ~whole, f"count of {answer!r} is fractional; say 'fractions: fractions' if these are fractions")
        _refuse(table, counts[:, i] > MOST_VOTES, f"count of {answer!r} is above {MOST_VOTES:,}")
    total = _total(table, question)
    if total is not None:
        _refuse(table, counts.sum(axis=1) > np.nan_to_num(total, nan=np.inf), f"votes of {question.name!r} add up to "
                                                                              "more than its total")  # fmt: skip
    _compare_fractions(table, question, counts)
    return counts.astype(np.int32)


def _total(table: VoteTable, question: Question) -> NDArray[np.float64] | None:
    names = table.columns.total_columns(question.label, question.suffix)
    name = next((name for name in names if name in table.frame.columns), None)
    return None if name is None else _numbers(table, name)


def _compare_fractions(table: VoteTable, question: Question, counts: NDArray[np.float64]) -> None:
    """Warn where a ``_fraction`` column of the same file says something else than the counts."""
    total = counts.sum(axis=1)
    for i, answer in enumerate(question.answers):
        name = table.columns.answer_column(question.label, question.suffix, answer) + "_fraction"
        if name not in table.frame.columns:
            continue
        stated = _numbers(table, name)
        with np.errstate(invalid="ignore", divide="ignore"):
            off = np.abs(stated - counts[:, i] / total) > FRACTION_TOLERANCE + 0.5 / total
        if off.any():
            logger.warning("%s: %s differs from the counts in %d rows; counts are used", table.where, name, off.sum())


def _from_fractions(table: VoteTable, question: Question, values: NDArray[np.float64]) -> NDArray[np.int32]:
    _refuse(table, (values > 1 + 1e-3).any(axis=1), f"a fraction of {question.name!r} is above 1")
    total = _total(table, question)
    if total is None:
        if table.assumed_votes is None:
            raise RecipeError(
                table.where, f"has fractions but no total for {question.name!r}: set 'assumed_votes', e.g. 44 for GZ2"
            )
        total = np.full(len(values), float(table.assumed_votes))
    return np.rint(np.nan_to_num(values) * np.nan_to_num(total)[:, None]).astype(np.int32)


def _from_cumulative(table: VoteTable, tree: DecisionTree, values: dict[str, NDArray[np.float64]]) -> NDArray[np.int32]:
    """Turn fractions of all volunteers into counts, from the first question down."""
    if table.assumed_votes is None:
        raise RecipeError(table.where, "has cumulative fractions without totals: set 'assumed_votes', e.g. 44 for GZ2")
    counts = np.zeros((len(table.frame), tree.n_answers), dtype=np.int32)
    known: dict[str, NDArray[np.bool_]] = {}
    for question in tree.questions:
        if question.name not in values:
            continue
        part = values[question.name]
        _refuse(table, (part > 1 + 1e-3).any(axis=1), f"a fraction of {question.name!r} is above 1")
        known[question.name] = np.asarray(np.isfinite(part).all(axis=1))
        asked = _asked(tree, question, counts, known, table.assumed_votes)
        # Where the parents are not known, the question's own sum says how many were asked.
        own = np.rint(np.minimum(np.nan_to_num(part).sum(axis=1), 1.0) * table.assumed_votes).astype(np.int64)
        counts[:, question.columns] = apportion(np.nan_to_num(part), np.where(asked < 0, own, asked))
    return counts


def _asked(
    tree: DecisionTree,
    question: Question,
    counts: NDArray[np.int32],
    known: dict[str, NDArray[np.bool_]],
    everybody: int,
) -> NDArray[np.int64]:
    """Return how many were asked: the votes for the answers that lead here; -1 where not known."""
    links = tree.parents(question)
    if not links:
        return np.full(len(counts), everybody, dtype=np.int64)
    asked: NDArray[np.int64] = counts[:, [column for _, column in links]].sum(axis=1, dtype=np.int64)
    nobody = np.zeros(len(counts), dtype=np.bool_)
    for parent in {parent.name for parent, _ in links}:
        asked[~known.get(parent, nobody)] = -1
    return asked


def apportion(weights: NDArray[np.float64], totals: NDArray[np.int64]) -> NDArray[np.int32]:
    """Share whole votes out by weight, with the largest remainders rounded up.

    Parameters
    ----------
    weights : float64, shape (N, K)
        Not negative; a row of zeros gets no votes.
    totals : int64, shape (N,)
        What each row of the result adds up to.

    Returns
    -------
    int32, shape (N, K)
    """
    sums = weights.sum(axis=1)
    shares = np.divide(weights, sums[:, None], out=np.zeros_like(weights), where=sums[:, None] > 0)
    totals = np.where(sums > 0, totals, 0)
    exact = shares * totals[:, None]
    # A share that is whole but for the last digits must not lose a vote to rounding down.
    whole = np.floor(exact + 1e-9)
    left = totals - whole.sum(axis=1).astype(np.int64)
    order = np.argsort(-(exact - whole), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(weights.shape[1])[None, :], axis=1)
    votes: NDArray[np.int32] = (whole + (rank < left[:, None])).astype(np.int32)
    return votes
