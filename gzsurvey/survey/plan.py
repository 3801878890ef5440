"""The plan of a run: which targets, which blocks, what it will cost; refuses what cannot work."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.cutouts.open import check_source, open_source, pixel_scale_arcsec
from gzsurvey.cutouts.source import Demand, RemoteSource
from gzsurvey.errors import RecipeError, TableError
from gzsurvey.images.frame import field_of_view
from gzsurvey.inference import OnnxModel, choose_batch_size
from gzsurvey.outputs.columns import TARGET_ID, Column, Layout, Stored, choose_campaigns
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import ArraySpec, create_arrays, settle
from gzsurvey.progress import duration
from gzsurvey.recipes.cluster import ClusterProfile
from gzsurvey.sky.blocks import block_length
from gzsurvey.sky.footprint import parse_footprint
from gzsurvey.sky.targets import TargetOptions, Targets, read_targets
from gzsurvey.survey import ledger
from gzsurvey.survey.inputs import absolute, identity, short_names, targets_sha256
from gzsurvey.survey.job import Job
from gzsurvey.survey.layout import array_specs, group_attributes, layer_columns
from gzsurvey.survey.preview import Look, draw, look, sample_rows
from gzsurvey.survey.record import (
    ColumnRecord,
    CutRecord,
    RunRecord,
    SourceRecord,
    check_same,
    read_record,
    write_record,
)
from gzsurvey.survey.targets_file import Columns, read_block_targets, write_targets

SPARE_DISK = 1.3
"""Products made from the Zarr store take about a third of it again."""
OURS = {"run.json", "run.lock", "aside", "targets.parquet", "model.onnx", "predictions.zarr", "ledger", "preview.png",
        "environment.txt", "moc"}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A planned run."""

    run: Path
    record: RunRecord
    look: Look | None = None
    """None: the RUN was planned before."""

    def __str__(self) -> str:
        record = self.record
        lines = [f"{self.run}: {record.rows:,} targets in {record.n_blocks:,} blocks of {record.block_rows:,}"]
        lines += [f"  {cut.name}: {cut.before:,} -> {cut.after:,}" for cut in record.cuts if cut.before != cut.after]
        lines += [f"  {note}" for note in record.notes]
        lines.append(f"  {_size(record.estimate.get('bytes', 0))} of results")
        seconds = record.estimate.get("seconds", float("nan"))
        if seconds == seconds:
            workers = int(record.estimate["workers"])
            lines.append(f"  about {duration(seconds)} on {workers} workers, measured on a few random targets")
        if self.look is None:
            lines.append("  planned before; nothing to change")
            return "\n".join(lines)
        return "\n".join(lines + [f"  {line}" for line in self.look.lines()])


@dataclass(frozen=True)
class _Draft:
    """Everything known before anything is written."""

    model: OnnxModel
    indexes: tuple[Path | None, ...]
    inputs: dict[str, Any]
    targets_sha256: dict[str, str]
    targets: Targets
    cutout_width: NDArray[np.float64]
    arrays: tuple[ArraySpec, ...]


def plan(job: Job, run: Path, cluster: ClusterProfile) -> Plan:
    """Plan a run: read and cut the targets, make the arrays, take a first look.

    Parameters
    ----------
    job : Job
        What is asked for.
    run : Path
        The RUN directory. Planned before from the same inputs: kept as it is.
    cluster : ClusterProfile
        Where the run will be worked on: says into how many blocks to cut it.

    Raises
    ------
    gzsurvey.errors.OutputConflict
        RUN was planned from other inputs.
    gzsurvey.errors.GZSurveyError
        Model, targets and source do not fit, or there is no room.
    """
    model = OnnxModel(job.model, job.recipe.provider)
    indexes = tuple(
        check_source(absolute(spec), model.card.preparation, politeness=job.recipe.politeness) for spec in job.sources
    )
    hashes = targets_sha256(job.targets)
    inputs = identity(job, model.sha256, hashes, indexes)
    if RunPaths(run).plan.exists():
        record = read_record(run)
        check_same(run, record, inputs)
        return Plan(run, record)
    draft = _draft(job, model, indexes, inputs, hashes)
    _check_place(run, draft)
    run.mkdir(parents=True, exist_ok=True)
    with ledger.locked(run):
        return _write(job, run, draft, cluster.expected_workers)


