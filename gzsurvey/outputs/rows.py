"""From what a RUN stores per row to what the catalogues say: pure functions of one block.

Letters: N rows, M members of an ensemble, A answers of the model, K classes, D features of the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import EMBEDDING, Card, ClassesHead, LabelsHead, NumberHead, TaskHead, TrainingRange
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.columns import Layout, column_word
from gzsurvey.outputs.embedding import KeptEmbedding
from gzsurvey.sky.healpix import with_neighbours
from gzsurvey.status import Status
from gzsurvey.votes.fractions import LEAST_ASKED, leading_answer, proportion_asked
from gzsurvey.votes.uncertainty import disagreement, mixture_fractions, mixture_interval, normal_mixture_interval

Array = NDArray[Any]
Rows = dict[str, Array]
UNKNOWN = -1
TRAINING_ORDER = 18
"""HEALPix order of the card's training cells: 0.8 arcsec."""


def catalogue_rows(block: Mapping[str, Array], layout: Layout, measured: Mapping[str, Array] | None = None) -> Rows:
    """Compute every catalogue column of one block.

    Parameters
    ----------
    block : mapping of str to array, shape (N, ...)
        Arrays of ``predictions.zarr`` by name: ``id``, the names of `columns.ROW_COLUMNS`,
        layers, kept columns, one per model output.
    layout : Layout
        Which columns are wanted. Those of `full` hold those of `catalogue`.
    measured : mapping of str to array, shape (N,), optional
        ``r50`` (arcsec) and ``mag`` of the targets, to compare with the training galaxies'.

    Returns
    -------
    dict of str to array, shape (N,)
        By column name. NaN, blank or null where a row has no prediction.
    """
    predicted = _predicted(block)
    rows: Rows = {layout.stored.target_id.name: block["id"]}
    stored = (*c.ROW_COLUMNS, *layout.stored.layers, *layout.stored.kept)
    rows |= {column.name: block[column.name] for column in stored}
    if layout.tree.questions:
        answers = _where(predicted, block["concentration"][..., layout.answers])
        rows |= vote_rows(_by_member(answers), layout)
    for task in layout.tasks:
        output = _by_member(_where(predicted, block[task.output]))
        rows |= task_rows(output, task, layout.prevalence.get(task.task))
    return rows | quality_rows(block, layout, measured or {})


def vote_rows(concentration: Array, layout: Layout) -> Rows:
    """Columns of all questions of `layout`, from concentrations of its answers, float, shape (N, M, A)."""
    tree = layout.tree
    fractions = mixture_fractions(concentration, tree)
    known = np.isfinite(concentration.sum(axis=(1, 2)))[:, np.newaxis]
    apart = disagreement(concentration, tree) if concentration.shape[1] > 1 else None
    asked = np.where(known, proportion_asked(fractions, tree), np.nan)
    per_answer = {c.FRACTION: fractions}
    if layout.flavour == "full":
        lower, upper = mixture_interval(concentration, tree, layout.card.rank_maps.taken(layout.answers))
        ends = {c.LOWER: np.minimum(lower, fractions), c.UPPER: np.maximum(upper, fractions)}
        per_answer |= ends | {c.DIRICHLET: concentration.mean(axis=1)}
    rows: Rows = {}
    for number, question in enumerate(tree.questions):
        rows[layout.column_name(c.ASKED, question)] = asked[:, number]
        rows[layout.column_name(c.LEADING, question)] = leading_answer(fractions, asked[:, number], question)
        if apart is not None:
            rows[layout.column_name(c.DISAGREEMENT, question)] = apart[:, number]
        for column, answer in enumerate(question.answers, question.start):
            rows |= {layout.column_name(p, question, answer): v[:, column] for p, v in per_answer.items()}
    return rows


def friendly_rows(rows: Mapping[str, Array], layout: Layout) -> Rows:
    """Blank the fractions of questions that fewer than half of the volunteers would be asked, as GZ DESI does."""
    friendly = dict(rows)
    for question in layout.tree.questions:
        unasked = ~(rows[layout.column_name(c.ASKED, question)] >= LEAST_ASKED)
        for answer in question.answers:
            name = layout.column_name(c.FRACTION, question, answer)
            friendly[name] = np.where(unasked, np.nan, rows[name])
    return friendly


def task_rows(output: Array, head: TaskHead, prevalence: Mapping[str, float] | None = None) -> Rows:
    """Columns of one finetuned task.

    Parameters
    ----------
    output : float, shape (N, M, K), or (N, M, 2) of a number
        What the model gives; NaN where there is no prediction.
    head : ClassesHead, LabelsHead or NumberHead
        Names the task, and classes with their balance among the labels.
    prevalence : mapping of str to float, optional
        Shares of the classes to expect in the survey.
    """
    rows = number_rows(output, head) if isinstance(head, NumberHead) else class_rows(output, head, prevalence)
    if output.shape[1] > 1:
        guesses = output[:, :, :1] if isinstance(head, NumberHead) else output
        squared = (guesses - guesses.mean(axis=1, keepdims=True)) ** 2
        rows[c.TASK_DISAGREEMENT.of(task=head.task).name] = np.sqrt(squared.sum(axis=2).mean(axis=1))
    return rows


def number_rows(output: Array, head: NumberHead) -> Rows:
    """Columns of a number, from means and standard deviations (N, M, 2) of its members."""
    lower, upper = normal_mixture_interval(output[:, :, 0], output[:, :, 1])
    names = [column.name for column in c.task_columns(head)]
    return dict(zip(names, (output[:, :, 0].mean(axis=1), lower, upper), strict=True))


