"""Where everything lies in the folder of a release, besides what `gzsurvey.outputs.paths.RunPaths` names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ReleasePaths:
    """The files that a release adds to those of its RUN."""

    folder: Path

    @property
    def inputs(self) -> Path:
        """What was released under which title (JSON)."""
        return self.folder / "release.json"

    @property
    def readme(self) -> Path:
        """For people: what this is, how to open it, what it cannot do, whom to credit."""
        return self.folder / "README.md"

    @property
    def cds_table(self) -> Path:
        """The rows of ``catalogue.fits`` as text of fixed width."""
        return self.folder / "catalogue.dat"

    @property
    def cds_readme(self) -> Path:
        """What stands at which byte of `cds_table`, as the CDS writes it."""
        return self.folder / "ReadMe"

    @property
    def citation(self) -> Path:
        """How to cite the release, in the Citation File Format."""
        return self.folder / "CITATION.cff"

    @property
    def zenodo(self) -> Path:
        """What Zenodo asks of a deposit."""
        return self.folder / ".zenodo.json"

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return self.inputs, self.readme, self.cds_table, self.cds_readme, self.citation, self.zenodo
