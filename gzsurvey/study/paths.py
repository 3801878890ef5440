"""Where a study keeps what.

::

    OUT/
    ├── job.json                recipe and input hashes: OUT is refused for another study
    ├── out.lock                which process works in it
    ├── sky/                    the simulated survey, where there is one
    ├── store/                  what all arms are pretrained on
    ├── pretrained/ARM-pN/      checkpoints, one per pretrained arm and seed
    ├── tasks/TASK/             labels and images of a downstream task
    ├── embeddings/TASK/        of every galaxy of the task, by every frozen encoder
    ├── cells/TASK/*.json       metrics of one arm, label count and seed; *.npz its predictions
    ├── results.json            every number of table and figure, with its interval
    ├── results.md, results.png table and figure
    └── held-out.json           how it was checked that no test galaxy trained anything
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StudyPaths:
    """The places in OUT."""

    out: Path

    @property
    def sky(self) -> Path:
        """The simulated survey."""
        return self.out / "sky"

    @property
    def store(self) -> Path:
        """The training store."""
        return self.out / "store"

    @property
    def held_out(self) -> Path:
        """The proof that tests are tests."""
        return self.out / "held-out.json"

    def pretrained(self, arm: str, pretraining: int) -> Path:
        """Return the OUT of one pretraining."""
        return self.out / "pretrained" / f"{arm}-p{pretraining}"

    def task(self, name: str) -> Path:
        """Return the folder of a task's labels and images."""
        return self.out / "tasks" / name

    def embeddings(self, task: str, encoder: str) -> Path:
        """Return the file with one encoder's embeddings of a task's galaxies."""
        return self.out / "embeddings" / task / f"{encoder}.npy"

    def cell(self, task: str, name: str) -> Path:
        """Return the metrics of one cell; its predictions lie beside them, as ``.npz``."""
        return self.out / "cells" / task / f"{name}.json"

    def result(self, kind: str) -> Path:
        """Return ``results.KIND``: json, md or png."""
        return self.out / f"results.{kind}"
