"""What is in the folder of a release, as its two ReadMes list it."""

from __future__ import annotations

from pathlib import Path

from gzsurvey.deposit.paths import ReleasePaths
from gzsurvey.outputs.paths import RunPaths, is_there, parts_list


def contents(folder: Path) -> list[tuple[str, str]]:
    """Return name and meaning of every file and folder that is there, or is about to be."""
    run, added = RunPaths(folder), ReleasePaths(folder)
    tables = {
        run.catalogue: "One row per target: fractions, leading answers, quality",
        run.catalogue_full: "The same rows with intervals and concentrations",
        run.catalogue_friendly: "The same rows, fractions blank where few would be asked",
    }
    products = {
        run.hats: "The rows of catalogue_full.fits as a HATS collection",
        run.moc: "Coverage maps",
        run.missing: "Every target without a prediction, and why",
        run.zarr: "Embeddings and predictions, array by array",
        run.report: "A page about the run",
        run.model: "The model, with its card",
        run.provenance: "Inputs, selection, model, versions (W3C PROV-JSON)",
        run.environment: "Exact versions of everything installed",
        run.plan: "The plan of the run",
        run.targets: "The targets, as they were asked for",
        run.ledger: "What became of each block of the run",
        run.checks: "Random rows as the model saw them, with its outputs",
    }
    made = {
        added.cds_readme: f"What stands at which byte of {added.cds_table.name}",
        added.cds_table: f"The rows of {run.catalogue.name} as text of fixed width",
        added.readme: "For people: what this is, and what it cannot do",
        added.citation: "How to cite this",
        added.zenodo: "What Zenodo asks of a deposit",
        added.inputs: "What was released under which title",
        run.checksums: "The sha256 of every file",
    }
    there = {_as_stored(path): what for path, what in tables.items() if is_there(path)}
    there |= {path: what for path, what in products.items() if path.exists()} | made
    return [(path.name, what) for path, what in there.items()]


def _as_stored(product: Path) -> Path:
    return product if product.is_file() else parts_list(product).parent
