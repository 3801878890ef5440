"""Evaluating a checkpoint: predict, measure, draw, write.

Letters: N galaxies, M members, A answers, K classes, W columns of the output.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gzsurvey.card import ClassesHead, Head, LabelsHead, TaskHead, VotesHead
from gzsurvey.errors import RecipeError
from gzsurvey.evaluation.figures import draw
from gzsurvey.evaluation.folds import cross_validation, predict_folds
from gzsurvey.evaluation.page import Shown, render
from gzsurvey.evaluation.paths import EvaluationPaths
from gzsurvey.evaluation.predict import Mixture, Predictor, check_alike
from gzsurvey.evaluation.results import (
    check_prevalence,
    prevalence_of,
    refuse_unjudged,
    task_results,
    votes_results,
    without_nan,
)
from gzsurvey.evaluation.sample import (
    FOLDS,
    Given,
    Labelled,
    Sample,
    TaskSample,
    VotesSample,
    labelled_sample,
    read_labelled,
    votes_sample,
)
from gzsurvey.evaluation.table import as_text
from gzsurvey.images.prepare import shown
from gzsurvey.model.checkpoint import CheckpointInfo, write_aside
from gzsurvey.outputs.aside import written_aside
from gzsurvey.outputs.rows import at_prevalence
from gzsurvey.recipes.evaluation import EvaluationRecipe
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.sky.healpix import cells
from gzsurvey.training import job
from gzsurvey.training.augment import refuse_meaningless
from gzsurvey.training.describe import CELL_ORDER
from gzsurvey.training.pictures import is_store
from gzsurvey.votes.uncertainty import mixture_fractions

logger = logging.getLogger(__name__)
VOTES = "votes"
"""Names the votes among tasks; a finetuned task of this name goes before them."""
_ROWS_AT_A_TIME = 8192


def evaluate(recipe: EvaluationRecipe, mixture: Mixture, out: Path, given: Given, device: str = "auto") -> str:
    """Say how good a checkpoint is, on galaxies that did not train it.

    Repeating it on its own OUT goes on with predicting where it stopped, or returns at once.

    Parameters
    ----------
    recipe : EvaluationRecipe
        Who is judged on what.
    mixture : Mixture
        One checkpoint, or several whose predictions are mixed.
    out : Path
        OUT; `gzsurvey.evaluation.paths` says what it will hold.
    given : Given
        Galaxies, votes or labels, perhaps a simulator's truth.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    str
        The most important numbers as a table; ``OUT/evaluation.json`` and ``evaluation.html`` hold all.

    Raises
    ------
    gzsurvey.errors.RecipeError
        A checkpoint does not predict what is asked for, or galaxies do not fit it.
    gzsurvey.errors.TableError
        Labels or truth cannot be used; names rows or columns.
    gzsurvey.errors.OutputConflict
        OUT was made from other inputs.
    gzsurvey.errors.OutputBusy
        Another process evaluates into OUT.
    """
    paths = EvaluationPaths(out)
    infos = mixture.infos()
    head = choose_head(mixture, infos[0], given, recipe)
    check_alike(mixture, infos, head)
    if mixture.passes > 1 and mixture.vary == "views":
        refuse_meaningless(recipe.augmentation, infos[0].preparation)
    judged = _judged(mixture, given)
    description = {
        "recipe": recipe.model_dump(mode="json"),
        "checkpoints_sha256": _hashes(judged),
        "passes": mixture.passes,
        "vary": mixture.vary if mixture.passes > 1 else None,
        **given.identity(),
    }
    truth = _open(head, infos[0], given, recipe)
    with job.claimed(out, description) as finished:
        if finished:
            logger.info("%s is finished", out)
            return as_text(json.loads(paths.results.read_text()))
        try:
            results = _evaluated(Predictor(mixture, head, recipe, device), judged, infos[0], paths, given, truth)
        finally:
            paths.images.unlink(missing_ok=True)
        job.finish(out, description)
        for path in (paths.outputs, paths.outputs_done):
            path.unlink(missing_ok=True)
        for place in out.glob(paths.fold("*").name):
            shutil.rmtree(place)
    return as_text(results)


def _judged(mixture: Mixture, given: Given) -> dict[int, Mixture]:
    """Return whose predictions are judged: `mixture`, or by number the networks of its cross-validation."""
    if given.split != FOLDS:
        return {0: mixture}
    if given.labels is None:
        raise RecipeError(mixture.checkpoints[0], "is judged with --split folds on the labels that it was finetuned "
                          "to: add --labels")  # fmt: skip
    return cross_validation(mixture)


def _hashes(judged: Mapping[int, Mixture]) -> list[str]:
    return [found for mixture in judged.values() for found in mixture.hashes()]


def _open(head: Head, info: CheckpointInfo, given: Given, recipe: EvaluationRecipe) -> VotesSample | Labelled:
    """Read what is known of the galaxies; what cannot be used is refused before OUT exists."""
    if given.labels is None:
        assert isinstance(head, VotesHead)
        sample = votes_sample(given, head, info.preparation)
        refuse_unjudged(sample.votes, sample.tree, recipe)
        return sample
    if isinstance(head, ClassesHead | LabelsHead):
        check_prevalence(head, recipe)
    labelled = read_labelled(given, head, info.preparation, recipe)
    if isinstance(head, VotesHead):
        refuse_unjudged(labelled.truth.astype(np.int64), head.tree, recipe)
    return labelled


def choose_head(mixture: Mixture, info: CheckpointInfo, given: Given, recipe: EvaluationRecipe) -> Head:
    """Return the head that is judged: of votes, or of the task that labels are given for.

    Raises
    ------
    gzsurvey.errors.RecipeError
        There is none, or there are several to choose from.
    """
    name = mixture.checkpoints[0]
    votes = next((head for head in info.heads if isinstance(head, VotesHead)), None)
    if given.labels is None:
        if given.dataset is None:
            raise RecipeError(name, "needs galaxies to be evaluated on: add --dataset STORE, or --labels and --images")
        if votes is None:
            raise RecipeError(name, "predicts no votes; give --labels for what it was finetuned to")
        return votes
    finetuned: dict[str, Head] = {head.task: head for head in info.heads if not isinstance(head, VotesHead)}
    tasks = ({} if votes is None else {VOTES: votes}) | finetuned
    if not tasks:
        raise RecipeError(name, "was not finetuned to a task that --labels could judge, and predicts no votes")
    if recipe.task is None and len(finetuned) > 1:
        raise RecipeError(name, f"has several tasks ({', '.join(finetuned)}); choose by --set task=NAME")
    task = recipe.task or next(iter(finetuned or tasks))
    if task not in tasks:
        raise RecipeError(name, f"has no task {task!r}; it has {', '.join(tasks)}")
    return tasks[task]


def _evaluated(
    predictor: Predictor,
    judged: Mapping[int, Mixture],
    info: CheckpointInfo,
    paths: EvaluationPaths,
    given: Given,
    known: VotesSample | Labelled,
) -> dict[str, Any]:
    """Do the work and write everything; return the results."""
    head, recipe = predictor.head, predictor.recipe
    sample: VotesSample | TaskSample
    if isinstance(known, VotesSample):
        sample = known
    else:
        checkpoint = predictor.mixture.checkpoints[0]
        sample = labelled_sample(known, head, given.split, checkpoint, info.preparation, paths.out)
    galaxies = sample.galaxies
    if galaxies.fold is None:
        outputs = predictor.predict(galaxies.images, len(galaxies), paths.out)
    else:
        outputs = predict_folds(predictor, judged, galaxies.fold, galaxies.images, paths.out)
    if isinstance(sample, VotesSample):
        maps = {number: predictor.rank_maps(mixture) for number, mixture in judged.items()}
        measured = votes_results(sample, outputs, maps, recipe) | {"has_truth": sample.truth is not None}
        write_rows(paths.predictions, galaxies, _vote_columns(sample, outputs))
    else:
        assert not isinstance(head, VotesHead)
        measured = task_results(sample, head, outputs, recipe)
        write_rows(paths.predictions, galaxies, _task_columns(sample, head, outputs, recipe))
    results: dict[str, Any] = without_nan(_described(predictor, judged, info, given, galaxies) | measured)
    figures = []
    paths.figure("any").parent.mkdir(exist_ok=True)
    for drawing in draw(results):
        path = paths.figure(drawing.name)
        with written_aside(path) as aside:
            drawing.figure.savefig(aside, format="png", dpi=110)
        figures.append(Shown(drawing.title, drawing.caption, path))
    write_aside(paths.page, render(results, figures, partial(_pictures, galaxies, info.preparation)).encode())
    write_aside(paths.results, json.dumps(results, indent=1, allow_nan=False).encode())
    return results


def _pictures(galaxies: Sample, preparation: Preparation, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return galaxies as people would see them."""
    return np.stack([shown(image, preparation) for image in galaxies.images(rows)])


