"""Which labelled galaxies are learnt from, and which are only checked on.

Letters: N labelled galaxies, n some of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import TableError
from gzsurvey.recipes.training import FinetuneRecipe
from gzsurvey.sky import healpix
from gzsurvey.training.pictures import Pictures
from gzsurvey.training.split import deal, deal_cells, divide, stratified_order
from gzsurvey.training.tasks.several import lacking, refuse_lacking, strata

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """A division of labelled galaxies."""

    training: Rows
    """Rows, shape (n,)."""
    validation: Rows
    how: str
    """How it was made, for people."""


@dataclass(frozen=True)
class Fold:
    """One part of a cross-validation."""

    parts: Parts
    """What is learnt from, and what stops and calibrates: all of it from the other folds."""
    tested: Rows
    """Rows that have no part in this, shape (n,)."""


def split(pictures: Pictures, recipe: FinetuneRecipe) -> Parts:
    """Divide the labelled galaxies by the recipe.

    A store's own split is kept where its training and validation galaxies show every class, unless
    the recipe asks for cells of the sky. Its test galaxies are never used.

    Raises
    ------
    gzsurvey.errors.TableError
        Too few labels of a class, or labels that cannot be divided by the sky.
    """
    rows = _limited(pictures, _usable(pictures), recipe)
    if pictures.published is not None and recipe.split == "stratified":
        parts = tuple(rows[pictures.published[rows] == name] for name in ("train", "validation"))
        if all(lacking(pictures.labels.tasks, part, 1) is None for part in parts):
            return Parts(parts[0], parts[1], "the store's own split")
    return _divided(pictures, rows, recipe)


def _divided(pictures: Pictures, rows: Rows, recipe: FinetuneRecipe) -> Parts:
    """Put a share of `rows` aside for validation."""
    groups, share = strata(pictures.labels.tasks)[rows], recipe.validation
    if recipe.split == "sky":
        cells = _cells(pictures, rows, recipe, 2)
        held_out = deal_cells(cells, groups, (1.0 - share, share), recipe.seed) == 1
        how = f"{_count(cells[held_out])} of {_count(cells)} cells of the sky (HEALPix order {recipe.sky_order})"
    else:
        held_out = divide(groups, share, recipe.seed)
        how = f"{share:.0%} of each class"
    return Parts(rows[~held_out], rows[held_out], f"{how} for validation")


def folds(pictures: Pictures, recipe: FinetuneRecipe, number: int) -> Iterator[Fold]:
    """Yield the divisions of a cross-validation: each usable galaxy is tested on once.

    The others are divided as `split` divides: what stops the training and fits the calibration is not what
    tests them.

    Raises
    ------
    gzsurvey.errors.TableError
        Fewer galaxies, or cells of the sky, than folds.
    """
    usable = _usable(pictures)
    groups = strata(pictures.labels.tasks)[usable]
    if len(usable) < number:
        raise TableError(pictures.labels.where, f"{len(usable)} labels cannot be dealt into {number} folds")
    if recipe.split == "sky":
        cells = _cells(pictures, usable, recipe, number)
        dealt = deal_cells(cells, groups, (1.0 / number,) * number, recipe.seed)
    else:
        dealt = deal(groups, number, recipe.seed)
    for fold in range(number):
        parts = _divided(pictures, _limited(pictures, usable[dealt != fold], recipe), recipe)
        how = f"fold {fold} of {number} ({recipe.split}) is tested on, of the others {parts.how}"
        yield Fold(replace(parts, how=how), usable[dealt == fold])


def _limited(pictures: Pictures, rows: Rows, recipe: FinetuneRecipe) -> Rows:
    """Return as many of `rows` as the recipe allows to learn from, class by class; fewer are among more."""
    limit, tasks = recipe.label_limit, pictures.labels.tasks
    if limit is None or limit >= len(rows):
        return rows
    chosen = np.sort(rows[stratified_order(strata(tasks)[rows], [recipe.seed])[:limit]])
    refuse_lacking(tasks, chosen, 2, f"among the {limit} of label_limit")
    return chosen


def _usable(pictures: Pictures) -> Rows:
    """Return the galaxies outside a store's test split."""
    if pictures.published is None:
        return np.arange(len(pictures.labels), dtype=np.int64)
    usable = np.flatnonzero(pictures.published != "test")
    refuse_lacking(pictures.labels.tasks, usable, 2, "outside the store's test split")
    return usable


def _cells(pictures: Pictures, usable: Rows, recipe: FinetuneRecipe, least: int) -> Rows:
    """Return each galaxy's cell of the sky, (n,)."""
    labels, order = pictures.labels, recipe.sky_order
    cells = healpix.cells(labels.ra[usable], labels.dec[usable], order)
    lost = usable[cells == healpix.NO_CELL]
    if len(lost):
        raise TableError(labels.where, f"{len(lost)} labels have no position, so they cannot be divided by the sky: "
                         f"{labels.names(lost)}; add ra and dec, or set split=stratified")  # fmt: skip
    if _count(cells) < least:
        raise TableError(labels.where, f"all labels lie in {_count(cells)} cells of the sky of HEALPix order {order}, "
                         f"too few for {least} parts; set a higher sky_order, or split=stratified")  # fmt: skip
    return cells


def _count(values: Sequence[int] | Rows) -> int:
    return len(np.unique(values))
