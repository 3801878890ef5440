"""Drawing a whole survey into a directory: in parallel, repeatable, and to be resumed."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gzsurvey.errors import OutputConflict, RecipeError
from gzsurvey.lock import alone_in, is_empty
from gzsurvey.processes import worker_processes
from gzsurvey.progress import Progress
from gzsurvey.recipes.cluster import cores
from gzsurvey.recipes.simulation import SimulationRecipe
from gzsurvey.simulation.layout import Field, Tile, lay_out, tiles
from gzsurvey.simulation.mosaic import write_tile
from gzsurvey.simulation.population import population
from gzsurvey.simulation.stamps import encode, stamps
from gzsurvey.simulation.tables import (
    Training,
    write_answers,
    write_dataset_recipe,
    write_targets,
    write_truth,
    write_votes,
)

STAMPS_PER_TASK = 64
ANSWERS_PER_TASK = 2048
_SERIAL_BELOW = 150
"""Galaxies that are drawn sooner than worker processes start."""
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)

Task = tuple[Callable[..., None], tuple[object, ...], int]
"""A function, its arguments, and how many galaxies it draws."""


@dataclass(frozen=True, slots=True)
class SimulatedSurvey:
    """What `simulate` made."""

    out: Path
    targets: int
    training: int
    tiles: int

    def __str__(self) -> str:
        return (
            f"{self.out}: {self.targets:,} targets on {self.tiles} tiles in g, r, z, "
            f"{self.training:,} training stamps. Next: gzsurvey dataset build {self.out}/dataset.yaml STORE"
        )


def simulate(recipe: SimulationRecipe, out: Path) -> SimulatedSurvey:
    """Draw a simulated survey.

    Uses every core that this process may use, in processes of their own: call it from
    under ``if __name__ == "__main__"`` in a script.

    Parameters
    ----------
    recipe : SimulationRecipe
        What to draw.
    out : Path
        Directory to make. If it holds a part of the same survey, the rest is drawn.

    Raises
    ------
    gzsurvey.errors.OutputConflict
        `out` holds another simulated survey.
    gzsurvey.errors.OutputBusy
        Another process draws there.
    gzsurvey.errors.RecipeError
        `out` is a directory of something else.
    """
    fields = lay_out(recipe)
    cut = [(field, tile) for field in fields for tile in tiles(field, recipe.tile_px, recipe.overlap_px)]
    made = SimulatedSurvey(out, recipe.targets, recipe.training, len(cut))
    if not _is_finished(recipe, out):
        with alone_in(out):
            _begin(recipe, out)
            _draw(recipe, out, cut)
            _tables(recipe, out, fields)
            _write_state(recipe, out, finished=True)
    return made


def _state(recipe: SimulationRecipe) -> dict[str, object]:
    content: dict[str, object] = json.loads(recipe.model_dump_json())
    return content


def _is_finished(recipe: SimulationRecipe, out: Path) -> bool:
    """Say whether `out` is this very survey, complete; refuse a directory of something else."""
    path = out / "simulation.json"
    if not path.exists():
        if out.exists() and not is_empty(out):
            raise RecipeError(str(out), "is not empty and no simulated survey; choose another directory")
        return False
    before = json.loads(path.read_text())
    now = _state(recipe)
    differences = [
        f"{key} was {before['recipe'].get(key)}, now {now[key]}" for key in now if before["recipe"].get(key) != now[key]
    ]
    if differences:
        raise OutputConflict(out, differences)
    return bool(before["finished"])


def _begin(recipe: SimulationRecipe, out: Path) -> None:
    for name in ("mosaic", "votes", "truth", "partial"):
        (out / name).mkdir(exist_ok=True)
    _write_state(recipe, out, finished=False)


def _write_state(recipe: SimulationRecipe, out: Path, finished: bool) -> None:
    aside = out / "simulation.json.partial"
    aside.write_text(json.dumps({"recipe": _state(recipe), "finished": finished}, indent=1))
    aside.replace(out / "simulation.json")


def _draw(recipe: SimulationRecipe, out: Path, cut: Sequence[tuple[Field, Tile]]) -> None:
    tasks: list[Task] = [(write_tile, (field, tile, out / "mosaic"), len(field.near(tile))) for field, tile in cut]
    training, parts = Training(recipe), []
    for path, first in _answers(recipe, out):
        rows = np.arange(first, min(first + ANSWERS_PER_TASK, recipe.training))
        tasks.append((write_answers, (recipe, rows, path), 0))
    for number, (region, rows) in enumerate(_batches(training)):
        parts.append(out / "partial" / f"stamps_{number:06d}.zip")
        tasks.append((write_stamps, (recipe, region, training.ids[rows], parts[-1]), len(rows)))
    progress = Progress("simulate", sum(weight for _, _, weight in tasks), "galaxies")
    for weight in _run(tasks):
        progress.advance(weight)
    progress.finish()
    if not (out / "stamps.zip").exists():
        _join(parts, out / "stamps.zip")


def _answers(recipe: SimulationRecipe, out: Path) -> list[tuple[Path, int]]:
    """Return where answers go, part by part, and the first training galaxy of each part."""
    starts = range(0, recipe.training, ANSWERS_PER_TASK)
    return [(out / "partial" / f"answers_{number:06d}.npz", first) for number, first in enumerate(starts)]


def _batches(training: Training) -> Iterator[tuple[int, NDArray[np.int64]]]:
    for region in range(len(training.recipe.regions)):
        rows = np.flatnonzero(training.region == region)
        for start in range(0, len(rows), STAMPS_PER_TASK):
            yield region, rows[start : start + STAMPS_PER_TASK]


def _run(tasks: Sequence[Task]) -> Iterator[int]:
    """Run tasks in processes, or here when they are few; yield the weight of each as it ends."""
    if cores() == 1 or sum(weight for _, _, weight in tasks) < _SERIAL_BELOW:
        for function, arguments, weight in tasks:
            function(*arguments)
            yield weight
        return
    with worker_processes(cores()) as pool:
        running: dict[Future[None], int] = {
            pool.submit(function, *arguments): weight for function, arguments, weight in tasks
        }
        for future in as_completed(running):
            future.result()
            yield running[future]


def write_stamps(recipe: SimulationRecipe, region: int, ids: NDArray[np.int64], path: Path) -> None:
    """Draw some training galaxies into a zip of their own; one that exists is complete."""
    if path.exists():
        return
    galaxies = population(recipe.seed, (int(i) for i in ids))
    drawn = dict(stamps(galaxies, recipe.regions[region], recipe.stamps))
    aside = path.with_name(path.name + ".partial")
    with zipfile.ZipFile(aside, "w") as archive:
        for row, galaxy in enumerate(galaxies):
            archive.writestr(zipfile.ZipInfo(f"{galaxy['id']}.png", _ZIP_DATE), encode(drawn[row]))
    aside.replace(path)


def _join(parts: Sequence[Path], path: Path) -> None:
    aside = path.with_name(path.name + ".partial")
    with zipfile.ZipFile(aside, "w") as whole:
        for part in parts:
            with zipfile.ZipFile(part) as archive:
                for name in archive.namelist():
                    whole.writestr(zipfile.ZipInfo(name, _ZIP_DATE), archive.read(name))
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)


def _tables(recipe: SimulationRecipe, out: Path, fields: list[Field]) -> None:
    training = Training(recipe)
    write_targets(fields, out / "targets.fits")
    write_truth(fields, out / "truth.fits")
    write_votes(training, [path for path, _ in _answers(recipe, out)], out)
    write_dataset_recipe(recipe, training, out / "dataset.yaml")
    for part in sorted((out / "partial").iterdir()):
        part.unlink()
    (out / "partial").rmdir()
