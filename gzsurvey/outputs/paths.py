"""Where everything lies in a RUN directory: the only module that knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunPaths:
    """The files of one RUN."""

    run: Path

    @property
    def plan(self) -> Path:
        """The plan: job, hashes, blocks (JSON). Written last by `plan`: makes the RUN."""
        return self.run / "run.json"

    @property
    def targets(self) -> Path:
        """Targets in row order, one Parquet row group per block."""
        return self.run / "targets.parquet"

    @property
    def index(self) -> Path:
        """Copy of the source's index, read by workers."""
        return self.run / "index.json"

    @property
    def ledger(self) -> Path:
        """One JSON entry per finished or failed block."""
        return self.run / "ledger"

    def ledger_entry(self, block: int) -> Path:
        """The entry that alone makes `block` exist."""
        return self.ledger / f"block-{block:06d}.json"

    @property
    def aside(self) -> Path:
        """Unfinished files; emptied when a run starts."""
        return self.run / "aside"

    def aside_of(self, block: int) -> Path:
        """Unfinished files of `block`, which no other process works on."""
        return self.aside / f"block-{block:06d}"

    @property
    def lock(self) -> Path:
        """Held by the process that works on this RUN."""
        return self.run / "run.lock"

    @property
    def parts(self) -> Path:
        """Locks and metrics of parts that are worked on side by side."""
        return self.run / "parts"

    def part_lock(self, number: int, of: int) -> Path:
        """Held by the process that works on one part of this RUN."""
        return self.parts / f"{number:04d}-of-{of:04d}.lock"

    def part_metrics(self, number: int, of: int) -> Path:
        """As `metrics`, of one part: machines that share a disk do not append to one file."""
        return self.parts / f"{number:04d}-of-{of:04d}.jsonl"

    @property
    def metrics(self) -> Path:
        """One JSON line per finished block."""
        return self.run / "metrics.jsonl"

    @property
    def activities(self) -> Path:
        """What each worker is doing now."""
        return self.run / "workers"

    def activity(self, worker: str) -> Path:
        """What one worker is doing now."""
        return self.activities / f"{worker}.json"

    @property
    def logs(self) -> Path:
        """What happened to each block, and what jobs of a batch system print."""
        return self.run / "logs"

    def block_log(self, block: int) -> Path:
        """What happened to one block, one JSON line each."""
        return self.logs / f"block-{block:06d}.jsonl"

    @property
    def job_script(self) -> Path:
        """A SLURM job array that works on this RUN in parts."""
        return self.run / "run.sbatch"

    @property
    def model(self) -> Path:
        """Copy of the model file."""
        return self.run / "model.onnx"

    @property
    def zarr(self) -> Path:
        """Embeddings, predictions and everything per row."""
        return self.run / "predictions.zarr"

    @property
    def catalogue(self) -> Path:
        """Fractions and leading answers."""
        return self.run / "catalogue.fits"

    @property
    def catalogue_full(self) -> Path:
        """The same rows with intervals and concentrations."""
        return self.run / "catalogue_full.fits"

    @property
    def catalogue_friendly(self) -> Path:
        """As `catalogue`, fractions blank where fewer than half of the volunteers would be asked."""
        return self.run / "catalogue_friendly.fits"

    @property
    def catalogues(self) -> tuple[Path, Path, Path]:
        """All that there may be, each as one file or in parts."""
        return self.catalogue, self.catalogue_full, self.catalogue_friendly

    @property
    def hats(self) -> Path:
        """The rows of `catalogue_full` as a HATS collection."""
        return self.run / "hats"

    @property
    def missing(self) -> Path:
        """Every target without a prediction."""
        return self.run / "missing.ecsv"

    @property
    def provenance(self) -> Path:
        """Inputs, selection, model, source, versions, times."""
        return self.run / "provenance.json"

    @property
    def checksums(self) -> Path:
        """Sha256 of every product, as ``sha256sum -c`` reads it; those of the shards of `zarr` stand in the ledger."""
        return self.run / "sha256.txt"

    @property
    def environment(self) -> Path:
        """Exact versions of everything installed."""
        return self.run / "environment.txt"

    @property
    def checks(self) -> Path:
        """Random rows as the model saw them, with their outputs."""
        return self.run / "checks"

    @property
    def preview(self) -> Path:
        """Random targets as the model will see them."""
        return self.run / "preview.png"

    @property
    def moc(self) -> Path:
        """Coverage maps."""
        return self.run / "moc"

    @property
    def delivered(self) -> Path:
        """Coverage map of the predictions."""
        return self.moc / "delivered.fits"

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.run / "report.html"


def is_there(product: Path) -> bool:
    """Tell whether a FITS product exists, as one file or in parts."""
    return product.is_file() or parts_list(product).is_file()


def parts_list(product: Path) -> Path:
    """List the parts, in row order, of a FITS product too large for one file; they lie beside this list."""
    return product.with_suffix("") / "parts.txt"
