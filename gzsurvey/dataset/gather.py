"""What a recipe's sources hold, before any pixel is read: ids, positions, votes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gzsurvey.cutouts.collection import ImageCollection, ParquetImages, open_collection
from gzsurvey.cutouts.open import check_source
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.dataset.groups import SAME_GALAXY_ARCSEC, near
from gzsurvey.dataset.tables import ID_COLUMNS, numbers, pick, positions, read_table, texts
from gzsurvey.errors import RecipeError, TableError
from gzsurvey.recipes.dataset import DatasetRecipe, HoldOut, SourceRecipe
from gzsurvey.votes.counts import VoteTable, counts_from_table
from gzsurvey.votes.tree import DecisionTree

logger = logging.getLogger(__name__)

_SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation",
           "validation": "validation", "test": "test", "": "", "nan": ""}  # fmt: skip


@dataclass(frozen=True)
class Gathered:
    """The galaxies of one source, in the order of its catalogue."""

    recipe: SourceRecipe
    rows: pd.DataFrame
    """Columns id, image, ra, dec, r50, r90, mag, published, campaign."""
    votes: NDArray[np.int32]
    """Shape (N, K): the source's own answers."""
    columns: NDArray[np.int64]
    """Shape (K,): their columns in the store's matrix."""
    collection: ImageCollection | None
    """None: a cutout SOURCE."""
    held: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Rows left out because they are held out."""

    @property
    def assumed_votes(self) -> bool:
        """Whether counts come from an assumed number of volunteers."""
        return self.recipe.assumed_votes is not None and self.recipe.column_map.holds != "counts"

    def where(self, keep: NDArray[np.bool_]) -> Gathered:
        """Return the rows to keep; the others become `held`."""
        held = pd.concat([self.held, self.rows[~keep]], ignore_index=True)
        return replace(self, rows=self.rows[keep].reset_index(drop=True), votes=self.votes[keep], held=held)


def gather(recipe: DatasetRecipe, tree: DecisionTree) -> tuple[Gathered, ...]:
    """Read every source's catalogue and leave out what is held out.

    Parameters
    ----------
    recipe : DatasetRecipe
        With absolute paths.
    tree : DecisionTree
        The store's answers.

    Raises
    ------
    gzsurvey.errors.TableError, gzsurvey.errors.RecipeError, gzsurvey.errors.SourceError
        A catalogue, a vote, a column or a collection is wrong.
    """
    for survey in (source for source in recipe.sources if source.is_cutouts):
        check_source(SourceSpec.parse(survey.images, survey.bands, survey.zeropoints), recipe.preparation)
    opened = cache(open_collection)
    sources = [_gather_one(source, tree, opened) for source in recipe.sources]
    if recipe.splits.published:
        for source in sources:
            unsplit = (source.rows["published"] == "").to_numpy() & (source.rows["campaign"] != "").to_numpy()
            if unsplit.any():
                problem = "has galaxies without a published split; give 'split_column' or 'split', or other 'splits'"
                raise TableError(source.recipe.name, problem, np.flatnonzero(unsplit).tolist())
    return _without_held_out([_without_earlier(source, sources) for source in sources], recipe.hold_out)


def _without_earlier(source: Gathered, sources: Sequence[Gathered]) -> Gathered:
    earlier = [other for other in sources if other.recipe.name in source.recipe.not_in]
    if not earlier:
        return source
    rows = pd.concat([other.rows for other in earlier])
    places = (rows["ra"].to_numpy(), rows["dec"].to_numpy())
    there = near(source.rows["ra"].to_numpy(), source.rows["dec"].to_numpy(), places, SAME_GALAXY_ARCSEC)
    keep = ~(there | source.rows["id"].isin(rows["id"]).to_numpy())
    return replace(source, rows=source.rows[keep].reset_index(drop=True), votes=source.votes[keep])


def _gather_one(source: SourceRecipe, tree: DecisionTree, opened: Callable[[str], ImageCollection]) -> Gathered:
    collection = None if source.is_cutouts else opened(source.images)
    table = source.catalogue
    if table is None and isinstance(collection, ParquetImages):
        table = source.images
    if table is None:
        assert collection is not None
        frame = pd.DataFrame({"image": list(collection.names())})
        source = source.model_copy(update={"image_column": "image"})
    else:
        frame = _selected(_joined(read_table(table), source, table), source, table)
    where = table or source.images
    rows = _rows(frame, source, where)
    votes, columns, campaigns = _votes(frame, source, tree, where)
    rows["campaign"] = campaigns
    return Gathered(source, rows, votes, columns, collection)


def _joined(frame: pd.DataFrame, source: SourceRecipe, where: str) -> pd.DataFrame:
    for join in source.join:
        pick(frame, join.column, (), where)
        key = join.key or join.column
        other = read_table(join.file, [key, *join.columns])
        keys = texts(other[key], join.file)
        first = ~pd.Series(keys).duplicated().to_numpy() & (keys != "")
        if (~first).any():
            logger.warning("%s: %d rows repeat or lack %s; the first of each is used", join.file, (~first).sum(), key)
        found = pd.Index(keys[first]).get_indexer(pd.Index(texts(frame[join.column], where)))
        for name in join.columns:
            values = other.loc[first, name].reset_index(drop=True)
            frame[name] = values.reindex(np.where(found >= 0, found, -1)).to_numpy()
    return frame


def _selected(frame: pd.DataFrame, source: SourceRecipe, where: str) -> pd.DataFrame:
    keep = np.ones(len(frame), dtype=np.bool_)
    for name, (low, high) in source.ranges.items():
        pick(frame, name, (), where)
        values = numbers(frame, name, where)
        keep &= (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))
    if not keep.any():
        raise TableError(where, f"no row is left by 'ranges' {source.ranges}")
    return frame[keep].head(source.limit or len(frame)).reset_index(drop=True)


def _rows(frame: pd.DataFrame, source: SourceRecipe, where: str) -> pd.DataFrame:
    image_column = pick(frame, source.image_column, (), where)
    images = texts(frame[image_column], where) if image_column else np.full(len(frame), "")
    id_column = pick(frame, source.id_column, ID_COLUMNS, where)
    if id_column is None and image_column is None:
        raise TableError(where, f"has no column {', '.join(ID_COLUMNS)}; name one with 'id_column'")
    ids = texts(frame[id_column], where) if id_column else _stems(images)
    if (ids == "").any():
        raise TableError(where, "ids are empty", np.flatnonzero(ids == "").tolist())
    twice = pd.Series(ids).duplicated(keep=False).to_numpy()
    if twice.any():
        raise TableError(where, f"id '{ids[twice][0]}' stands more than once", np.flatnonzero(twice).tolist())
    ra, dec = positions(frame, source.ra_column, source.dec_column, where)
    return pd.DataFrame(
        {
            "id": ids.astype(object),
            "image": images.astype(object),
            "ra": ra,
            "dec": dec,
            "r50": numbers(frame, pick(frame, source.r50_column, (), where), where),
            "r90": numbers(frame, pick(frame, source.r90_column, (), where), where),
            "mag": numbers(frame, pick(frame, source.mag_column, (), where), where),
            "published": _published(frame, source, where),
        }
    )


def _stems(images: NDArray[np.str_]) -> NDArray[np.str_]:
    names = pd.Series(images).str.rsplit("/", n=1).str[-1]
    return names.str.replace(r"\.[A-Za-z]+$", "", regex=True).to_numpy(dtype=np.str_)


def _published(frame: pd.DataFrame, source: SourceRecipe, where: str) -> NDArray[np.object_]:
    if source.split_column is None:
        return np.full(len(frame), source.split or "", dtype=object)
    values = frame[pick(frame, source.split_column, (), where)].astype(str).str.strip().str.lower()
    unknown = ~values.isin(_SPLITS).to_numpy()
    if unknown.any():
        first = values[unknown].iloc[0]
        raise TableError(where, f"split {first!r} is none of train, validation, test", np.flatnonzero(unknown).tolist())
    return values.map(_SPLITS).to_numpy(dtype=object)


def _votes(
    frame: pd.DataFrame, source: SourceRecipe, tree: DecisionTree, where: str
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.object_]]:
    nothing = np.full(len(frame), "", dtype=object)
    if source.campaign is None:
        return np.zeros((len(frame), 0), np.int32), np.zeros(0, np.int64), nothing
    columns = source.column_map
    if columns.campaign not in (None, source.campaign):
        raise RecipeError(f"source {source.name}", f"column map {columns.name!r} is of {columns.campaign}, "
                                                   f"not of campaign {source.campaign!r}")  # fmt: skip
    own = DecisionTree.load(source.campaign)
    counts = counts_from_table(VoteTable(frame, columns, where, source.assumed_votes), own)
    place = {name: i for i, name in enumerate(tree.vote_columns)}
    shared = [i for i, name in enumerate(own.vote_columns) if name in place]
    if not shared:
        raise RecipeError(f"source {source.name}", f"campaign {source.campaign!r} has no answer among those of the "
                                                   f"store: {', '.join(tree.campaigns)}")  # fmt: skip
    columns_there = np.array([place[own.vote_columns[i]] for i in shared], dtype=np.int64)
    return counts[:, shared], columns_there, _campaigns(counts, own)


def _campaigns(counts: NDArray[np.int32], tree: DecisionTree) -> NDArray[np.object_]:
    """Name the campaign with the most votes in each row; empty where there are none."""
    totals = np.column_stack([
        sum(counts[:, q.columns].sum(axis=1, dtype=np.int64) for q in tree.of_campaign(name))
        for name in tree.campaigns
    ])  # fmt: skip
    names = np.array(tree.campaigns, dtype=object)[totals.argmax(axis=1)]
    return np.where(totals.max(axis=1) > 0, names, "")


def _without_held_out(sources: Sequence[Gathered], hold_out: Sequence[HoldOut]) -> tuple[Gathered, ...]:
    if not hold_out:
        return tuple(sources)
    ids: set[str] = set()
    places: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for entry in hold_out:
        more, ra, dec = _held(entry)
        ids |= more
        places.append((ra, dec))
    named = [s.where(~s.rows["id"].isin(ids).to_numpy()) for s in sources]
    # What is left out by its id is left out wherever else it stands on the sky.
    places += [(s.held["ra"].to_numpy(), s.held["dec"].to_numpy()) for s in named if len(s.held)]
    others = (np.concatenate([ra for ra, _ in places]), np.concatenate([dec for _, dec in places]))
    return tuple(
        s.where(~near(s.rows["ra"].to_numpy(), s.rows["dec"].to_numpy(), others, SAME_GALAXY_ARCSEC)) for s in named
    )


def _held(entry: HoldOut) -> tuple[set[str], NDArray[np.float64], NDArray[np.float64]]:
    nowhere = np.zeros(0)
    if entry.file is None:
        return set(entry.ids), nowhere, nowhere
    frame = read_table(entry.file)
    id_column = pick(frame, entry.id_column, ID_COLUMNS, entry.file)
    ra, dec = positions(frame, entry.ra_column, entry.dec_column, entry.file)
    if id_column is None and not np.isfinite(ra).any():
        raise TableError(entry.file, "names no galaxies: it needs a column 'id', or 'ra' and 'dec'")
    ids = set(texts(frame[id_column], entry.file).tolist()) if id_column else set()
    return ids, ra, dec
