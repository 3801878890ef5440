"""`dataset build`: many catalogues and image collections into one training store."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from gzsurvey.card import Credit
from gzsurvey.dataset.gather import Gathered, gather
from gzsurvey.dataset.groups import assign_splits
from gzsurvey.dataset.pictures import Picture, Reject, picture_workers, pictures
from gzsurvey.dataset.store import GALAXY_COLUMNS, Store, StoreInfo, rows_per_chunk, write_info
from gzsurvey.errors import OutputConflict, RecipeError, TableError
from gzsurvey.lock import alone_in, is_empty
from gzsurvey.progress import Progress
from gzsurvey.recipes.dataset import DatasetRecipe
from gzsurvey.votes.tree import DecisionTree

HASHED_BYTES = 256 * 1024 * 1024
"""Tables up to this size are identified by their sha256, larger ones and archives by their size."""


def build(recipe: DatasetRecipe, out: Path, progress: Callable[[str, int, str], Progress] = Progress) -> Store:
    """Make a training store.

    Pictures stream from the sources, a chunk at a time, into ``store.zarr``. A finished
    chunk is journalled, so that repeating an interrupted build goes on after the last
    one; repeating a finished build returns at once. Many images are prepared in processes of
    their own: call it from under ``if __name__ == "__main__"`` in a script.

    Parameters
    ----------
    recipe : DatasetRecipe
        With absolute paths, as `load_dataset_recipe` returns it.
    out : Path
        The STORE directory.
    progress : callable
        Makes the progress line from label, total and unit.

    Returns
    -------
    Store

    Raises
    ------
    gzsurvey.errors.OutputConflict
        `out` was made from another recipe or other catalogues, or is no store.
    gzsurvey.errors.OutputBusy
        Another process builds it.
    gzsurvey.errors.RecipeError, gzsurvey.errors.TableError, gzsurvey.errors.SourceError
        The recipe, a catalogue or a collection is wrong.
    """
    inputs = _inputs(recipe)
    if _is_finished(out, inputs):
        return Store(out)
    _refuse_pictures_for_flux(recipe)
    for warning in recipe.preparation.warnings:
        Progress.say(f"{recipe.name}: {warning}")
    tree = DecisionTree.load(recipe.answers)
    sources = gather(recipe, tree)
    total = sum(len(source.rows) for source in sources)
    if total == 0:
        raise TableError(recipe.name, "no galaxy is left: all of them are held out")
    with alone_in(out):
        _begin(out, inputs)
        journal = Journal(out, _create_arrays(out, recipe, tree, total))
        shown = progress("dataset", total, "images")
        shown.advance(journal.next)
        with picture_workers(total - journal.next) as workers:
            _write_chunks(recipe, sources, journal, workers, shown)
        shown.finish()
        _finish(recipe, sources, journal, tree)
    return Store(out)


def _inputs(recipe: DatasetRecipe) -> dict[str, Any]:
    """Describe everything a store is made from."""
    files = {"hold_out": [h.file for h in recipe.hold_out if h.file]}
    for source in recipe.sources:
        tables = [source.catalogue, *(join.file for join in source.join)]
        files[source.name] = [source.images, *(table for table in tables if table)]
    prints = {f"{name}/{Path(path).name}": _fingerprint(Path(path)) for name, paths in files.items() for path in paths}
    return {"recipe": recipe.model_dump(mode="json", exclude={"data"}), "files": prints}


def _fingerprint(path: Path) -> str:
    if not path.is_file():
        return "several files"
    if path.stat().st_size > HASHED_BYTES or path.suffix in (".zip", ".tar"):
        return f"{path.stat().st_size} bytes"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recipe_sha256(inputs: dict[str, Any]) -> str:
    """Hash the inputs without the folders they lie in."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(item) for key, item in value.items()}
        if isinstance(value, list):
            return [bare(item) for item in value]
        return value.rsplit("/", 1)[-1] if isinstance(value, str) else value

    return hashlib.sha256(json.dumps(bare(inputs), sort_keys=True).encode()).hexdigest()


def _is_finished(out: Path, inputs: dict[str, Any]) -> bool:
    """Say whether `out` is this very store; refuse a directory that is something else."""
    if not out.exists() or (out.is_dir() and is_empty(out)):
        return False
    marker = out / "inputs.json"
    if not marker.is_file():
        raise OutputConflict(out, ["it holds files that are no training store"])
    before = json.loads(marker.read_text())
    differences = list(_differences("", before, json.loads(json.dumps(inputs))))
    if differences and not _holds_no_chunk(out):
        raise OutputConflict(out, differences[:5])
    return (out / "store.json").is_file()


def _holds_no_chunk(out: Path) -> bool:
    """Say whether a build stopped before its first chunk, so that nothing is lost by starting anew."""
    return not (out / "store.json").is_file() and not any((out / "journal").glob("*.json"))


