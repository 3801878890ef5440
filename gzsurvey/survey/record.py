"""``run.json``: what `plan` decided, and what every worker reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import OutputConflict, RecipeError
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import settle
from gzsurvey.recipes.base import Section
from gzsurvey.recipes.survey import SurveyRecipe
from gzsurvey.sky import blocks
from gzsurvey.sky.blocks import Block


class SourceRecord(Section):
    """One source of a run."""

    name: str
    """Short and unique in the run: what ``image_set`` says."""
    spec: SourceSpec
    """As the user wrote it, its path made absolute."""
    index: str | None = None
    """File name of its index in RUN."""


class CutRecord(Section):
    """How many targets one cut left."""

    name: str
    before: int
    after: int


class ColumnRecord(Section):
    """A column of the targets, as the targets' file describes it."""

    name: str
    unit: str = ""
    ucd: str = ""
    description: str = ""
    null: int | None = None


class PlannedModel(Section):
    """What the model ran on when the run was planned: others give slightly other numbers."""

    provider: str
    """Of ONNX Runtime, as it was really used."""
    precision: str
    onnxruntime: str
    """Version."""


class RunRecord(Section):
    """A planned run."""

    format_version: int = 1
    inputs: dict[str, Any]
    """What makes two plans the same; flat, so that differences can be named."""
    model_sha256: str
    targets: str
    targets_sha256: dict[str, str]
    """By file name."""
    sources: tuple[SourceRecord, ...]
    recipe: SurveyRecipe
    batch_size: int
    provider: str
    rows: int
    block_rows: int
    has_positions: bool
    id_column: ColumnRecord
    kept: tuple[ColumnRecord, ...]
    footprint: str | None = None
    exclude: str | None = None
    select: str | None = None
    campaigns: tuple[str, ...] = ()
    cuts: tuple[CutRecord, ...]
    notes: tuple[str, ...] = ()
    planned_on: PlannedModel | None = None
    """None: unknown, and workers are not compared with it."""
    mixed: bool = False
    """Workers with another provider or ONNX Runtime were allowed."""
    estimate: dict[str, float] = {}
    versions: dict[str, str] = {}
    created: str
    """ISO 8601, UTC."""

    @property
    def n_blocks(self) -> int:
        """How many blocks the run has."""
        return blocks.count(self.rows, self.block_rows)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Every block, in order."""
        return tuple(blocks.blocks(self.rows, self.block_rows))

    def block(self, number: int) -> Block:
        """Return one block."""
        return blocks.block(number, self.rows, self.block_rows)

    @cached_property
    def check_rows(self) -> frozenset[int]:
        """Random rows that are kept as the model saw them; the same in every plan of this length."""
        import numpy as np

        wanted = min(self.recipe.check_rows, self.rows)
        return frozenset(np.random.default_rng(self.rows).choice(self.rows, wanted, replace=False).tolist())

    def unlike_plan(self, provider: str) -> str:
        """Say why a process that runs the model on `provider` may not work on this run; empty: it may."""
        import onnxruntime

        if self.mixed or self.planned_on is None:
            return ""
        here, planned = (provider, onnxruntime.__version__), (self.planned_on.provider, self.planned_on.onnxruntime)
        if here == planned:
            return ""
        found, asked = (f"{name} of ONNX Runtime {version}" for name, version in (here, planned))
        return f"runs the model on {found}, planned was {asked}; --mixed allows both, and provenance says so"


def read_record(run: Path) -> RunRecord:
    """Read what was planned.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The directory is no planned RUN, or its plan is damaged.
    """
    path = RunPaths(run).plan
    try:
        return RunRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RecipeError(str(run), "is no RUN; make one with 'gzsurvey plan' or 'gzsurvey classify'") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise RecipeError(str(path), f"is damaged ({where}: {problem['msg']}); plan again elsewhere") from None


def write_record(run: Path, record: RunRecord) -> None:
    """Write ``run.json``, which makes the directory a RUN."""
    paths = RunPaths(run)
    paths.aside.mkdir(parents=True, exist_ok=True)
    aside = paths.aside / "run.json"
    aside.write_text(json.dumps(json.loads(record.model_dump_json()), indent=1), encoding="utf-8")
    settle(aside, paths.plan)


def check_same(out: Path, earlier: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Refuse to go on with a RUN, or another directory, that was made from other inputs.

    Parameters
    ----------
    out : Path
        The directory.
    earlier : mapping
        What it was made from, by name, as JSON gives it.
    inputs : mapping
        What it would be made from now.

    Raises
    ------
    gzsurvey.errors.OutputConflict
        Says what was and what is now.
    """
    now = json.loads(json.dumps(dict(inputs)))
    differences = [
        f"{key} was {_short(earlier.get(key))}, now {_short(now.get(key))}"
        for key in dict.fromkeys([*earlier, *now])
        if earlier.get(key) != now.get(key)
    ]
    if differences:
        raise OutputConflict(out, differences)


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 60 else f"{text[:40]}…{text[-16:]}"