def _described(
    predictor: Predictor, judged: Mapping[int, Mixture], info: CheckpointInfo, given: Given, galaxies: Sample
) -> dict[str, Any]:
    """Return what was evaluated on what."""
    mixture, recipe = predictor.mixture, predictor.recipe
    names = [checkpoint for one in judged.values() for checkpoint in one.checkpoints]
    pictures = given.images or given.dataset
    assert pictures is not None
    return {
        "name": Path(mixture.checkpoints[0]).name,
        "checkpoints": dict(zip(names, _hashes(judged), strict=True)),
        "members": mixture.members,
        "passes": mixture.passes,
        "vary": mixture.vary,
        "images": pictures.name,
        "split": given.split if is_store(pictures) or given.split == FOLDS else None,
        "simulated": info.simulated,
        "calibration": _calibration(judged, predictor.head),
        "seen": _seen(judged, galaxies),
        "level": recipe.level,
        "recipe": recipe.model_dump(mode="json"),
    }


def _calibration(judged: Mapping[int, Mixture], head: Head) -> dict[str, dict[str, float]]:
    """Return, by checkpoint, on how many galaxies its calibration was fitted and what it was worth there."""
    fitted = {name: info.calibration.get(head.output) for mixture in judged.values()
              for name, info in zip(mixture.checkpoints, mixture.infos(), strict=True)}  # fmt: skip
    return {name: found.model_dump(include={"galaxies", "loss_before", "loss_after"})
            for name, found in fitted.items() if found is not None}  # fmt: skip


