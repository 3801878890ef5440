"""Running a study: every cell once, on every core, to be stopped and repeated at any moment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

from gzsurvey import dataset
from gzsurvey.dataset.gather import gather
from gzsurvey.dataset.store import Store
from gzsurvey.errors import RecipeError
from gzsurvey.model.checkpoint import write_aside
from gzsurvey.processes import worker_processes
from gzsurvey.progress import Progress
from gzsurvey.recipes.cluster import cores
from gzsurvey.recipes.dataset import DatasetRecipe, HoldOut, load_dataset_recipe
from gzsurvey.recipes.simulation import load_simulation_recipe
from gzsurvey.recipes.study import StudyRecipe
from gzsurvey.simulation import simulate
from gzsurvey.study import work
from gzsurvey.study.cells import SCRATCH_MODES, Cell, cells, modes, pretrained_arms
from gzsurvey.study.figure import draw_figure
from gzsurvey.study.paths import StudyPaths
from gzsurvey.study.results import collect_results
from gzsurvey.study.table import as_markdown
from gzsurvey.study.tasks import Task, check_held_out, load_task, prepare_tasks
from gzsurvey.training import job
from gzsurvey.votes.tree import DecisionTree

Job = tuple[Callable[..., None], tuple[Any, ...]]
"""A function of `gzsurvey.study.work` and its arguments."""


def study(recipe: StudyRecipe, out: Path, device: str = "auto", workers: int | None = None) -> str:
    """Run the paper's experiment and say what it shows.

    Arms times numbers of labels times seeds. Repeating it on its own OUT fills the cells that are missing.
    Worker processes are spawned: call it from under ``if __name__ == "__main__"`` in a script.

    Parameters
    ----------
    recipe : StudyRecipe
        Data, arms, tasks.
    out : Path
        OUT; `gzsurvey.study.paths` says what it will hold.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    workers : int, optional
        Processes side by side. Default: every core, or one on a GPU.

    Returns
    -------
    str
        The table, as Markdown; ``OUT/results.json`` and ``results.png`` hold the same.

    Raises
    ------
    gzsurvey.errors.OutputConflict
        OUT was made by another study.
    gzsurvey.errors.OutputBusy
        Another process fills OUT.
    gzsurvey.errors.TrainingError
        A test galaxy is among the pretraining galaxies, or an arm cannot be trained.
    """
    paths = StudyPaths(out)
    chosen = job.choose_device(device)
    description = {"recipe": recipe.model_dump(mode="json")}
    with job.claimed(out, description) as finished:
        if not finished:
            store, root = _store(recipe, paths)
            prepare_tasks(recipe, root, store, out / "tasks")
        tasks = {task.name: load_task(task.name, out / "tasks") for task in recipe.tasks}
        if not finished:
            write_aside(paths.held_out, json.dumps(check_held_out(tasks, Store(paths.store)), indent=1).encode())
            _fill(recipe, tasks, out, chosen.type, workers or (1 if chosen.type == "cuda" else cores()))
        results = collect_results(recipe, tasks, out)
        text = as_markdown(results)
        write_aside(paths.result("json"), json.dumps(results, indent=1).encode())
        write_aside(paths.result("md"), text.encode())
        draw_figure(results, paths.result("png"))
        job.finish(out, description)
    return text


def _store(recipe: StudyRecipe, paths: StudyPaths) -> tuple[Store, Path]:
    """Build what is pretrained on; return it and the folder that tables of labels lie in."""
    if recipe.dataset.recipe is None:
        overrides = [f"{key}={value}" for key, value in recipe.sky.items()]
        simulate(load_simulation_recipe("simulate", overrides), paths.sky)
        root, name, more = paths.sky, str(paths.sky / "dataset.yaml"), []
    elif recipe.data is None:
        raise RecipeError(recipe.name, "says nothing about where your data is: add --set data=FOLDER")
    else:
        root, name, more = Path(recipe.data), recipe.dataset.recipe, [f"data={recipe.data}"]
    splits = [f"splits.{part}={share}" for part, share in recipe.dataset.splits.items()]
    loaded = load_dataset_recipe(name, [*more, *splits])
    if loaded.preparation.is_flux:
        raise RecipeError(recipe.name, "compares networks of pictures; its dataset must not keep flux")
    return dataset.build(_holding_out(loaded, recipe.dataset.hold_out), paths.store), root


def _holding_out(recipe: DatasetRecipe, sources: Sequence[str]) -> DatasetRecipe:
    """Hold every galaxy of some sources out of all of them: by id, position and pixels."""
    if not sources:
        return recipe
    known = [source.name for source in recipe.sources]
    unknown = [name for name in sources if name not in known]
    if unknown:
        raise RecipeError(recipe.name, f"has no source {unknown[0]!r} to hold out; it has {', '.join(known)}")
    own = tuple(source for source in recipe.sources if source.name in sources)
    gathered = gather(recipe.model_copy(update={"sources": own}), DecisionTree.load(recipe.answers))
    ids = tuple(str(i) for source in gathered for i in source.rows["id"])
    return recipe.model_copy(update={"hold_out": (*recipe.hold_out, HoldOut(ids=ids))})


def _fill(recipe: StudyRecipe, tasks: dict[str, Task], out: Path, device: str, workers: int) -> None:
    """Fill every cell: what needs no pretraining first beside the pretrainings, then the rest."""
    every = list(cells(recipe, tasks))
    pretrained = [cell for cell in every if cell.arm not in SCRATCH_MODES]
    scratch = [cell for cell in every if cell.arm in SCRATCH_MODES]
    first: list[Job] = [
        (work.pretrain_arm, (recipe, out, arm, p, device))
        for p in range(recipe.pretraining_seeds)
        for arm in pretrained_arms(recipe)
    ]
    Progress.say(
        f"study ({recipe.name}): {len(first)} pretrainings, {len(every)} cells, {workers} side by side; "
        f"{out}/pretrained/*/metrics.jsonl say how far a pretraining is"
    )
    with worker_processes(workers, partial(work.begin, max(1, cores() // workers))) as pool:
        _run(pool, "pretrain", [*first, *_embeddings(recipe, scratch, out, device)])
        _run(pool, "embed", list(_embeddings(recipe, pretrained, out, device)))
        _run(pool, "cells", [(work.fill_cell, (recipe, out, cell, device)) for cell in (*scratch, *pretrained)])


def _embeddings(recipe: StudyRecipe, some: Sequence[Cell], out: Path, device: str) -> Iterator[Job]:
    frozen = dict.fromkeys((c.task, c.encoder) for c in some if "linear" in modes(recipe, c.arm))
    return ((work.embed_task, (recipe, out, task, encoder, device)) for task, encoder in frozen)


def _run(pool: ProcessPoolExecutor, label: str, jobs: Sequence[Job]) -> None:
    """Run jobs side by side; an error of one ends the study, what is done is kept."""
    shown = Progress(f"study ({label})", len(jobs), label if label == "cells" else "jobs")
    for future in as_completed([pool.submit(function, *arguments) for function, arguments in jobs]):
        future.result()
        shown.advance()
    shown.finish()
