"""What makes two plans the same: hashes of model and targets, and everything that was asked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import Any

from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.outputs.provenance import sha256_of
from gzsurvey.sky.tables import table_paths
from gzsurvey.survey.job import Job


def targets_sha256(table: str) -> dict[str, str]:
    """Return the sha256 of every file of a target table, by file name in it."""
    found = [
        (part, sorted(p for p in part.rglob("*") if p.is_file()) if part.is_dir() else [part])
        for part in table_paths(table)
    ]
    return {
        str(path.relative_to(part.parent)): sha256_of(path) for part, paths in found for path in paths
    }  # fmt: skip


def absolute(spec: SourceSpec) -> SourceSpec:
    """Return a SOURCE that means the same in every process."""
    if spec.is_remote or spec.kind not in {"mosaic", "images", "hips"}:
        return spec
    path = Path(spec.address).expanduser()
    mask = None if spec.mask is None else str(Path(spec.mask).expanduser().absolute())
    layers = tuple(replace(layer, files=str(Path(layer.files).expanduser().absolute())) for layer in spec.layers)
    return replace(spec, text=f"{spec.kind}:{path.absolute()}", mask=mask, layers=layers)


def short_names(specs: Sequence[SourceSpec]) -> list[str]:
    """Return one short, unique name per SOURCE: its kind and the end of its path.

    Names do not tell where a directory lies, so that equal runs in two places are equal.
    """
    for parts in range(1, 30):
        names = [_short(spec, parts) for spec in specs]
        if len(set(names)) == len(set(specs)):
            return names
    return [spec.text for spec in specs]


def identity(job: Job, model_sha256: str, targets: dict[str, str], indexes: Sequence[Path | None]) -> dict[str, Any]:
    """Return what must be equal for a RUN to be resumed, flat, so that differences can be named.

    Parameters
    ----------
    job : Job
        What is asked for.
    model_sha256 : str
        Of the model file.
    targets : dict of str to str
        From `targets_sha256`.
    indexes : sequence of Path or None
        One per source.
    """
    described = {
        "masks": [(spec.mask, spec.mask_bits) for spec in map(absolute, job.sources) if spec.mask is not None],
        "pixel scales": [spec.pixel_scale_arcsec for spec in job.sources if spec.pixel_scale_arcsec is not None],
        "embedding": "" if job.recipe.embedding == "features" else job.recipe.embedding,
        "collections": [(spec.collection, spec.product) for spec in job.sources if spec.collection or spec.product],
    }
    return {name: value for name, value in described.items() if value} | {
        "model": model_sha256,
        "targets": _together(targets.values()),
        "cutouts": [absolute(spec).text for spec in job.sources],
        "images of the source": [sha256_of(path) if path else None for path in indexes],
        "bands": [list(spec.bands) if spec.bands else None for spec in job.sources],
        "zero points": [list(spec.zeropoints) if spec.zeropoints else None for spec in job.sources],
        "footprint": _region(job.footprint),
        "exclude": _region(job.exclude),
        "select": job.select,
        "keep": list(job.keep),
        "duplicates": job.duplicates,
        "limit": job.limit,
        "columns": {name: value for name, value in asdict(job.columns).items() if value},
        "missing_limit": job.recipe.missing_limit,
        "check_rows": job.recipe.check_rows,
    }


def _region(text: str | None) -> str | None:
    """Name a region by what it is, not by where its file lies."""
    if text is None or not Path(text).exists():
        return text
    path = Path(text)
    return f"{path.name} {sha256_of(path / 'run.json' if path.is_dir() else path)}"


def _together(hashes: Any) -> str:
    hashes = list(hashes)
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _short(spec: SourceSpec, parts: int) -> str:
    if spec.survey:
        return spec.survey
    if spec.is_remote:
        return f"{spec.kind}:{spec.place}"
    return f"{spec.kind}:{'/'.join(PurePath(spec.address).parts[-parts:])}"
