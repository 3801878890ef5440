"""The galaxies that a model is judged on, and what is known of them.

Letters: N galaxies, A answers, K classes, S pixels on a side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gzsurvey.card import ClassesHead, Head, LabelsHead, VotesHead
from gzsurvey.dataset.store import SPLITS, Store
from gzsurvey.dataset.tables import ID_COLUMNS, numbers, pick, positions, read_table, texts
from gzsurvey.errors import RecipeError, TableError
from gzsurvey.evaluation.folds import fold_of_each
from gzsurvey.evaluation.intervals import Floats
from gzsurvey.evaluation.predict import Images
from gzsurvey.recipes.evaluation import EvaluationRecipe
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.training import FinetuneTask
from gzsurvey.sky.columns import IMAGE_NAMES
from gzsurvey.training.labels import Labels
from gzsurvey.training.pictures import UNMATCHED, collect, is_store
from gzsurvey.training.tasks import ClassesTask
from gzsurvey.training.tasks.votes import read_votes
from gzsurvey.votes.tree import DecisionTree

FOLDS = "folds"
"""As a split: every galaxy that a cross-validation tested."""
MEASURED = ("r50", "mag")
"""Numbers that a store knows of its galaxies."""


@dataclass(frozen=True)
class Given:
    """What a user names: where galaxies and truth are."""

    dataset: Path | None = None
    """A STORE."""
    split: str = "test"
    """Which of its galaxies; `FOLDS`: all labelled ones, each shown to the network of a cross-validation that
    knows nothing of it."""
    labels: Path | None = None
    """Table of a finetuned task's labels, or of counts of votes; None: the votes of `dataset` are the truth."""
    images: Path | None = None
    """Of the labelled galaxies: a STORE, directory, zip, tar or parquet; None: `dataset`."""
    truth: Path | None = None
    """Of a simulated sky: table with ``id`` and ``{vote column}_fraction``, or folder of ``{campaign}.parquet``."""
    by: tuple[str, ...] = ()
    """Columns of numbers in the table of labels, in `catalogue` or in the store, along which errors are shown."""
    catalogue: Path | None = None
    """Table with ids and the numbers of `by`, for galaxies of a store; None: the store knows them."""

    def identity(self) -> dict[str, object]:
        """Return what makes the same galaxies and truth when OUT is used again."""
        pictures = self.images or self.dataset
        return {
            "images": Store(pictures).info.content_sha256 if pictures and is_store(pictures) else str(pictures),
            "split": self.split,
            "labels_sha256": _hash(self.labels),
            "truth_sha256": _hash(self.truth),
            "by": list(self.by),
            "catalogue_sha256": _hash(self.catalogue),
        }


@dataclass(frozen=True)
class Sample:
    """Some galaxies."""

    ids: NDArray[np.str_]
    """Shape (N,); empty where the table of labels has positions only."""
    ra: Floats
    """Degrees ICRS, shape (N,), NaN where not known."""
    dec: Floats
    images: Images
    quantities: Mapping[str, Floats]
    """By name, each float64, shape (N,), NaN where not known."""
    fold: NDArray[np.int64] | None = None
    """By which part of a cross-validation each is tested, shape (N,); None: all by the same networks."""

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, row: int) -> str:
        """Return the id, or else the position, of one galaxy."""
        return str(self.ids[row]) or f"{self.ra[row]:.5f} {self.dec[row]:+.5f}"


@dataclass(frozen=True)
class VotesSample:
    """Galaxies with votes, of the questions that store and model share."""

    galaxies: Sample
    tree: DecisionTree
    votes: NDArray[np.int32]
    """Shape (N, A)."""
    counted: NDArray[np.bool_]
    """Not made from fractions and an assumed number of volunteers, shape (N,)."""
    columns: NDArray[np.int64]
    """Of the model's output that hold these answers, shape (A,)."""
    truth: Floats | None
    """Fractions of very many simulated volunteers, shape (N, A), NaN where not known."""


@dataclass(frozen=True)
class TaskSample:
    """Galaxies with labels of a finetuned task."""

    galaxies: Sample
    truth: Floats
    """Of classes, the class's number, shape (N,); of labels that do not exclude each other, 1 or 0, shape (N, K),
    NaN where not known; of a number, the number, shape (N,)."""