def class_rows(output: Array, head: ClassesHead | LabelsHead, prevalence: Mapping[str, float] | None) -> Rows:
    """Columns of classes, from their probabilities (N, M, K)."""
    scores = output.mean(axis=1)
    words = [{"task": head.task, "class": column_word(name), "label": name} for name in head.classes]
    corrected = np.full_like(scores, np.nan) if prevalence is None else at_prevalence(scores, head, prevalence)
    rows = {c.SCORE.of(**w).name: scores[:, k] for k, w in enumerate(words)}
    rows |= {c.PROBABILITY.of(**w).name: corrected[:, k] for k, w in enumerate(words)}
    if isinstance(head, ClassesHead):
        known = np.isfinite(scores).all(axis=1)
        best = np.asarray(head.classes)[np.argmax(np.nan_to_num(scores), axis=1)]
        rows[c.TASK_LEADING.of(task=head.task).name] = np.where(known, best, "")
    return rows


def at_prevalence(scores: Array, head: ClassesHead | LabelsHead, prevalence: Mapping[str, float]) -> Array:
    """Turn probabilities at the labels' balance into ones at the survey's prevalence, shape (N, K).

    By Bayes' theorem, with how galaxies of a class look taken as the same in both
    (Saerens et al. 2002, Neural Computation 14, 21).
    """
    expected = np.array([prevalence[name] for name in head.classes])
    trained = np.array([head.balance[name] for name in head.classes])
    weighted = scores * (expected / trained)
    if isinstance(head, ClassesHead):
        corrected: Array = weighted / weighted.sum(axis=1, keepdims=True)
        return corrected
    return np.asarray(weighted / (weighted + (1.0 - scores) * ((1.0 - expected) / (1.0 - trained))))


def quality_rows(block: Mapping[str, Array], layout: Layout, measured: Mapping[str, Array]) -> Rows:
    """Say how far rows lie from what the model was trained on; arguments as of `catalogue_rows`."""
    predicted, card = _predicted(block), layout.card
    distance, score = KeptEmbedding(card, layout.stored.embedding).distance(_where(predicted, block[EMBEDDING]))
    return {
        c.OOD_DISTANCE.name: distance,
        c.OOD_SCORE.name: score,
        c.IN_TRAINING.name: in_training(np.asarray(block[c.HEALPIX.name]), card),
        c.FAILS_CUTS.name: fails_training_cuts(measured, card.training_ranges, len(predicted)),
    }


def in_training(healpix_29: NDArray[np.int64], card: Card) -> NDArray[np.int16]:
    """Say which positions lie at a training galaxy.

    Parameters
    ----------
    healpix_29 : int64, shape (N,)
        NESTED cells of order 29; -1 without position.
    card : Card
        Holds the order-18 cells of training galaxies.

    Returns
    -------
    int16, shape (N,)
        1 in or beside the cell of a galaxy with votes, 2 of one without, 0 of neither, -1 unknown.
    """
    if card.training_cells is None:
        return np.full(len(healpix_29), UNKNOWN, dtype=np.int16)
    cells = healpix_29 >> 2 * (29 - TRAINING_ORDER)
    voted = np.isin(cells, _with_neighbours(card.training_cells.get("voted", ())))
    seen = np.isin(cells, _with_neighbours(card.training_cells.get("seen", ())))
    found = np.select([healpix_29 < 0, voted, seen], [UNKNOWN, 1, 2], default=0)
    return found.astype(np.int16)


@lru_cache(maxsize=4)
def _with_neighbours(cells: tuple[int, ...]) -> NDArray[np.int64]:
    return with_neighbours(np.asarray(cells, dtype=np.int64), TRAINING_ORDER)


def fails_training_cuts(
    measured: Mapping[str, Array], ranges: Mapping[str, TrainingRange], n_rows: int
) -> NDArray[np.int16]:
    """Say which rows lie outside the training galaxies' sizes or magnitudes.

    Parameters
    ----------
    measured : mapping of str to array, shape (N,)
        Some of the quantities of `ranges`; NaN: unknown.
    ranges : mapping of str to TrainingRange
        By quantity: ``r50`` (arcsec), ``mag``.
    n_rows : int
        N.

    Returns
    -------
    int16, shape (N,)
        1 outside any range, 0 inside all that are known, -1 where none is known.
    """
    known = np.zeros(n_rows, dtype=bool)
    outside = np.zeros(n_rows, dtype=bool)
    for quantity, limits in ranges.items():
        if quantity in measured:
            values = np.asarray(measured[quantity], dtype=np.float64)
            known |= np.isfinite(values)
            outside |= (values < limits.low) | (values > limits.high)
    return np.where(known, outside, UNKNOWN).astype(np.int16)


def mean_over_members(output: Array) -> NDArray[np.float64]:
    """Return the probabilities (N, K) of an output of one network, or of several."""
    return np.asarray(_by_member(np.asarray(output, dtype=np.float64)).mean(axis=1))


def _by_member(output: Array) -> Array:
    """Return (N, M, ...) of an output that has no dimension of members where there is one network."""
    return output if output.ndim == 3 else output[:, np.newaxis]


def _predicted(block: Mapping[str, Array]) -> NDArray[np.bool_]:
    return np.asarray(np.asarray(block[c.STATUS.name]) == Status.PREDICTED)


def _where(predicted: NDArray[np.bool_], values: Array) -> NDArray[np.float64]:
    """Return float64, shape (N, ...), NaN where there is no prediction."""
    out = np.array(values, dtype=np.float64)
    out[~predicted] = np.nan
    return out
