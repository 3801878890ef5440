"""How frequent classes are in a survey: as a user states it, or as the model's own predictions say.

Letters: N galaxies, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import Card, ClassesHead, LabelsHead
from gzsurvey.errors import RecipeError

Shares = dict[str, float]
Stated = Shares | Literal["estimated"]
ESTIMATED: Literal["estimated"] = "estimated"

_ITERATIONS, _CONVERGED = 2000, 1e-10
_OPTION = "--prevalence"


def parse_prevalence(options: Iterable[str], card: Card) -> dict[str, Stated]:
    """Read what a user says of the classes of finetuned tasks.

    Parameters
    ----------
    options : iterable of str
        ``TASK.CLASS=SHARE``, or ``TASK=estimated``. Of classes that exclude each other one may be
        left out: it gets what is left.
    card : Card
        The model's.

    Returns
    -------
    dict
        By task: shares by class, or ``estimated``.

    Raises
    ------
    gzsurvey.errors.RecipeError
        A task or class that the model does not have, a share that is none, shares that do not add up.
    """
    heads = {head.task: head for head in card.heads if isinstance(head, ClassesHead | LabelsHead)}
    stated: dict[str, Stated] = {}
    for option in options:
        name, _, value = option.partition("=")
        task, _, label = name.partition(".")
        if task not in heads:
            raise RecipeError(_OPTION, f"{option!r}: the model has no classes of a task {task!r}; it has "
                              f"{', '.join(heads) or 'none'}")  # fmt: skip
        if not label and value == ESTIMATED:
            stated[task] = ESTIMATED
            continue
        if label not in heads[task].classes:
            raise RecipeError(_OPTION, f"{option!r}: give TASK.CLASS=SHARE or TASK=estimated; the classes of {task!r} "
                              f"are {', '.join(heads[task].classes)}")  # fmt: skip
        shares = stated.setdefault(task, {})
        if isinstance(shares, str):
            raise RecipeError(_OPTION, f"{option!r}: {task!r} is to be estimated already; give one or the other")
        shares[label] = _share(option, value)
    return {task: _complete(heads[task], shares) for task, shares in stated.items()}


def _share(option: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = np.nan
    if not 0 < share < 1:
        raise RecipeError(_OPTION, f"{option!r}: a share is a number between 0 and 1")
    return share


def _complete(head: ClassesHead | LabelsHead, shares: Stated) -> Stated:
    if isinstance(shares, str):
        return shares
    missing = [name for name in head.classes if name not in shares]
    total = sum(shares.values())
    if isinstance(head, ClassesHead) and len(missing) == 1 and total < 1:
        return {name: shares.get(name, 1 - total) for name in head.classes}
    if missing:
        raise RecipeError(_OPTION, f"task {head.task!r}: the share of {missing[0]!r} is missing")
    if isinstance(head, ClassesHead) and not np.isclose(total, 1.0, atol=1e-6):
        raise RecipeError(_OPTION, f"task {head.task!r}: the shares add up to {total:g}, not 1")
    return {name: shares[name] for name in head.classes}


def estimated_shares(probability: NDArray[np.floating], head: ClassesHead | LabelsHead) -> Shares:
    """Estimate the shares of a head's classes from its probabilities (N, K) of galaxies without labels."""
    balance = np.array([head.balance[name] for name in head.classes])
    if isinstance(head, ClassesHead):
        found = estimate_prevalence(probability, balance)
    else:
        found = np.array([
            estimate_prevalence(np.column_stack([1 - p, p]), np.array([1 - b, b]))[1]
            for p, b in zip(probability.T, balance, strict=True)
        ])  # fmt: skip
    # A class that seems to be absent cannot be told from one that is rare.
    return {name: float(np.clip(share, 1e-6, 1 - 1e-6)) for name, share in zip(head.classes, found, strict=True)}


def estimate_prevalence(probability: NDArray[np.floating], balance: NDArray[np.floating]) -> NDArray[np.float64]:
    """Estimate the classes' shares among galaxies without labels.

    Expectation maximisation (Saerens et al. 2002, Neural Computation 14, 21): probabilities are
    corrected to the shares, their means are the new shares. How galaxies of a class look is
    taken as the same as among the training labels, and the probabilities as calibrated there.

    Parameters
    ----------
    probability : float, shape (N, K)
        At the balance of the training labels; rows add up to 1.
    balance : float, shape (K,)
        Shares of the classes among these.

    Returns
    -------
    float64, shape (K,)
    """
    shares = np.asarray(balance, dtype=np.float64)
    for _ in range(_ITERATIONS):
        corrected = probability * (shares / balance)
        updated = (corrected / corrected.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(updated - shares).max() < _CONVERGED:
            break
        shares = updated
    return np.asarray(updated)
