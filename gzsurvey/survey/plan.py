"""The plan of a run: which targets, which blocks, what it will cost; refuses what cannot work."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gzsurvey.card import EMBEDDING
from gzsurvey.cutouts.open import check_source, open_source
from gzsurvey.cutouts.source import Demand, RemoteSource
from gzsurvey.errors import DiskFull, RecipeError
from gzsurvey.inference import OnnxModel, choose_batch_size
from gzsurvey.outputs.embedding import KeptEmbedding, Loss
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import ArraySpec, create_arrays, settle
from gzsurvey.recipes.cluster import ClusterProfile
from gzsurvey.sky.footprint import parse_footprint
from gzsurvey.sky.targets import TargetTable
from gzsurvey.survey import costs, ledger
from gzsurvey.survey.draft import DraftedTargets, draft_targets, expected_arrays, open_target_table
from gzsurvey.survey.inputs import absolute, identity, short_names, targets_sha256
from gzsurvey.survey.job import Job
from gzsurvey.survey.job_array import write_job_array
from gzsurvey.survey.layout import group_attributes
from gzsurvey.survey.preview import Look, draw, look, sample_rows
from gzsurvey.survey.record import (
    ColumnRecord,
    CutRecord,
    PlannedModel,
    RunRecord,
    SourceRecord,
    check_same,
    read_record,
    write_record,
)
from gzsurvey.survey.targets_file import read_some_targets
from gzsurvey.survey.worker import NO_SPACE

OURS = {"run.json", "run.lock", "aside", "targets.parquet", "model.onnx", "predictions.zarr", "ledger", "preview.png",
        "environment.txt", "moc"}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A planned run."""

    run: Path
    record: RunRecord
    look: Look | None = None
    """None: the RUN was planned before."""
    script: Path | None = None
    """Of its job array."""

    def __str__(self) -> str:
        record = self.record
        lines = [f"{self.run}: {record.rows:,} targets in {record.n_blocks:,} blocks of {record.block_rows:,}"]
        lines += [f"  {cut.name}: {cut.before:,} -> {cut.after:,}" for cut in record.cuts if cut.before != cut.after]
        lines += [f"  {note}" for note in record.notes]
        lines += [f"  {line}" for line in costs.lines(record.estimate)]
        lines += [f"  {line}" for line in self.look.lines()] if self.look else ["  planned before; nothing to change"]
        lines += [f"  job array: sbatch {shlex.quote(str(self.script))}"] if self.script else []
        return "\n".join(lines)


@dataclass(frozen=True)
class _Asked:
    """What is asked for, checked as far as it can be before targets are read."""

    job: Job
    model: OnnxModel
    indexes: tuple[Path | None, ...]
    inputs: dict[str, Any]
    targets_sha256: dict[str, str]


@dataclass(frozen=True)
class _Draft:
    """Everything known before anything of the RUN is written."""

    asked: _Asked
    model: OnnxModel
    """With the batch size of the run."""
    targets: DraftedTargets
    look: Look
    loss: Loss | None
    """Of what is kept of embeddings, as the sample shows it."""
    record: RunRecord

    @property
    def arrays(self) -> tuple[ArraySpec, ...]:
        """Those of the run; the embedding's says what is lost of it."""
        lost = {} if self.loss is None else {"loss_in_sample": asdict(self.loss)}
        return tuple(
            replace(spec, attributes=spec.attributes | lost) if spec.name == EMBEDDING else spec
            for spec in self.targets.arrays
        )


def plan(job: Job, run: Path, cluster: ClusterProfile, sbatch: int | None = None) -> Plan:
    """Plan a run: read and cut the targets, make the arrays, take a first look.

    Targets pass chunk by chunk and are sorted on the disk of RUN: memory does not grow with their number.

    Parameters
    ----------
    job : Job
        What is asked for.
    run : Path
        The RUN directory. Planned before from the same inputs: kept as it is.
    cluster : ClusterProfile
        Where the run will be worked on: says into how many blocks to cut it.
    sbatch : int, optional
        Write the script of a SLURM job array of so many parts, and cut blocks for these.

    Raises
    ------
    gzsurvey.errors.OutputConflict
        RUN was planned from other inputs.
    gzsurvey.errors.GZSurveyError
        Model, targets and source do not fit, or there is no room.
    """
    planned = _plan(job, run, sbatch or cluster.expected_workers)
    return planned if sbatch is None else replace(planned, script=write_job_array(run, sbatch, cluster))


