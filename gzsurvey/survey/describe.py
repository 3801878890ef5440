"""What a run says about itself: header parameters and provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gzsurvey import __version__
from gzsurvey.card import Card
from gzsurvey.outputs.columns import Layout
from gzsurvey.outputs.parameters import Parameter
from gzsurvey.outputs.paths import RunPaths, parts_list
from gzsurvey.outputs.provenance import Provenance, sha256_of
from gzsurvey.status import Status
from gzsurvey.survey import ledger
from gzsurvey.survey.finished import FinishedRun
from gzsurvey.survey.ledger import BlockResult
from gzsurvey.survey.record import RunRecord

Entries = Mapping[int, BlockResult]
Counts = Mapping[int, int]


def finished_time(record: RunRecord, entries: Entries) -> str:
    """Return when the last block was finished, ISO 8601."""
    return max((entry.finished for entry in entries.values()), default=record.created)


def header_parameters(record: RunRecord, layout: Layout, entries: Entries, counts: Counts) -> tuple[Parameter, ...]:
    """Return the facts that stand in the header of every catalogue.

    Parameters
    ----------
    record : RunRecord
        The plan.
    layout : Layout
        Of the catalogue.
    entries : mapping of int to BlockResult
        Finished blocks.
    counts : mapping of int to int
        Targets by status.
    """
    card = layout.card
    facts = [
        Parameter("DATE", finished_time(record, entries)[:19], "UTC, when the last block was finished"),
        Parameter("ORIGIN", "gzsurvey", "what made this table"),
        Parameter("CREATOR", f"gzsurvey {__version__}", "program and version"),
        Parameter("MODEL", card.name, "model file's own name"),
        Parameter("MODELSHA", record.model_sha256[:16], "sha256 of the model file, first 16 digits"),
        Parameter("SIMULATD", card.simulated, "trained on simulated galaxies only"),
        Parameter("CAMPAIGN", ", ".join(layout.campaigns), "whose volunteers are imitated"),
        Parameter("MISSLIM", record.recipe.missing_limit, "missing_fraction above which status is 12"),
        Parameter("TARGETS", Path(record.targets).name, "table of targets"),
        Parameter("NTARGET", record.rows, "rows: targets asked for"),
        Parameter("NPREDICT", counts.get(Status.PREDICTED, 0), "rows with status 0"),
    ]
    for number, source in enumerate(record.sources, 1):
        facts.append(Parameter(f"SOURCE{number}"[:8], source.name, "source of pixels, as in image_set"))
        facts.append(
            Parameter(f"BANDS{number}"[:8], ",".join(source.spec.bands or card.preparation.bands), "its bands")
        )
    for number, cut in enumerate(record.cuts, 1):
        facts.append(Parameter(f"CUT{number}", f"{cut.name}: {cut.before} -> {cut.after}", "targets before, after"))
    chosen = {"FOOTPRNT": record.footprint, "EXCLUDE": record.exclude, "SELECT": record.select}
    facts += [Parameter(keyword, text, "selection of targets") for keyword, text in chosen.items() if text]
    for number, (task, shares) in enumerate(layout.prevalence.items(), 1):
        said = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        facts.append(Parameter(f"PREVAL{number}"[:8], f"{task}: {said}", "prevalence in the survey"))
    for number, (output, fitted) in enumerate(card.calibration.items(), 1):
        galaxies = ", ".join(str(one.galaxies if one else 0) for one in fitted)
        said = f"{output}: {galaxies} held-out galaxies, in {card.calibrated_in}"
        facts.append(Parameter(f"CALIB{number}"[:8], said, "calibrated on"))
    for number, credit in enumerate(card.credits, 1):
        said = f"{credit.citation}: {credit.name}, {credit.licence or 'licence unknown'}"
        facts.append(Parameter(f"CITE{number}"[:8], said, "trained the model: cite it, keep its licence"))
    return tuple(facts)


def provenance(run: FinishedRun, layout: Layout, sums: Mapping[Path, str]) -> Provenance:
    """Return where the products of a run come from.

    Parameters
    ----------
    run : FinishedRun
        Its products have been written.
    layout : Layout
        Of the catalogues.
    sums : mapping of Path to str
        The sha256 of every product.
    """
    paths = run.paths
    single = {path.stem: path for path in (*paths.catalogues, paths.missing)}
    single |= {f"moc-{path.stem}": path for path in sorted(paths.moc.glob("*.fits"))}
    products = {name: _file_facts(path, sums) for name, path in single.items() if path in sums}
    products |= {paths.zarr.stem: _zarr_facts(paths, run.entries)}
    folders = [paths.hats, *(parts_list(product).parent for product in paths.catalogues)]
    products |= {folder.name: facts for folder in folders if (facts := _folder_facts(folder, sums))}
    return Provenance(
        activity=_activity(run, layout),
        inputs=_inputs(paths, run.record, run.card),
        products={f"product-{name}": facts for name, facts in products.items()},
        started=run.record.created,
        finished=finished_time(run.record, run.entries),
    )


def _inputs(paths: RunPaths, record: RunRecord, card: Card) -> dict[str, dict[str, Any]]:
    targets = {
        f"targets-{i}": {"file": name, "sha256": digest}
        for i, (name, digest) in enumerate(sorted(record.targets_sha256.items()), 1)
    }
    sources = {
        f"source-{i}": source.model_dump(mode="json")
        | ({"index_sha256": sha256_of(paths.run / source.index)} if source.index else {})
        for i, source in enumerate(record.sources, 1)
    }
    about = [credit.model_dump(mode="json") for credit in card.credits]
    model = {"file": paths.model.name, "sha256": record.model_sha256, "trained_on": about}
    return targets | sources | {"model": model, "recipe": record.recipe.model_dump(mode="json")}


def _activity(run: FinishedRun, layout: Layout) -> dict[str, Any]:
    record, entries = run.record, run.entries
    versions: dict[str, str] = dict(record.versions)
    for entry in entries.values():
        versions |= entry.versions
    return {
        "selection": [cut.model_dump() for cut in record.cuts],
        "select": record.select,
        "footprint": record.footprint,
        "exclude": record.exclude,
        "notes": list(record.notes),
        "planned_on": record.planned_on.model_dump() if record.planned_on else None,
        "mixed": record.mixed,
        "campaigns": list(layout.campaigns),
        "prevalence": {task: dict(shares) for task, shares in layout.prevalence.items()},
        "statuses": {str(int(status)): n for status, n in sorted(run.counts.items())},
        "blocks": record.n_blocks,
        "blocks_finished": len(entries),
        "block_seconds": round(sum(entry.seconds for entry in entries.values()), 3),
        "versions": versions,
        "hosts": sorted({entry.host for entry in entries.values()}),
        "providers": sorted({entry.provider for entry in entries.values()}),
        "onnxruntimes": sorted({entry.versions.get("onnxruntime", "") for entry in entries.values()}),
    }


def _file_facts(path: Path, sums: Mapping[Path, str]) -> dict[str, Any]:
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sums[path]}


def _folder_facts(folder: Path, sums: Mapping[Path, str]) -> dict[str, Any]:
    """Return one checksum for all files of a folder; ``sha256.txt`` has each one's own."""
    inside = {path: digest for path, digest in sums.items() if path.is_relative_to(folder)}
    digest = hashlib.sha256("".join(f"{path.relative_to(folder)} {s}\n" for path, s in sorted(inside.items())).encode())
    return {"file": folder.name, "files": len(inside), "files_sha256": digest.hexdigest()} if inside else {}


def _zarr_facts(paths: RunPaths, entries: Entries) -> dict[str, Any]:
    """Return one checksum for all shards; the ledger holds each one's own."""
    shards, digest = ledger.digest(paths.run, entries)
    return {"file": paths.zarr.name, "shards": shards, "shards_sha256": digest}
