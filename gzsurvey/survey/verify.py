"""Is a published RUN what it was: checksums, products that agree row by row, rows recomputed from pixels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gzsurvey.errors import RecipeError, VerificationFailed
from gzsurvey.outputs.columns import Layout
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.provenance import sha256_of
from gzsurvey.outputs.zarr import shard_file
from gzsurvey.survey import ledger
from gzsurvey.survey.agreement import Agreement
from gzsurvey.survey.checksums import read_checksums
from gzsurvey.survey.describe import provenance
from gzsurvey.survey.finished import FinishedRun
from gzsurvey.survey.recompute import Recomputed, recompute
from gzsurvey.survey.record import read_record


@dataclass(frozen=True)
class Verification:
    """What was verified of a RUN without a fault."""

    run: str
    files: int
    """Products whose checksums hold."""
    shards: int
    rows: int
    """Compared between the products."""
    recomputed: Recomputed

    def __str__(self) -> str:
        return (
            f"{self.run}: {self.files} files and {self.shards} shards have the checksums on record; {self.rows:,} rows "
            f"are the same in all products; {self.recomputed}"
        )


def verify(run_dir: Path, ids: str | None = None) -> Verification:
    """Check that the products of a RUN are undamaged, and belong together.

    Checksums of all files; every row of the catalogues, of ``hats/``, of ``missing.ecsv`` and the
    coverage maps against ``predictions.zarr``; ids unique; a sample of rows recomputed from pixels.

    Parameters
    ----------
    run_dir : Path
        A published RUN.
    ids : str, optional
        A table of the targets to recompute; by default the random ones of ``checks/``.

    Returns
    -------
    Verification
        Nothing is wrong.

    Raises
    ------
    gzsurvey.errors.VerificationFailed
        Names every file, and the block, row and column, that is not as it should be.
    gzsurvey.errors.RecipeError
        The directory is no RUN, or is not published.
    """
    paths = RunPaths(run_dir)
    if not paths.checksums.is_file():
        read_record(run_dir)
        raise RecipeError(str(run_dir), f"has no {paths.checksums.name}; make it with 'gzsurvey publish'")
    sums = dict(read_checksums(paths))
    damaged = dict(_faults(sums))
    problems = [f"{path.relative_to(run_dir)} {fault}" for path, fault in damaged.items()]
    entries = ledger.read_entries(run_dir)
    shards = dict(_damaged_shards(paths, entries))
    problems += [f"{paths.zarr.name}/{name}: block {block} {fault}" for (block, name), fault in shards.items()]
    needed = _needed(paths) & set(damaged)
    if needed:
        problems.append(f"rows were not compared, since {sorted(path.name for path in needed)[0]} is damaged")
        raise VerificationFailed(run_dir, problems)
    sound = {number: entry for number, entry in entries.items() if number not in {block for block, _ in shards}}
    record = read_record(run_dir)
    run = FinishedRun(run_dir, record, {n: entry for n, entry in sound.items() if entry.state == "done"})
    layout = _layout(run)
    problems += Agreement(run, layout, frozenset(damaged), frozenset(block for block, _ in shards)).problems()
    if not damaged and not shards:
        written = json.loads(paths.provenance.read_bytes())
        problems += _beside_provenance(provenance(run, layout, sums).to_json(), written)
    recomputed = recompute(run, ids)
    problems += recomputed.problems
    if problems:
        raise VerificationFailed(run_dir, problems)
    n_shards, _ = ledger.digest(run_dir, run.entries)
    return Verification(str(run_dir), len(sums), n_shards, record.rows, recomputed)


def _faults(sums: dict[Path, str]) -> Iterator[tuple[Path, str]]:
    for path, digest in sums.items():
        if not path.is_file():
            yield path, "is missing"
        elif sha256_of(path) != digest:
            yield path, "is not the file that was published (its checksum differs)"


def _damaged_shards(paths: RunPaths, entries: Iterable[int]) -> Iterator[tuple[tuple[int, str], str]]:
    for number, name, shard in ledger.shards(paths.run, entries):
        file = shard_file(paths.zarr, name, number)
        if not file.is_file():
            yield (number, name), "is missing"
        elif sha256_of(file) != shard.sha256:
            yield (number, name), "is damaged (its checksum differs)"


def _beside_provenance(expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    for part, facts in json.loads(json.dumps(expected)).items():
        for name, values in facts.items():
            if found.get(part, {}).get(name) != values:
                yield f"provenance.json: {part} {name} is not what the products and the plan say"


def _needed(paths: RunPaths) -> set[Path]:
    """Return what must be sound before rows can be compared."""
    metadata = paths.zarr.glob("**/zarr.json")
    return {paths.plan, paths.targets, paths.model, paths.provenance, *metadata}


def _layout(run: FinishedRun) -> Layout:
    """Return the columns that `publish` was asked for, as the provenance says."""
    activity = json.loads(run.paths.provenance.read_bytes())["activity"]["gzsurvey:run"]
    campaigns = tuple(json.loads(activity["gzsurvey:campaigns"]))
    return Layout(run.card, campaigns, run.stored, "full", json.loads(activity["gzsurvey:prevalence"]))