def dry_run(job: Job, run: Path, cluster: ClusterProfile) -> Plan:
    """Return what `plan` would do, with the same arguments, and write nothing.

    Raises
    ------
    gzsurvey.errors.GZSurveyError
        Model, targets and source do not fit.
    """
    model = OnnxModel(job.model, job.recipe.provider)
    indexes = tuple(
        check_source(absolute(spec), model.card.preparation, politeness=job.recipe.politeness) for spec in job.sources
    )
    hashes = targets_sha256(job.targets)
    draft = _draft(job, model, indexes, identity(job, model.sha256, hashes, indexes), hashes)
    _check_place(run, draft)
    seen, demands = _look(job, draft)
    return Plan(run, _record(job, draft, cluster.expected_workers, seen, demands), seen)


def _draft(
    job: Job,
    model: OnnxModel,
    indexes: tuple[Path | None, ...],
    inputs: dict[str, Any],
    hashes: dict[str, str],
) -> _Draft:
    targets = read_targets(job.targets, _target_options(job, indexes))
    width, notes = _cutout_width(job, model, targets)
    arrays = array_specs(model.card, targets, layer_columns(job.sources))
    _check_columns(job, model, targets)
    model = _with_its_batch(job, model)
    return _Draft(model, indexes, inputs, hashes, replace(targets, notes=(*targets.notes, *notes)), width, arrays)


def _with_its_batch(job: Job, model: OnnxModel) -> OnnxModel:
    """Return the model with the batch size of the run, measured where it is to be chosen."""
    wanted = job.images_per_batch
    size = choose_batch_size(job.model, job.recipe.provider) if wanted == "auto" else wanted
    return model if size == model.batch_size else OnnxModel(job.model, job.recipe.provider, 1, size)


def _check_columns(job: Job, model: OnnxModel, targets: Targets) -> None:
    """Refuse now what `publish` would refuse after the work: names that meet, too many columns."""
    campaigns = choose_campaigns(model.card, job.campaigns or None)
    kept = tuple(Column(info.name, "E") for info in targets.kept_columns)
    stored = Stored(replace(TARGET_ID, name=targets.id_column.name), kept, layer_columns(job.sources))
    Layout(model.card, campaigns, stored)


def _target_options(job: Job, indexes: Sequence[Path | None]) -> TargetOptions:
    excluded_run = job.exclude is not None and RunPaths(Path(job.exclude)).plan.is_file()
    index = indexes[0]
    return TargetOptions(
        columns=job.columns,
        keep=job.keep,
        select=job.select,
        footprint=None if job.footprint is None else parse_footprint(job.footprint),
        exclude=None if job.exclude is None or excluded_run else parse_footprint(job.exclude),
        exclude_ids=_ids_of(Path(job.exclude)) if job.exclude and excluded_run else frozenset(),
        duplicates=job.duplicates,
        limit=job.limit,
        pixel_scale_arcsec=None if index is None else partial(pixel_scale_arcsec, index),
    )


def _ids_of(run: Path) -> frozenset[int | str]:
    record = read_record(run)
    return frozenset(value for b in record.blocks for value in read_block_targets(run, b.number, ["id"])["id"].tolist())


def _cutout_width(job: Job, model: OnnxModel, targets: Targets) -> tuple[NDArray[np.float64], list[str]]:
    """Return the width of each target's cutout, arcsec, and what to say about it."""
    if all(spec.kind == "images" for spec in job.sources):
        return np.full(len(targets), np.nan), []
    if not targets.has_positions and any(spec.kind not in {"images", "synthetic"} for spec in job.sources):
        raise TableError(job.targets, "has no positions; name them with --ra-column and --dec-column")
    preparation = model.card.preparation
    rule = preparation.scale_rule
    if rule.kind != "fixed" and targets.r50_arcsec is None:
        raise TableError(
            job.targets,
            "has no size, and this model sizes its cutouts by the half-light radius; name a column with --size-column "
            "(and --size-unit)",
        )
    r50 = np.zeros(len(targets)) if targets.r50_arcsec is None else targets.r50_arcsec
    unknown = ~np.isfinite(r50)
    width = field_of_view(rule, np.where(unknown, 0.0, r50), targets.r90_arcsec) * preparation.crop
    notes = [f"{unknown.sum():,} targets have no size: they get the smallest cutout"] if unknown.any() else []
    return width, notes


def _check_place(run: Path, draft: _Draft) -> None:
    if run.is_dir():
        strangers = [path.name for path in run.iterdir() if path.name not in OURS]
        if strangers:
            raise RecipeError(str(run), f"holds other files (e.g. {strangers[0]}); choose a new directory for the run")
    parent = next(path for path in (run.absolute(), *run.absolute().parents) if path.is_dir())
    needed, free = _bytes(draft) * SPARE_DISK, shutil.disk_usage(parent).free
    if needed > free:
        raise RecipeError(str(run), f"needs {_size(needed)}, and its disk has {_size(free)} free; choose another disk")