def _seen(judged: Mapping[int, Mixture], galaxies: Sample) -> int | None:
    """Count galaxies in the cells of those that trained their network with votes or labels; None: not known."""
    known = np.isfinite(galaxies.ra) & np.isfinite(galaxies.dec)
    trained_in = {number: mixture.infos()[0].training_cells for number, mixture in judged.items()}
    if None in trained_in.values() or not known.any():
        return None
    own = cells(galaxies.ra, galaxies.dec, CELL_ORDER)
    fold = np.zeros(len(own), np.int64) if galaxies.fold is None else galaxies.fold
    return sum(
        int(np.isin(own[known & (fold == number)], np.array(voted["voted"], dtype=np.int64)).sum())
        for number, voted in trained_in.items() if voted is not None
    )  # fmt: skip


def _vote_columns(sample: VotesSample, outputs: NDArray[np.float32]) -> Iterator[dict[str, Any]]:
    """Yield votes, predicted fractions and, where known, true ones, some galaxies at a time."""
    names = sample.tree.vote_columns
    for start in range(0, len(sample.galaxies), _ROWS_AT_A_TIME):
        rows = slice(start, start + _ROWS_AT_A_TIME)
        predicted = mixture_fractions(outputs[rows][:, :, sample.columns], sample.tree).astype(np.float32)
        columns: dict[str, Any] = {name: sample.votes[rows, k] for k, name in enumerate(names)}
        columns |= {f"{name}_predicted": predicted[:, k] for k, name in enumerate(names)}
        if sample.truth is not None:
            columns |= {f"{name}_truth": sample.truth[rows, k].astype(np.float32) for k, name in enumerate(names)}
        yield columns


def _task_columns(
    sample: TaskSample, head: TaskHead, outputs: NDArray[np.float32], recipe: EvaluationRecipe
) -> Iterator[dict[str, Any]]:
    """Yield labels and predictions, all galaxies at once."""
    given, truth = outputs.astype(np.float64), sample.truth
    if not isinstance(head, ClassesHead | LabelsHead):
        deviation = np.sqrt((given[:, :, 1] ** 2).mean(axis=1) + given[:, :, 0].var(axis=1))
        yield {"label": truth, "predicted": given[:, :, 0].mean(axis=1), "deviation": deviation}
        return
    probability = given.mean(axis=1)
    published = at_prevalence(probability, head, prevalence_of(head, probability, truth, recipe))
    if isinstance(head, ClassesHead):
        columns: dict[str, Any] = {"label": np.array(head.classes)[truth.astype(np.int64)]}
    else:
        columns = {name: truth[:, k] for k, name in enumerate(head.classes)}
    columns |= {f"{name}_score": probability[:, k] for k, name in enumerate(head.classes)}
    columns |= {f"{name}_probability": published[:, k] for k, name in enumerate(head.classes)}
    yield columns


def write_rows(path: Path, galaxies: Sample, parts: Iterator[dict[str, Any]]) -> None:
    """Write one row per galaxy: id, ra, dec and the columns of `parts`, which follow one another."""
    start = 0
    with written_aside(path) as aside:
        writer = None
        for columns in parts:
            stop = start + len(next(iter(columns.values())))
            placed = {"id": galaxies.ids[start:stop], "ra": galaxies.ra[start:stop], "dec": galaxies.dec[start:stop]}
            table = pa.table(placed | columns)
            writer = writer or pq.ParquetWriter(aside, table.schema)
            writer.write_table(table)
            start = stop
        if writer is not None:
            writer.close()
