"""A small RUN on disk, as plan and worker leave it, without their work."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from gzsurvey.card import Card
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.outputs.columns import layer_column
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import create_arrays, write_block
from gzsurvey.recipes.survey import SurveyRecipe
from gzsurvey.sky.blocks import Block
from gzsurvey.sky.tables import ColumnInfo
from gzsurvey.sky.targets import KEPT, TargetColumns
from gzsurvey.survey import ledger
from gzsurvey.survey.layout import array_specs, group_attributes
from gzsurvey.survey.record import ColumnRecord, CutRecord, RunRecord, SourceRecord, write_record
from gzsurvey.survey.targets_file import open_targets
from outputs.catalogues import make_block, make_card

BLOCK_ROWS = 256
RECIPE = SurveyRecipe(
    provider="auto",
    block_rows=256,
    batch_size=8,
    missing_limit=0.2,
    retries=0,
    fault_limit=0.5,
    preview_targets=0,
    check_rows=0,
)


def write_model(path: Path, card: Card) -> None:
    """Every output is a linear function of the mean colour."""
    size, rng = card.preparation.image_size, np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool", ["real"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["colour"]),
    ]
    weights = []
    for name, width in card.outputs.items():
        weights.append(numpy_helper.from_array(rng.uniform(0.1, 1, (3, width)).astype(np.float32), f"w_{name}"))
        nodes.append(helper.make_node("MatMul", ["colour", f"w_{name}"], [name]))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 3, size, size])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", w]) for n, w in card.outputs.items()]
    graph = helper.make_graph(nodes, "colour", [image], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, card.to_metadata())
    path.write_bytes(model.SerializeToString())


def target_columns(block: dict[str, np.ndarray]) -> TargetColumns:
    infos = (
        ColumnInfo("mag_r", "mag", "phot.mag;em.opt.R;meta.main", "r magnitude"),
        ColumnInfo("flag", "", "", "", -(2**31)),
        ColumnInfo("field"),
    )
    about = ColumnInfo("objid", description="Survey object")
    return TargetColumns(about, block["id"].dtype, infos, tuple(block[info.name].dtype for info in infos), True)


def write_targets(run: Path, block: dict[str, np.ndarray], columns: TargetColumns) -> None:
    stored = {name: block[name] for name in ("id", "ra", "dec", "healpix_29")}
    stored |= {"cutout_width": block["cutout_width"].astype(float), "r50": block["r50"]}
    stored |= {KEPT + info.name: block[info.name] for info in columns.kept}
    with open_targets(run) as write:
        for start in range(0, len(block["id"]), BLOCK_ROWS):
            write({name: values[start : start + BLOCK_ROWS] for name, values in stored.items()})


def make_run(
    run: Path,
    card: Card | None = None,
    n: int = 600,
    skip: Collection[int] = (),
    source: str = "synthetic:",
    **changes: np.ndarray,
) -> dict[str, np.ndarray]:
    """Write a RUN of `n` rows whose blocks are finished, but those in `skip`; return its rows."""
    card = card or make_card()
    block, paths = make_block(card, n) | changes, RunPaths(run)
    block["r50"] = block["r50"].astype(np.float32)
    targets = target_columns(block)
    run.mkdir(parents=True)
    write_model(paths.model, card)
    write_targets(run, block, targets)
    specs = array_specs(card, targets, (layer_column("psfsize_r"),))
    create_arrays(paths.zarr, specs, n, BLOCK_ROWS, group_attributes(card, "0" * 64, ()))
    record = _record(targets, n, source, bool(np.isfinite(block["ra"]).any()))
    write_record(run, record)
    names = {spec.name for spec in specs}
    for number in set(range(record.n_blocks)) - set(skip):
        _finish(run, record.block(number), {name: block[name] for name in names})
    return block


def _record(targets: TargetColumns, n: int, source: str, has_positions: bool) -> RunRecord:
    def described(info: ColumnInfo) -> ColumnRecord:
        return ColumnRecord(name=info.name, unit=info.unit, ucd=info.ucd, description=info.description, null=info.null)

    return RunRecord(
        inputs={},
        model_sha256="0123456789abcdef" * 4,
        targets="somewhere/targets.fits",
        targets_sha256={"targets.fits": "ab" * 32},
        sources=(SourceRecord(name=source, spec=SourceSpec(source)),),
        recipe=RECIPE,
        batch_size=8,
        provider="cpu",
        rows=n,
        block_rows=BLOCK_ROWS,
        has_positions=has_positions,
        id_column=described(targets.id),
        kept=tuple(described(info) for info in targets.kept),
        select="mag_r < 20",
        cuts=(CutRecord(name="table", before=n + 5, after=n),),
        created="2026-01-01T00:00:00+00:00",
    )


def _finish(run: Path, block: Block, values: dict[str, np.ndarray]) -> None:
    part = {name: column[block.start : block.stop] for name, column in values.items()}
    shards = write_block(RunPaths(run).zarr, RunPaths(run).aside, block.number, part)
    ledger.write_entry(
        run,
        ledger.LedgerEntry.model_validate(
            {
                "block": block.number, "state": "done", "seconds": 1.5, "provider": "cpu", "host": "here",
                "shards": {name: {"bytes": s.bytes, "sha256": s.sha256} for name, s in shards.items()},
                "versions": {"zarr": "3"}, "finished": f"2026-01-01T00:00:{block.number:02d}+00:00",
            }
            | ledger.contents(part)
        ),
    )  # fmt: skip
