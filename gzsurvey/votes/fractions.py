"""From Dirichlet concentrations to what a catalogue says about each answer.

Letters: N galaxies, A answers (columns of a `DecisionTree`), Q questions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gzsurvey.votes.tree import DecisionTree, Question

Floats = NDArray[np.floating]

LEAST_ASKED = 0.5
"""Share of volunteers below which a question says little: it was not meant for the galaxy."""


def expected_fractions(values: Floats, tree: DecisionTree) -> Floats:
    """Share of each answer within its question.

    Parameters
    ----------
    values : float, shape (N, A)
        Concentrations, or vote counts.
    tree : DecisionTree
        Says which columns belong together.

    Returns
    -------
    float64, shape (N, A)
        ``a_i / sum a`` of the question; NaN where a question's sum is 0.
    """
    values = np.asarray(values, dtype=np.float64)
    starts = [q.start for q in tree.questions]
    totals = np.add.reduceat(values, starts, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return values / totals[:, tree.question_of_answer]


def proportion_asked(fractions: Floats, tree: DecisionTree) -> Floats:
    """Expected share of volunteers who are asked each question.

    The product of expected fractions up the tree; where several answers lead to a
    question, their shares add up.

    Parameters
    ----------
    fractions : float, shape (N, A)
        As `expected_fractions` returns them.
    tree : DecisionTree
        Its links are used.

    Returns
    -------
    float64, shape (N, Q)
        1 for a question put to everybody.
    """
    position = {q.name: i for i, q in enumerate(tree.questions)}
    asked = np.ones((len(fractions), len(tree.questions)))
    for i, question in enumerate(tree.questions):
        links = tree.parents(question)
        if links:
            asked[:, i] = sum(asked[:, position[parent.name]] * fractions[:, column] for parent, column in links)
    return np.clip(asked, 0.0, 1.0)


def leading_answer(fractions: Floats, asked: Floats, question: Question) -> NDArray[np.str_]:
    """Answer with the largest expected fraction, blank where few volunteers are asked.

    Parameters
    ----------
    fractions : float, shape (N, A)
        As `expected_fractions` returns them.
    asked : float, shape (N,)
        `proportion_asked` of this question.
    question : Question
        The question.

    Returns
    -------
    str, shape (N,)
        Blank where `asked` is below 0.5 or not finite.
    """
    part = fractions[:, question.columns]
    best = np.asarray(question.answers)[np.argmax(np.nan_to_num(part, nan=-1.0), axis=1)]
    known = np.isfinite(part).all(axis=1) & (np.nan_to_num(asked) >= LEAST_ASKED)
    return np.where(known, best, "")
