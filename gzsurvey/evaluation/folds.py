"""The networks of a cross-validation: each galaxy is shown to the one that knows nothing of it.

Letters: N galaxies, n galaxies of one part, M members, W columns of the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gzsurvey.dataset.tables import read_table, texts
from gzsurvey.errors import RecipeError
from gzsurvey.evaluation.paths import EvaluationPaths
from gzsurvey.evaluation.predict import Images, Mixture, Predictor
from gzsurvey.training.labels import Labels
from gzsurvey.training.repeats import OUT_OF_FOLD, fold_place


def cross_validation(mixture: Mixture) -> dict[int, Mixture]:
    """Return the networks of each fold, in place of the one that learnt from all labels.

    Raises
    ------
    gzsurvey.errors.RecipeError
        There are none, or several checkpoints are mixed, whose folds need not be the same galaxies.
    """
    checkpoint, *others = mixture.checkpoints
    if others:
        raise RecipeError(others[0], "cannot be a member with --split folds; evaluate one checkpoint")
    numbers = np.unique(_tested(checkpoint)["fold"]).tolist()
    return {number: replace(mixture, checkpoints=(str(fold_place(Path(checkpoint), number)),)) for number in numbers}


def fold_of_each(checkpoint: str, labels: Labels) -> NDArray[np.int64]:
    """Return by which fold of a finetuning each galaxy was tested, by id or else by position.

    Parameters
    ----------
    checkpoint : str
        The OUT of a `finetune` with ``folds``.
    labels : Labels
        N galaxies.

    Returns
    -------
    int64, shape (N,)
        -1: by none.

    Raises
    ------
    gzsurvey.errors.RecipeError
        It was not cross-validated, or tested none of these.
    """
    tested = _tested(checkpoint)
    known, wanted = (
        (texts(tested["id"], checkpoint), labels.ids) if labels.ids is not None and "id" in tested
        else (_positions(tested["ra"], tested["dec"]), _positions(labels.ra, labels.dec))
    )  # fmt: skip
    place = pd.Index(known).get_indexer(pd.Index(wanted))
    if (place < 0).all():
        raise RecipeError(checkpoint, f"was cross-validated on none of these galaxies: "
                          f"{labels.names(np.arange(len(labels)))}; give the labels of that finetuning")  # fmt: skip
    return np.where(place >= 0, tested["fold"].to_numpy(np.int64)[place], -1)


def predict_folds(
    predictor: Predictor, networks: Mapping[int, Mixture], fold: NDArray[np.int64], images: Images, out: Path
) -> NDArray[np.float32]:
    """Predict each galaxy by the network that was tested on it.

    Parameters
    ----------
    predictor : Predictor
        Of the finetuning as a whole.
    networks : mapping of int to Mixture
        As `cross_validation` returns them.
    fold : int64, shape (N,)
        As `fold_of_each` returns it.
    images : callable
        Gives images by row, 0 to N - 1.
    out : Path
        OUT; keeps the outputs while it works.

    Returns
    -------
    float32, shape (N, M, W)
    """
    given = np.empty((len(fold), predictor.mixture.members, predictor.head.width), np.float32)
    for number, mixture in networks.items():
        rows = np.flatnonzero(fold == number)
        place = EvaluationPaths(out).fold(number)
        place.mkdir(exist_ok=True)
        given[rows] = replace(predictor, mixture=mixture).predict(_taken(images, rows), len(rows), place)
    return given


def _tested(checkpoint: str) -> pd.DataFrame:
    """Read which galaxies a cross-validation tested by which fold."""
    path = Path(checkpoint) / OUT_OF_FOLD
    if not path.is_file():
        raise RecipeError(checkpoint, "was not cross-validated: give finetune --set folds=5, or choose another --split")
    return read_table(path)


def _taken(images: Images, rows: NDArray[np.int64]) -> Images:
    return lambda part: images(rows[part])


def _positions(ra: NDArray[np.float64] | pd.Series, dec: NDArray[np.float64] | pd.Series) -> list[tuple[float, float]]:
    return list(zip(ra, dec, strict=True))