def _write(job: Job, run: Path, draft: _Draft, workers: int) -> Plan:
    paths = RunPaths(run)
    ledger.clean(run)
    seen, demands = _look(job, draft)
    record = _record(job, draft, workers, seen, demands)
    shutil.copyfile(job.model, paths.aside / "model.onnx")
    settle(paths.aside / "model.onnx", paths.model)
    for source, index in zip(record.sources, draft.indexes, strict=True):
        if index is not None and source.index:
            shutil.copyfile(index, paths.aside / "index")
            settle(paths.aside / "index", run / source.index)
    write_targets(run, draft.targets, draft.cutout_width, record.block_rows)
    attributes = group_attributes(draft.model.card, draft.model.sha256, job.campaigns)
    create_arrays(paths.zarr, draft.arrays, record.rows, record.block_rows, attributes)
    _write_surroundings(job, run, draft, seen)
    write_record(run, record)
    return Plan(run, record, seen)


def _write_surroundings(job: Job, run: Path, draft: _Draft, seen: Look) -> None:
    paths = RunPaths(run)
    if seen.asked:
        draw(seen, draft.model.card, paths.preview)
    packages = sorted({f"{d.name}=={d.version}" for d in importlib.metadata.distributions()}, key=str.lower)
    system = f"# Python {platform.python_version()} on {platform.platform()}"
    paths.environment.write_text("\n".join([system, *packages]) + "\n", encoding="utf-8")
    if job.footprint is not None:
        paths.moc.mkdir(exist_ok=True)
        moc = parse_footprint(job.footprint).moc()
        moc.save(paths.moc / "footprint.fits", format="fits", overwrite=True)


def _record(job: Job, draft: _Draft, workers: int, seen: Look, demands: Sequence[Demand]) -> RunRecord:
    rows = len(draft.targets)
    names = short_names(specs := [absolute(spec) for spec in job.sources])
    index_names = [f"index{'' if i == 0 else f'-{i}'}.json" for i in range(len(specs))]
    sources = tuple(
        SourceRecord(name=name, spec=spec, index=file if index else None)
        for name, spec, index, file in zip(names, specs, draft.indexes, index_names, strict=True)
    )
    estimate = {"bytes": float(_bytes(draft)), "workers": float(workers)}
    if seen.asked:
        polite = [demand.requests / demand.requests_per_s for demand in demands]
        estimate |= {"seconds": max([seen.seconds_per_target * rows / workers, *polite])}
    return RunRecord(
        inputs=draft.inputs,
        model_sha256=draft.model.sha256,
        targets=job.targets,
        targets_sha256=draft.targets_sha256,
        sources=sources,
        recipe=job.recipe,
        batch_size=draft.model.batch_size,
        provider=job.recipe.provider,
        rows=rows,
        block_rows=block_length(rows, workers, job.recipe.block_rows),
        has_positions=draft.targets.has_positions,
        id_column=ColumnRecord(**asdict(draft.targets.id_column)),
        kept=tuple(ColumnRecord(**asdict(info)) for info in draft.targets.kept_columns),
        footprint=job.footprint,
        exclude=job.exclude,
        select=job.select,
        campaigns=job.campaigns,
        cuts=tuple(CutRecord(**asdict(cut)) for cut in draft.targets.cuts),
        notes=(*draft.model.card.preparation.warnings, *draft.targets.notes, *map(str, demands)),
        estimate=estimate,
        versions={"gzsurvey": importlib.metadata.version("gzsurvey"), **draft.model.versions},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _look(job: Job, draft: _Draft) -> tuple[Look, list[Demand]]:
    """Look at a sample through the same functions that workers use, and see what hosts will be asked for."""
    rows = sample_rows(len(draft.targets), job.recipe.preview_targets)
    targets = draft.targets
    sample: Columns = {
        "id": targets.id[rows],
        "ra": targets.ra_deg[rows],
        "dec": targets.dec_deg[rows],
        "cutout_width": draft.cutout_width[rows],
    }
    sample |= {} if targets.image is None else {"image": targets.image[rows]}
    preparation, limit = draft.model.card.preparation, job.recipe.missing_limit
    sources = [
        open_source(absolute(spec), preparation, index, limit, job.recipe.politeness)
        for spec, index in zip(job.sources, draft.indexes, strict=True)
    ]
    seen = look(draft.model, sources, sample, limit)
    asked = zip(job.sources, sources, strict=True)
    remote = [source for spec, source in asked if spec.is_remote and isinstance(source, RemoteSource)]
    return seen, [source.demand(targets.ra_deg, targets.dec_deg, draft.cutout_width) for source in remote]


def _bytes(draft: _Draft) -> int:
    return len(draft.targets) * sum(spec.bytes_per_row for spec in draft.arrays)


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