def _hash(path: Path | None) -> str | None:
    if path is None:
        return None
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def votes_sample(given: Given, head: VotesHead, preparation: Preparation) -> VotesSample:
    """Open the galaxies of one split of a store, with their votes.

    Parameters
    ----------
    given : Given
        Its `dataset`, `split`, `truth` and `by`.
    head : VotesHead
        Which questions the model answers.
    preparation : Preparation
        The model's.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The store was prepared differently, has no galaxy in the split, or shares no question with the model.
    gzsurvey.errors.TableError
        `by` or `truth` names what does not exist.
    """
    assert given.dataset is not None
    store = Store(given.dataset)
    _check_preparation(store, preparation)
    rows = _rows_of(store, given.split)
    tree, mine, columns = _shared(store, head)
    galaxies = Sample(
        ids=store.texts("id", rows),
        ra=store.numbers("ra", rows),
        dec=store.numbers("dec", rows),
        images=lambda part: store.images(rows[part]),
        quantities=_of_catalogue(given, store.texts("id", rows)) or _of_store(store, rows, given.by),
    )
    assumed = store.texts("assumed_votes", rows) == "True"
    campaigns = store.texts("campaign", rows)
    truth = None if given.truth is None else read_truth(given.truth, tree, galaxies.ids, campaigns)
    return VotesSample(galaxies, tree, _votes(store, rows, mine), ~assumed, columns, truth)


def _votes(store: Store, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int32]:
    votes = np.empty((len(rows), len(columns)), np.int32)
    for start in range(0, len(rows), 8192):
        votes[start : start + 8192] = store.vote_counts(rows[start : start + 8192])[:, columns]
    return votes


def _check_preparation(store: Store, preparation: Preparation) -> None:
    theirs, ours = store.info.preparation.model_dump(), preparation.model_dump()
    different = [f"{key} is {theirs[key]} there, {ours[key]} here" for key in ours if ours[key] != theirs[key]]
    if different:
        raise RecipeError(str(store.path), f"was prepared differently from the checkpoint's training images: "
                          f"{'; '.join(different)}")  # fmt: skip


def _rows_of(store: Store, split: str) -> NDArray[np.int64]:
    rows = store.rows(split)
    if not len(rows):
        held = ", ".join(f"{name} {len(store.rows(name)):,}" for name in SPLITS)
        raise RecipeError(str(store.path), f"has no galaxy in split {split!r}; it has {held}; choose by --split")
    return rows


def _shared(store: Store, head: VotesHead) -> tuple[DecisionTree, NDArray[np.int64], NDArray[np.int64]]:
    """Return the questions of both, their columns in the store, and in the output."""
    theirs = {q.vote_columns: q for q in store.tree.questions}
    both = [(q, theirs[q.vote_columns]) for q in head.tree.questions if q.vote_columns in theirs]
    if not both:
        raise RecipeError(str(store.path), f"holds votes of {', '.join(store.tree.campaigns)}; the checkpoint predicts "
                          f"those of {', '.join(head.tree.campaigns)}")  # fmt: skip
    sizes = [len(q.answers) for q, _ in both]
    starts = np.cumsum([0, *sizes[:-1]])
    tree = DecisionTree(tuple(replace(q, start=int(start)) for (q, _), start in zip(both, starts, strict=True)))
    place = [np.arange(q.columns.start, q.columns.stop) for pair in zip(*both, strict=True) for q in pair]
    return tree, np.concatenate(place[len(both) :]), np.concatenate(place[: len(both)])


def _of_store(store: Store, rows: NDArray[np.int64], by: tuple[str, ...]) -> dict[str, Floats]:
    """Read the numbers asked for, or those that a store may know and this one does."""
    unknown = [name for name in by if name not in MEASURED]
    if unknown:
        raise TableError(str(store.path), f"has no column of numbers {unknown[0]!r}; it has {', '.join(MEASURED)}")
    found = {name: store.numbers(name, rows) for name in by or MEASURED}
    empty = [name for name in by if not np.isfinite(found[name]).any()]
    if empty:
        raise TableError(str(store.path), f"does not know {empty[0]!r} of any of these galaxies")
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def _of_catalogue(given: Given, ids: NDArray[np.str_]) -> dict[str, Floats]:
    """Read the numbers asked for from a table of their own, by id; empty where there is none."""
    if given.catalogue is None:
        return {}
    where, frame = str(given.catalogue), read_table(given.catalogue)
    id_column = pick(frame, None, ID_COLUMNS, where)
    if id_column is None:
        raise TableError(where, f"has no id ({', '.join(ID_COLUMNS)}); rename a column")
    if not given.by:
        raise TableError(where, "is read for no column; name some by --by")
    place = _rows_of_ids(frame[id_column], where).get_indexer(pd.Index(ids))
    if (place < 0).all():
        raise TableError(where, f"has none of these galaxies; their ids look like {str(ids[0])!r}")
    values = {str(pick(frame, name, (), where)): numbers(frame, name, where) for name in given.by}
    return {name: np.where(place >= 0, column[place], np.nan) for name, column in values.items()}