def _differences(key: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            yield from _differences(f"{key}.{name}".lstrip("."), before.get(name), now.get(name))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _differences(f"{key}.{i}", one, other)
    elif before != now:
        yield f"{key} was {_short(before)}, now {_short(now)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse_pictures_for_flux(recipe: DatasetRecipe) -> None:
    ready = [source.name for source in recipe.sources if not source.is_cutouts]
    if recipe.preparation.is_flux and ready:
        raise RecipeError(
            recipe.name, f"source {ready[0]!r} holds ready pictures, and the stretch 'flux' needs a cutout SOURCE"
        )


def _begin(out: Path, inputs: dict[str, Any]) -> None:
    if _holds_no_chunk(out):
        shutil.rmtree(out / "store.zarr", ignore_errors=True)
    (out / "journal").mkdir(exist_ok=True)
    _write_text(out / "inputs.json", json.dumps(inputs, indent=1))


def _write_text(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".partial")
    aside.write_text(text)
    _sync(aside)
    aside.replace(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _create_arrays(out: Path, recipe: DatasetRecipe, tree: DecisionTree, total: int) -> zarr.Group:
    if (out / "store.zarr" / "votes" / "zarr.json").is_file():
        return zarr.open_group(out / "store.zarr", mode="r+")
    side, pixel = recipe.preparation.image_size, np.dtype(recipe.preparation.input_type)
    rows = rows_per_chunk(side, pixel.itemsize)
    group = zarr.open_group(out / "store.zarr", mode="w")
    for name, shape, dtype in (("images", (side, side, 3), pixel), ("votes", (tree.n_answers,), np.dtype(np.int32))):
        group.create_array(
            name, shape=(total, *shape), chunks=(rows, *shape), dtype=dtype, compressors=None, fill_value=0
        )
    return group


@dataclass
class Journal:
    """What is written so far: one entry a chunk; the entry makes the chunk exist."""

    out: Path
    group: zarr.Group
    chunks: int = 0
    next: int = 0
    """First row, counted over all sources, that is not yet written or rejected."""
    rejected: list[tuple[str, str, str]] = field(default_factory=list)
    held_out: dict[str, int] = field(default_factory=dict)
    """Left out because their pixels are those of a held-out galaxy, by source."""

    def __post_init__(self) -> None:
        while (entry := self._path("json")).is_file():
            content = json.loads(entry.read_text())
            self.next = content["next"]
            self.rejected += [tuple(reject) for reject in content["rejected"]]
            self._count(content["held_out"])
            self.chunks += 1

    def _path(self, kind: str) -> Path:
        return self.out / "journal" / f"chunk-{self.chunks:06d}.{kind}"

    def _count(self, names: Sequence[str]) -> None:
        for name in names:
            self.held_out[name] = self.held_out.get(name, 0) + 1

    def galaxies(self) -> pd.DataFrame:
        """Return the galaxies of all finished chunks, in row order."""
        files = [self.out / "journal" / f"chunk-{i:06d}.parquet" for i in range(self.chunks)]
        return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)

    def write(self, chunk: Chunk, following: int) -> None:
        """Write one chunk, then its entry."""
        images: zarr.Array[Any] = self.group["images"]  # type: ignore[assignment]
        start = self.chunks * images.chunks[0]
        n = chunk.rows
        images[start : start + n] = chunk.images[:n]
        votes: zarr.Array[Any] = self.group["votes"]  # type: ignore[assignment]
        votes[start : start + n] = chunk.votes[:n]
        for name, tail in (("images", "0/0/0"), ("votes", "0")):
            file = self.out / "store.zarr" / name / "c" / str(self.chunks) / tail
            if file.exists():
                _sync(file)
        chunk.galaxies().to_parquet(self._path("parquet"), index=False)
        _sync(self._path("parquet"))
        entry = {"next": following, "rejected": chunk.rejected, "held_out": chunk.held_out}
        _write_text(self._path("json"), json.dumps(entry))
        self.rejected += chunk.rejected
        self._count(chunk.held_out)
        self.chunks, self.next = self.chunks + 1, following


@dataclass
class Chunk:
    """The rows of one chunk, in memory."""

    images: NDArray[Any]
    votes: NDArray[np.int32]
    rows: int = 0
    parts: list[tuple[Gathered, list[int], list[str]]] = field(default_factory=list)
    """Source, its rows and their pixels' hashes, in order."""
    rejected: list[tuple[str, str, str]] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)

    @classmethod
    def empty(cls, group: zarr.Group) -> Chunk:
        """Return a chunk of the arrays' size, all zeros."""
        images: zarr.Array[Any] = group["images"]  # type: ignore[assignment]
        votes: zarr.Array[Any] = group["votes"]  # type: ignore[assignment]
        return cls(np.zeros(images.chunks, images.dtype), np.zeros(votes.chunks, np.int32))

    @property
    def is_full(self) -> bool:
        """Whether no further row fits."""
        return self.rows == len(self.images)

    def add(self, source: Gathered, picture: Picture) -> None:
        """Add one galaxy."""
        if not self.parts or self.parts[-1][0] is not source:
            self.parts.append((source, [], []))
        self.images[self.rows] = picture.pixels
        self.votes[self.rows, source.columns] = source.votes[picture.row]
        self.parts[-1][1].append(picture.row)
        self.parts[-1][2].append(picture.sha256)
        self.rows += 1

    def galaxies(self) -> pd.DataFrame:
        """Return one row per galaxy, `GALAXY_COLUMNS` but for the split, and the published split."""
        frames = [_galaxies(source, source.rows.iloc[rows], hashes) for source, rows, hashes in self.parts]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _galaxies(source: Gathered, rows: pd.DataFrame, hashes: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": rows["id"].astype("str"),
            "source": source.recipe.name,
            "campaign": rows["campaign"].astype("str"),
            "ra": rows["ra"],
            "dec": rows["dec"],
            "published": rows["published"].astype("str"),
            "assumed_votes": (rows["campaign"] != "") & source.assumed_votes,
            "image_sha256": hashes,
            "r50": rows["r50"].astype(np.float32),
            "mag": rows["mag"].astype(np.float32),
        }
    )