def _plan(job: Job, run: Path, workers: int) -> Plan:
    asked = _asked(job)
    if RunPaths(run).plan.exists():
        record = read_record(run)
        check_same(run, record.inputs, asked.inputs)
        return Plan(run, record)
    table = open_target_table(job, asked.model.card, asked.indexes)
    to_sort, results = _bytes_per_target(asked, table)
    room = costs.Room.of(run, max(to_sort, to_sort / costs.TIMES_SPOOLED + results))
    with _new_run(run) as folder:
        return _write(run, _draft(asked, table, folder, workers, [room]))


def dry_run(job: Job, run: Path, cluster: ClusterProfile, sbatch: int | None = None) -> Plan:
    """Return what `plan` would do, with the same arguments, and write nothing in RUN.

    Targets are sorted in the system's folder for temporary files (``TMPDIR``).

    Raises
    ------
    gzsurvey.errors.GZSurveyError
        Model, targets and source do not fit, or there is no room.
    """
    asked = _asked(job)
    _check_empty(run)
    table = open_target_table(job, asked.model.card, asked.indexes)
    to_sort, results = _bytes_per_target(asked, table)
    with tempfile.TemporaryDirectory(prefix="gzsurvey-plan-") as folder:
        rooms = [costs.Room.of(Path(folder), to_sort), costs.Room.of(run, to_sort / costs.TIMES_SPOOLED + results)]
        draft = _draft(asked, table, Path(folder), sbatch or cluster.expected_workers, rooms)
        return Plan(run, draft.record, draft.look)


def _asked(job: Job) -> _Asked:
    model = OnnxModel(job.model, job.recipe.provider)
    indexes = tuple(
        check_source(absolute(spec), model.card.preparation, politeness=job.recipe.politeness) for spec in job.sources
    )
    hashes = targets_sha256(job.targets)
    return _Asked(job, model, indexes, identity(job, model.sha256, hashes, indexes), hashes)


def _bytes_per_target(asked: _Asked, table: TargetTable) -> tuple[float, float]:
    """Return what a target takes of a disk while it is sorted, and when its results are there."""
    results = costs.bytes_of_results(expected_arrays(asked.job, asked.model.card, table))
    return costs.bytes_to_sort(table), results * costs.SPARE_DISK


