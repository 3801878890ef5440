"""The products of a RUN in another folder: as hard links, or as copies on another disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from gzsurvey.deposit.paths import ReleasePaths
from gzsurvey.errors import RecipeError, RunIncomplete, VerificationFailed
from gzsurvey.outputs.provenance import sha256_of
from gzsurvey.outputs.zarr import shard_file
from gzsurvey.progress import Progress
from gzsurvey.survey import ledger
from gzsurvey.survey.checksums import Sums, read_checksums
from gzsurvey.survey.finished import FinishedRun


def require_published(run: FinishedRun) -> None:
    """Refuse a RUN that is not finished, not published, or went on after it was published.

    Raises
    ------
    gzsurvey.errors.RunIncomplete
        Blocks are not finished: their targets would have status 40.
    gzsurvey.errors.RecipeError
        It has no catalogue yet.
    gzsurvey.errors.VerificationFailed
        Its provenance or its blocks are not those that were published.
    """
    left = run.record.n_blocks - len(run.entries)
    if left:
        cause = "a release holds finished runs only"
        raise RunIncomplete(run.run_dir, left, run.record.n_blocks, cause)
    if not run.paths.checksums.is_file():
        raise RecipeError(str(run.run_dir), f"has no {run.paths.checksums.name}; make it with 'gzsurvey publish'")
    provenance = run.paths.provenance
    if not provenance.is_file() or sha256_of(provenance) != dict(read_checksums(run.paths)).get(provenance):
        raise VerificationFailed(run.run_dir, [f"{provenance.name} is not the file that was published"])
    document = json.loads(provenance.read_bytes())
    published = document["entity"][f"gzsurvey:product-{run.paths.zarr.stem}"]["gzsurvey:shards_sha256"]
    if published != ledger.digest(run.run_dir, run.entries)[1]:
        problem = f"{run.paths.zarr.name} changed after it was published; publish the run again"
        raise VerificationFailed(run.run_dir, [problem])


def take_products(run: FinishedRun, folder: Path) -> Sums:
    """Link or copy everything that was published of a RUN, and check it on the way.

    Parameters
    ----------
    run : FinishedRun
        A published RUN.
    folder : Path
        Where the files get the places that they have in the RUN.

    Returns
    -------
    dict of Path to str
        The sha256 of every file of `folder`.

    Raises
    ------
    gzsurvey.errors.VerificationFailed
        Files are missing, or not those that were published.
    """
    recorded = dict(_published(run))
    files = sorted({*recorded, *_beside(run)})
    sums, problems = Sums(), []
    for path in Progress("release", len(files), "files").watch(files):
        name = path.relative_to(run.run_dir)
        if not path.is_file():
            problems.append(f"{name} is missing")
            continue
        place = folder / name
        _link(path, place)
        sums[place] = sha256_of(place)
        if sums[place] != recorded.get(path, sums[place]):
            problems.append(f"{name} is not the file that was published (its checksum differs)")
    if problems:
        raise VerificationFailed(run.run_dir, problems)
    return sums


def _published(run: FinishedRun) -> Iterator[tuple[Path, str]]:
    """Yield every file with a checksum on record; what an earlier release added is made anew."""
    added = set(ReleasePaths(run.run_dir).files)
    yield from ((path, digest) for path, digest in read_checksums(run.paths) if path not in added)
    for number, name, shard in ledger.shards(run.run_dir, run.entries):
        yield shard_file(run.paths.zarr, name, number), shard.sha256


def _beside(run: FinishedRun) -> Iterator[Path]:
    """Yield the files without a checksum on record: the ledger, indices of the sources, the page of the run."""
    yield from (run.paths.ledger_entry(number) for number in run.entries)
    yield from (run.run_dir / source.index for source in run.record.sources if source.index)
    if run.paths.report.is_file():
        yield run.paths.report


def _link(path: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, place)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(path, place)