def _write_chunks(
    recipe: DatasetRecipe, sources: Sequence[Gathered], journal: Journal, workers: Executor, shown: Progress
) -> None:
    forbidden = _held_out_pixels(recipe, sources, workers)
    chunk, first = Chunk.empty(journal.group), 0
    for source in sources:
        name = source.recipe.name
        start = max(0, journal.next - first)
        for answer in pictures(source, source.rows, recipe.preparation, workers, start):
            if isinstance(answer, Reject):
                chunk.rejected.append((name, source.rows["id"].iloc[answer.row], answer.reason))
            elif answer.sha256 in forbidden:
                chunk.held_out.append(name)
            else:
                chunk.add(source, answer)
            if chunk.is_full:
                journal.write(chunk, first + answer.row + 1)
                chunk = Chunk.empty(journal.group)
            shown.advance()
        first += len(source.rows)
    if chunk.rows or chunk.rejected or chunk.held_out:
        journal.write(chunk, first)


def _held_out_pixels(recipe: DatasetRecipe, sources: Sequence[Gathered], workers: Executor) -> frozenset[str]:
    """Hash the held-out galaxies' pictures: they guard sources without positions."""
    if all(np.isfinite(source.rows["ra"]).all() for source in sources):
        return frozenset()
    return frozenset(
        answer.sha256
        for source in sources
        if len(source.held)
        for answer in pictures(source, source.held, recipe.preparation, workers)
        if isinstance(answer, Picture)
    )


def _finish(recipe: DatasetRecipe, sources: Sequence[Gathered], journal: Journal, tree: DecisionTree) -> None:
    out, galaxies = journal.out, journal.galaxies()
    if galaxies.empty:
        shutil.rmtree(out / "journal")
        reason = (
            f"no image could be used, e.g. {': '.join(journal.rejected[0])}" if journal.rejected else "all held out"
        )
        raise TableError(recipe.name, reason)
    galaxies["split"] = assign_splits(galaxies, recipe.splits, recipe.seed)
    for name in ("images", "votes"):
        array: zarr.Array[Any] = journal.group[name]  # type: ignore[assignment]
        array.resize((len(galaxies), *array.shape[1:]))
    aside = out / "galaxies.parquet.partial"
    galaxies[list(GALAXY_COLUMNS)].to_parquet(aside, index=False)
    aside.replace(out / "galaxies.parquet")
    with (out / "rejected.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("source", "id", "reason"), *journal.rejected])
    write_info(out, _describe(recipe, sources, journal, galaxies, tree))
    shutil.rmtree(out / "journal")


def _describe(
    recipe: DatasetRecipe, sources: Sequence[Gathered], journal: Journal, galaxies: pd.DataFrame, tree: DecisionTree
) -> StoreInfo:
    counts = galaxies["source"].value_counts()
    credits = tuple(
        Credit(name=s.name, licence=s.licence, citation=s.citation, galaxies=int(counts.get(s.name, 0)))
        for s in recipe.sources
    )
    held = {s.recipe.name: len(s.held) + journal.held_out.get(s.recipe.name, 0) for s in sources}
    positioned = galaxies.groupby("source", sort=False)["ra"].apply(lambda ra: bool(np.isfinite(ra).all()))
    return StoreInfo(
        simulated=recipe.simulated,
        preparation=recipe.preparation,
        questions=tuple(tree.to_json()),
        galaxies=len(galaxies),
        credits=credits,
        recipe_sha256=recipe_sha256(json.loads((journal.out / "inputs.json").read_text())),
        content_sha256=_content_sha256(galaxies, journal.group["votes"]),  # type: ignore[arg-type]
        rejected=len(journal.rejected),
        held_out={name: n for name, n in held.items() if n},
        without_positions=tuple(str(name) for name, known in positioned.items() if not known),
    )


def _content_sha256(galaxies: pd.DataFrame, votes: zarr.Array[Any]) -> str:
    digest = hashlib.sha256()
    for column in ("source", "id", "split", "image_sha256"):
        digest.update("\n".join(galaxies[column]).encode())
        digest.update(b"\0")
    step = votes.chunks[0]
    for start in range(0, len(galaxies), step):
        digest.update(np.ascontiguousarray(votes[start : start + step]).tobytes())
    return digest.hexdigest()