@contextmanager
def _new_run(run: Path) -> Iterator[Path]:
    """Hold a directory that becomes a RUN, and yield a folder in it; after an error nothing new is left."""
    _check_empty(run)
    fresh = not run.exists()
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(str(run), f"cannot be made ({error.strerror}); choose another place") from None
    if not os.access(run, os.W_OK):
        raise RecipeError(str(run), "cannot be written to; choose another place, or change its permissions")
    with ledger.locked(run):
        try:
            ledger.clean(run)
            yield RunPaths(run).aside / "draft"
        except BaseException as error:
            shutil.rmtree(run if fresh else RunPaths(run).aside, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                raise DiskFull(run) from None
            raise
        shutil.rmtree(RunPaths(run).aside / "draft", ignore_errors=True)


def _check_empty(run: Path) -> None:
    strangers = [path.name for path in run.iterdir() if path.name not in OURS] if run.is_dir() else []
    if strangers:
        raise RecipeError(str(run), f"holds other files (e.g. {strangers[0]}); choose a new directory for the run")


def _draft(asked: _Asked, table: TargetTable, folder: Path, workers: int, rooms: Sequence[costs.Room]) -> _Draft:
    def room(targets: int) -> None:
        for disk in rooms:
            disk.check(targets)

    if table.rows is not None and not table.is_cut:
        room(table.rows)
    targets = draft_targets(asked.job, asked.model.card, table, folder, workers, room)
    model = _with_its_batch(asked.job, asked.model)
    seen, demands = _look(asked, model, targets)
    costs.check_politeness(demands, asked.job.recipe.politeness)
    loss = KeptEmbedding(model.card, asked.job.recipe.embedding).loss(seen.embeddings)
    return _Draft(asked, model, targets, seen, loss, _record(asked, model, targets, workers, seen, demands, loss))


def _with_its_batch(job: Job, model: OnnxModel) -> OnnxModel:
    """Return the model with the batch size of the run, measured where it is to be chosen."""
    wanted = job.images_per_batch
    size = choose_batch_size(job.model, job.recipe.provider) if wanted == "auto" else wanted
    return model if size == model.batch_size else OnnxModel(job.model, job.recipe.provider, 1, size)


def _write(run: Path, draft: _Draft) -> Plan:
    paths, record, job = RunPaths(run), draft.record, draft.asked.job
    shutil.copyfile(job.model, paths.aside / "model.onnx")
    settle(paths.aside / "model.onnx", paths.model)
    for source, index in zip(record.sources, draft.asked.indexes, strict=True):
        if index is not None and source.index:
            shutil.copyfile(index, paths.aside / "index")
            settle(paths.aside / "index", run / source.index)
    settle(RunPaths(draft.targets.folder).targets, paths.targets)
    attributes = group_attributes(draft.model.card, draft.model.sha256, job.campaigns)
    create_arrays(paths.zarr, draft.arrays, record.rows, record.block_rows, attributes)
    _write_surroundings(job, run, draft)
    write_record(run, record)
    return Plan(run, record, draft.look)


def _write_surroundings(job: Job, run: Path, draft: _Draft) -> None:
    paths = RunPaths(run)
    if draft.look.asked:
        draw(draft.look, draft.model.card, paths.preview)
    packages = sorted({f"{d.name}=={d.version}" for d in importlib.metadata.distributions()}, key=str.lower)
    system = f"# Python {platform.python_version()} on {platform.platform()}"
    paths.environment.write_text("\n".join([system, *packages]) + "\n", encoding="utf-8")
    if job.footprint is not None:
        paths.moc.mkdir(exist_ok=True)
        moc = parse_footprint(job.footprint).moc()
        moc.save(paths.moc / "footprint.fits", format="fits", overwrite=True)


def _record(
    asked: _Asked,
    model: OnnxModel,
    targets: DraftedTargets,
    workers: int,
    seen: Look,
    demands: Sequence[Demand],
    loss: Loss | None,
) -> RunRecord:
    job = asked.job
    names = short_names(specs := [absolute(spec) for spec in job.sources])
    index_names = [f"index{'' if i == 0 else f'-{i}'}.json" for i in range(len(specs))]
    sources = tuple(
        SourceRecord(name=name, spec=spec, index=file if index else None)
        for name, spec, index, file in zip(names, specs, asked.indexes, index_names, strict=True)
    )
    return RunRecord(
        inputs=asked.inputs,
        model_sha256=model.sha256,
        targets=job.targets,
        targets_sha256=asked.targets_sha256,
        sources=sources,
        recipe=job.recipe,
        batch_size=model.batch_size,
        provider=job.recipe.provider,
        rows=targets.rows,
        block_rows=targets.block_rows,
        has_positions=targets.has_positions,
        id_column=ColumnRecord(**asdict(targets.columns.id)),
        kept=tuple(ColumnRecord(**asdict(info)) for info in targets.columns.kept),
        footprint=job.footprint,
        exclude=job.exclude,
        select=job.select,
        campaigns=job.campaigns,
        cuts=tuple(CutRecord(**asdict(cut)) for cut in targets.cuts),
        notes=(*model.card.preparation.warnings, *targets.notes, *map(str, demands), *([str(loss)] if loss else [])),
        planned_on=PlannedModel(
            provider=model.provider, precision=model.card.precision, onnxruntime=model.versions["onnxruntime"]
        ),
        estimate=costs.estimate(targets, workers, model.provider, seen, demands),
        versions={"gzsurvey": importlib.metadata.version("gzsurvey"), **model.versions},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _look(asked: _Asked, model: OnnxModel, targets: DraftedTargets) -> tuple[Look, list[Demand]]:
    """Look at a sample through the same functions that workers use, and see what hosts will be asked for."""
    recipe = asked.job.recipe
    rows = sample_rows(targets.rows, recipe.preview_targets)
    sample = read_some_targets(targets.folder, rows, targets.block_rows)
    sources = [
        open_source(absolute(spec), model.card.preparation, index, recipe.missing_limit, recipe.politeness)
        for spec, index in zip(asked.job.sources, asked.indexes, strict=True)
    ]
    for index in filter(None, asked.indexes):
        from gzsurvey.cutouts.index_file import check_scale

        check_scale(index, sample["cutout_width"])
    seen = look(model, sources, sample, recipe.missing_limit)
    pairs = zip(asked.job.sources, sources, strict=True)
    remote = [source for spec, source in pairs if spec.is_remote and isinstance(source, RemoteSource)]
    return seen, [costs.demand(source, targets) for source in remote]
