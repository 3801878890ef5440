"""What a run will cost: disk, requests, bytes to fetch, time, hours of GPUs; refused where it cannot be paid."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gzsurvey.cutouts.source import Demand, RemoteSource
from gzsurvey.errors import RecipeError
from gzsurvey.inference.provider import CPU
from gzsurvey.outputs.zarr import ArraySpec
from gzsurvey.progress import duration
from gzsurvey.recipes.remote import Politeness
from gzsurvey.sky.blocks import count
from gzsurvey.sky.targets import TargetTable
from gzsurvey.survey.draft import DraftedTargets
from gzsurvey.survey.preview import Look
from gzsurvey.survey.targets_file import read_block_targets

SPARE_DISK = 1.3
"""Products made from the Zarr store take about a third of it again."""
TIMES_SPOOLED = 3.5
"""While targets are sorted they are on disk as read, in runs to be merged, and in order: 3.3 times for 10^8 of them."""
BLOCKS_ASKED = 32
"""Blocks by which the requests of a longer run are estimated."""
DAY = 86_400.0


@dataclass(frozen=True)
class Room:
    """A disk, and what a target takes of it."""

    where: Path
    """For the message."""
    bytes_per_target: float
    free: int
    """Before anything was written."""

    @classmethod
    def of(cls, where: Path, bytes_per_target: float) -> Room:
        """Measure the disk of a place that need not exist yet."""
        parent = next(path for path in (where.absolute(), *where.absolute().parents) if path.is_dir())
        return cls(where, bytes_per_target, shutil.disk_usage(parent).free)

    def check(self, targets: int) -> None:
        """Refuse more targets than there is room for.

        Raises
        ------
        gzsurvey.errors.RecipeError
            Says how much is needed, and how much there is.
        """
        needed = targets * self.bytes_per_target
        if needed > self.free:
            raise RecipeError(
                str(self.where),
                f"needs {size(needed)} for {targets:,} targets, and its disk has {size(self.free)} free; "
                "choose another disk",
            )


def bytes_to_sort(table: TargetTable) -> float:
    """Return what a target takes of the disk while targets are sorted."""
    roles = table.roles
    columns = 5 + bool(roles.r50) + bool(roles.r90) + bool(roles.image) + len(table.kept)
    return 8.0 * columns * TIMES_SPOOLED


def bytes_of_results(arrays: Sequence[ArraySpec]) -> int:
    """Return what a target takes of ``predictions.zarr``, before compression."""
    return sum(spec.bytes_per_row for spec in arrays)


def demand(source: RemoteSource, targets: DraftedTargets) -> Demand:
    """Return what a run will ask of a host: block by block, for a long run by some of its blocks."""
    blocks = count(targets.rows, targets.block_rows)
    asked = np.unique(np.linspace(0, blocks - 1, min(blocks, BLOCKS_ASKED)).astype(int))
    found, rows = [], []
    for block in asked.tolist():
        columns = read_block_targets(targets.folder, block, ["ra", "dec", "cutout_width"])
        found.append(source.demand(columns["ra"], columns["dec"], columns["cutout_width"]))
        rows.append(len(columns["ra"]))
    share = targets.rows / sum(rows)
    per_target = {part.requests / n for part, n in zip(found, rows, strict=True)}
    return replace(
        found[0],
        requests=round(sum(part.requests for part in found) * share),
        bytes=sum(part.bytes for part in found) * share,
        estimated=len(asked) < blocks and len(per_target) > 1,
    )


def check_politeness(demands: Sequence[Demand], politeness: Politeness) -> None:
    """Refuse a run that would ask one host for too long.

    Raises
    ------
    gzsurvey.errors.RecipeError
        Says for how long.
    """
    for asked in demands:
        if asked.seconds > politeness.longest_days * DAY:
            raise RecipeError(
                asked.host,
                f"{asked.requests:,} requests at {asked.requests_per_s:g} a second take {duration(asked.seconds)}, "
                f"more than the {politeness.longest_days:g} days of politeness.longest_days; use images on your disk, "
                "or fewer targets",
            )


def estimate(
    targets: DraftedTargets, workers: int, provider: str, seen: Look, demands: Sequence[Demand]
) -> dict[str, float]:
    """Return what a run takes, by name.

    Returns
    -------
    dict of str to float
        ``bytes`` of results, ``workers``; where a sample was looked at ``seconds``, and ``gpu_hours`` where the
        model runs on GPUs.
    """
    found = {"bytes": float(targets.rows * bytes_of_results(targets.arrays)), "workers": float(workers)}
    if not seen.asked:
        return found
    work = seen.seconds_per_target * targets.rows
    found |= {"seconds": max([work / workers, *(asked.seconds for asked in demands)])}
    return found if provider == CPU else found | {"gpu_hours": found["seconds"] * workers / 3600}


def lines(costs: dict[str, float]) -> list[str]:
    """Return what a user should know of an `estimate`."""
    found = [f"{size(costs.get('bytes', 0))} of results"]
    if "seconds" in costs:
        hours = f", {costs['gpu_hours']:,.1f} GPU-hours" if "gpu_hours" in costs else ""
        workers = int(costs["workers"])
        found.append(
            f"about {duration(costs['seconds'])} on {workers} workers{hours}, measured on a few random targets"
        )
    return found


def size(number: float) -> str:
    """Return bytes as a short text: ``12 MB``, ``1.3 TB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