def _rows_of_ids(column: pd.Series, where: str) -> pd.Index:
    named = pd.Index(texts(column, where))
    if named.has_duplicates:
        raise TableError(where, f"id {named[named.duplicated()][0]!r} stands more than once")
    return named


def read_truth(path: Path, tree: DecisionTree, ids: NDArray[np.str_], campaigns: NDArray[np.str_]) -> Floats:
    """Read the simulator's true vote fractions.

    Parameters
    ----------
    path : Path
        One table for all campaigns, or a folder with ``{campaign}.parquet`` for some of them.
    tree : DecisionTree
        Its questions.
    ids, campaigns : str, shape (N,)
        Of the galaxies.

    Returns
    -------
    float64, shape (N, A)
        NaN where not known.

    Raises
    ------
    gzsurvey.errors.TableError
        No table, no column of a question, some answers of a question only, or no galaxy in common.
    """
    if path.is_dir():
        tables = {name: path / f"{name}.parquet" for name in tree.campaigns if (path / f"{name}.parquet").is_file()}
        if not tables:
            raise TableError(str(path), f"holds none of {', '.join(f'{name}.parquet' for name in tree.campaigns)}")
    else:
        tables = dict.fromkeys(tree.campaigns, path)
    truth = np.full((len(ids), tree.n_answers), np.nan)
    for campaign, table in tables.items():
        rows = np.flatnonzero(campaigns == campaign)
        truth[rows] = _fractions(table, tree, campaign, ids[rows])
    if not np.isfinite(truth).any():
        wanted = f"{tree.vote_columns[0]}_fraction"
        raise TableError(str(path), f"gives the true fractions of none of these galaxies; it needs their 'id' and "
                         f"columns such as {wanted!r}")  # fmt: skip
    return truth


def _fractions(table: Path, tree: DecisionTree, campaign: str, ids: NDArray[np.str_]) -> Floats:
    frame = read_table(table)
    pick(frame, "id", (), str(table))
    place = _rows_of_ids(frame["id"], str(table)).get_indexer(pd.Index(ids))
    out = np.full((len(ids), tree.n_answers), np.nan)
    for question in tree.of_campaign(campaign):
        wanted = [f"{column}_fraction" for column in question.vote_columns]
        missing = [name for name in wanted if name not in frame.columns]
        if len(missing) == len(wanted):
            continue
        if missing:
            raise TableError(str(table), f"has no column {missing[0]!r}, but others of {question.name!r}")
        for column, name in enumerate(wanted, question.start):
            out[:, column] = np.where(place >= 0, numbers(frame, name, str(table))[place], np.nan)
    return out


@dataclass(frozen=True)
class Labelled:
    """A table of labels, read and checked; its images are not looked for yet."""

    labels: Labels
    """By which images are found."""
    truth: Floats
    """As of `TaskSample`; votes, shape (N, A)."""
    quantities: Mapping[str, Floats]
    """By name, each float64, shape (N,), NaN where not known."""
    pictures: Path
    """Where images are."""


def read_labelled(given: Given, head: Head, preparation: Preparation, recipe: EvaluationRecipe) -> Labelled:
    """Read the labels of a finetuned task, or votes.

    Parameters
    ----------
    given : Given
        Its `labels`, `images` or `dataset`, and `by`.
    head : Head
        What they are labels of.
    preparation : Preparation
        The model's.
    recipe : EvaluationRecipe
        Its `label_column` and `class_names`.

    Raises
    ------
    gzsurvey.errors.TableError
        The labels cannot be used; names rows, columns or classes.
    gzsurvey.errors.RecipeError
        There are no images, or they were prepared differently.
    """
    assert given.labels is not None
    pictures, where = given.images or given.dataset, str(given.labels)
    if pictures is None:
        raise RecipeError(where, "needs the images of its galaxies: add --images (or --dataset STORE)")
    if given.catalogue is not None:
        raise RecipeError(str(given.catalogue), f"is not needed: columns of --by are read from {where}; add them there")
    if is_store(pictures):
        _check_preparation(Store(pictures), preparation)
    frame = read_table(given.labels)
    labels, truth = _labels_of(given.labels, frame, head, recipe)
    quantities = {str(pick(frame, name, (), where)): numbers(frame, name, where) for name in given.by}
    return Labelled(labels, truth, quantities, pictures)


