"""Which labelled galaxies are learnt from, and which are only checked on.

Letters: N labelled galaxies, n some of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import TableError
from gzsurvey.recipes.training import FinetuneRecipe
from gzsurvey.sky import healpix
from gzsurvey.training.pictures import Pictures
from gzsurvey.training.split import deal, deal_cells, divide
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


def split(pictures: Pictures, recipe: FinetuneRecipe) -> Parts:
    """Divide the labelled galaxies by the recipe.

    A store's own split is kept where its training and validation galaxies show every class, unless
    the recipe asks for cells of the sky. Its test galaxies are never used.

    Raises
    ------
    gzsurvey.errors.TableError
        Too few labels of a class, or labels that cannot be divided by the sky.
    """
    tasks, usable = pictures.labels.tasks, _usable(pictures)
    if pictures.published is not None and recipe.split == "stratified":
        parts = tuple(np.flatnonzero(pictures.published == name) for name in ("train", "validation"))
        if all(lacking(tasks, part, 1) is None for part in parts):
            return Parts(parts[0], parts[1], "the store's own split")
    share = recipe.validation
    if recipe.split == "sky":
        cells = _cells(pictures, usable, recipe, 2)
        held_out = deal_cells(cells, strata(tasks)[usable], (1.0 - share, share), recipe.seed) == 1
        how = f"{_count(cells[held_out])} of {_count(cells)} cells of the sky (HEALPix order {recipe.sky_order})"
    else:
        held_out = divide(strata(tasks)[usable], share, recipe.seed)
        how = f"{share:.0%} of each class"
    return Parts(usable[~held_out], usable[held_out], f"{how} for validation")


def folds(pictures: Pictures, recipe: FinetuneRecipe, number: int) -> Iterator[Parts]:
    """Yield the divisions of a cross-validation: each usable galaxy is checked on once.

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
        yield Parts(
            usable[dealt != fold], usable[dealt == fold], f"fold {fold} of {number} ({recipe.split}) for validation"
        )


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
