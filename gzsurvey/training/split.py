"""Dividing labelled galaxies: class by class, or by whole cells of the sky.

Letters: N galaxies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def divide(strata: Rows, share: float, seed: int) -> NDArray[np.bool_]:
    """Choose validation galaxies class by class.

    Parameters
    ----------
    strata : int64, shape (N,)
        Class of each galaxy.
    share : float
        For validation; of a class of at least two, at least one galaxy goes either way.
    seed : int
        Equal seeds divide equally.

    Returns
    -------
    bool, shape (N,)
        True for validation.
    """
    chosen = np.zeros(len(strata), dtype=bool)
    for number in np.unique(strata):
        rows = np.random.default_rng([seed, int(number)]).permutation(np.flatnonzero(strata == number))
        chosen[rows[: min(max(round(share * len(rows)), 1), len(rows) - 1)]] = True
    return chosen


def stratified_order(target: NDArray[np.int64], seed: list[int]) -> NDArray[np.int64]:
    """Order galaxies at random, so that every beginning holds each class in its share.

    Parameters
    ----------
    target : int64, shape (N,)
        Classes.
    seed : list of int
        Equal seeds, equal orders.

    Returns
    -------
    int64, shape (N,)
    """
    place = np.empty(len(target))
    for k in np.unique(target):
        rows = np.random.default_rng([*seed, int(k), 7]).permutation(np.flatnonzero(target == k))
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.argsort(place, kind="stable")


def deal(strata: Rows, folds: int, seed: int) -> Rows:
    """Give each galaxy a fold, class by class, so that folds are equally large.

    Parameters
    ----------
    strata : int64, shape (N,)
        Class of each galaxy.
    folds : int
        How many.
    seed : int
        Equal seeds deal equally.

    Returns
    -------
    int64, shape (N,)
        From 0 to `folds` - 1.
    """
    dealt = np.zeros(len(strata), dtype=np.int64)
    given = 0
    for number in np.unique(strata):
        rows = np.random.default_rng([seed, int(number), folds]).permutation(np.flatnonzero(strata == number))
        dealt[rows] = (given + np.arange(len(rows))) % folds
        given += len(rows)
    return dealt


def deal_cells(cells: Rows, strata: Rows, shares: Sequence[float], seed: int) -> Rows:
    """Give each galaxy a part, whole cells at a time, with classes as balanced as these allow.

    Cells come from the largest to the smallest, equal ones in an order drawn by `seed`; each goes
    where the numbers of every class then lie nearest to the part's share. The last cells go to parts that
    would otherwise be empty.

    Parameters
    ----------
    cells : int64, shape (N,)
        Galaxies of one cell stay together.
    strata : int64, shape (N,)
        Class of each galaxy.
    shares : sequence of float
        Of each part; not more of them than there are cells.
    seed : int
        Equal seeds deal equally.

    Returns
    -------
    int64, shape (N,)
        From 0 to the number of parts - 1.
    """
    classes, of_class = np.unique(strata, return_inverse=True)
    known, of_cell = np.unique(cells, return_inverse=True)
    counts = np.zeros((len(known), len(classes)))
    np.add.at(counts, (of_cell, of_class), 1.0)
    wanted = np.outer(shares, counts.sum(axis=0))
    filled = np.zeros_like(wanted)
    drawn = np.random.default_rng([seed, len(shares)]).permutation(len(known))
    part = np.zeros(len(known), dtype=np.int64)
    for left, cell in zip(
        range(len(known), 0, -1), drawn[np.argsort(-counts[drawn].sum(axis=1), kind="stable")], strict=True
    ):
        without = ((wanted - filled) / counts.sum(axis=0)) ** 2
        with_it = ((wanted - filled - counts[cell]) / counts.sum(axis=0)) ** 2
        worse = (with_it - without).sum(axis=1)
        empty = filled.sum(axis=1) == 0
        part[cell] = int(np.where(empty, worse, np.inf).argmin() if left <= empty.sum() else worse.argmin())
        filled[part[cell]] += counts[cell]
    return part[of_cell]