def labelled_sample(
    labelled: Labelled, head: Head, split: str, checkpoint: str, preparation: Preparation, out: Path
) -> TaskSample | VotesSample:
    """Find the images of labelled galaxies.

    Of labels whose images lie in a store, those of one split are taken; of other images, all.

    Parameters
    ----------
    labelled : Labelled
        As `read_labelled` returns it.
    head : Head
        What they are labels of.
    split : str
        Of the store, or `FOLDS`.
    checkpoint : str
        Whose cross-validation is meant by `FOLDS`.
    preparation : Preparation
        The model's.
    out : Path
        OUT; holds the prepared images while they are used.

    Raises
    ------
    gzsurvey.errors.TableError
        No label has an image; names ids.
    gzsurvey.errors.RecipeError
        None of the labelled galaxies lies in the split, or the cross-validation tested none.
    """
    (out / UNMATCHED).unlink(missing_ok=True)
    found = collect(labelled.labels, labelled.pictures, preparation, out)
    fold = None
    kept = np.arange(len(found.labels))
    if split == FOLDS:
        fold = fold_of_each(checkpoint, found.labels)
        kept = np.flatnonzero(fold >= 0)
        fold = fold[kept]
    elif found.published is not None:
        kept = np.flatnonzero(found.published == split)
        if not len(kept):
            raise RecipeError(str(labelled.pictures), f"has no labelled galaxy in split {split!r}; choose by --split")
    rows = found.labels.rows[kept]
    ids = found.labels.ids
    galaxies = Sample(
        ids=np.full(len(kept), "") if ids is None else ids[kept],
        ra=found.labels.ra[kept],
        dec=found.labels.dec[kept],
        images=lambda part: found.images[kept[part]],
        quantities={name: values[rows] for name, values in labelled.quantities.items()},
        fold=fold,
    )
    truth = labelled.truth[rows]
    if not isinstance(head, VotesHead):
        return TaskSample(galaxies, truth)
    every = np.arange(head.width, dtype=np.int64)
    return VotesSample(galaxies, head.tree, truth.astype(np.int32), np.ones(len(rows), np.bool_), every, None)


def _labels_of(path: Path, frame: pd.DataFrame, head: Head, recipe: EvaluationRecipe) -> tuple[Labels, Floats]:
    """Return the labelled galaxies, to find their images by, and their labels."""
    where = str(path)
    if isinstance(head, VotesHead):
        truth = read_votes(frame, head.tree, where, ", ".join(head.tree.campaigns)).astype(np.float64)
    elif isinstance(head, ClassesHead):
        truth = _classes(frame, where, head, recipe)
    elif isinstance(head, LabelsHead):
        for name in head.classes:
            pick(frame, name, (), where)
        truth = np.column_stack([numbers(frame, name, where) for name in head.classes])
        wrong = np.isfinite(truth) & (truth != 0) & (truth != 1)
        if wrong.any():
            raise TableError(where, "columns of classes must be 0 or 1", np.flatnonzero(wrong.any(axis=1)).tolist())
    else:
        pick(frame, recipe.label_column, (), where)
        truth = numbers(frame, recipe.label_column, where)
        if not np.isfinite(truth).all():
            raise TableError(where, f"column {recipe.label_column!r} is not finite",
                             np.flatnonzero(~np.isfinite(truth)).tolist())  # fmt: skip
    return galaxies_of(path, frame), truth


def _classes(frame: pd.DataFrame, where: str, head: ClassesHead, recipe: EvaluationRecipe) -> Floats:
    """Return the number of each galaxy's class among those of the head."""
    read = FinetuneTask(task=head.task, label_column=recipe.label_column, class_names=recipe.class_names)
    labels = ClassesTask.read(read, frame, where)
    if not labels.given.all():
        problem = f"column {recipe.label_column!r} is empty or NaN; remove these rows"
        raise TableError(where, problem, np.flatnonzero(~labels.given).tolist())
    unknown = [name for name in labels.classes if name not in head.classes]
    if unknown:
        raise TableError(where, f"class {unknown[0]!r} is none of the checkpoint's ({', '.join(head.classes)}); "
                         "rename it by class_names")  # fmt: skip
    order = np.array([head.classes.index(name) for name in labels.classes])
    return np.asarray(order[labels.target], dtype=np.float64)


def galaxies_of(path: Path, frame: pd.DataFrame) -> Labels:
    """Return the galaxies of a table, without any task."""
    where = str(path)
    id_column, image_column = pick(frame, None, ID_COLUMNS, where), pick(frame, None, IMAGE_NAMES, where)
    ra, dec = positions(frame, None, None, where)
    return Labels(
        path=path,
        rows=np.arange(len(frame), dtype=np.int64),
        ids=None if id_column is None else texts(frame[id_column], where),
        images=None if image_column is None else texts(frame[image_column], where),
        ra=ra,
        dec=dec,
        tasks=(),
        history={},
    )
