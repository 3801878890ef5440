"""Finished RUNs of any length, written block by block without a survey's work.

Positions are drawn in the order of the sky: every cell of order 6 of the footprint has a density of its own, so that
crowded and empty fields lie side by side. Predictions follow magnitude; one target in twenty is a miss.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from cdshealpix.nested import healpix_to_lonlat
from numpy.typing import NDArray
from outputs import runs
from outputs.catalogues import make_card

from gzsurvey.card import Card, EmbeddingReference, VotesHead
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.outputs.columns import layer_column
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import create_arrays, write_block
from gzsurvey.sky.blocks import LARGEST_BLOCK, Block
from gzsurvey.sky.tables import ColumnInfo
from gzsurvey.sky.targets import TargetColumns
from gzsurvey.status import Status
from gzsurvey.survey import ledger
from gzsurvey.survey.layout import array_specs, group_attributes
from gzsurvey.survey.record import ColumnRecord, CutRecord, RunRecord, SourceRecord, write_record
from gzsurvey.survey.targets_file import KEPT, open_targets
from gzsurvey.votes.tree import DecisionTree

CAMPAIGN = "gz_decals_dr8"
EMBEDDING = 64
ORDER = 6
"""HEALPix order at which the density changes."""
_MISSES = (Status.OUTSIDE_IMAGING, Status.MISSING_PIXELS)
_MULTIPLIER = 0x9E3779B97F4A7C15
ID_COLUMN = ColumnInfo("objid", description="Survey object")
KEPT_COLUMNS = (
    ColumnInfo("mag_r", "mag", "phot.mag;em.opt.R", "r magnitude"),
    ColumnInfo("redshift", "", "src.redshift", "Redshift"),
)
Arrays = dict[str, NDArray[Any]]


def one_campaign_card() -> Card:
    """Return a card of one campaign with an embedding of 64 numbers."""
    components = tuple(map(tuple, np.eye(8, EMBEDDING).tolist()))
    return make_card(
        heads=(VotesHead(questions=tuple(DecisionTree.load(CAMPAIGN).to_json())),),
        default_campaign=CAMPAIGN,
        embedding_size=EMBEDDING,
        embedding_reference=EmbeddingReference(
            mean=(0.0,) * EMBEDDING,
            components=components,
            scales=(1.0,) * 8 + (7.5,),
            quantiles=tuple(np.linspace(0.5, 1.5, 101).tolist()),
        ),
    )


def make_big_run(run: Path, rows: int, *, seed: int = 0, shared_ids: int = 0, block_rows: int = LARGEST_BLOCK) -> None:
    """Write a RUN of `rows` finished rows.

    Ids differ from seed to seed, but for those of the first `shared_ids` rows.
    """
    card, rng = one_campaign_card(), np.random.default_rng(seed)
    run.mkdir(parents=True)
    paths = RunPaths(run)
    runs.write_model(paths.model, card)
    blocks = _blocks(card, rows, block_rows, rng)
    first = next(blocks)
    dtypes = tuple(first[info.name].dtype for info in KEPT_COLUMNS)
    columns = TargetColumns(ID_COLUMN, np.dtype(np.int64), KEPT_COLUMNS, dtypes, True)
    specs = array_specs(card, columns, (layer_column("psfsize_r"),))
    create_arrays(paths.zarr, specs, rows, block_rows, group_attributes(card, "0" * 64, ()))
    record = _record(rows, block_rows)
    with open_targets(run) as write_targets:
        for block in record.blocks:
            values = first if block.number == 0 else next(blocks)
            values["id"] = _ids(block, seed, shared_ids)
            write_targets(_target_columns(values))
            _finish(run, block, {spec.name: values[spec.name] for spec in specs})
    write_record(run, record)


def positions(rows: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield cells of order 29 of all targets in ascending order, one cell of order 6 at a time."""
    cells = np.sort(np.concatenate([np.arange(cell << 12, (cell + 1) << 12) for cell in (0, 4)]))[::4]
    density = rng.lognormal(0, 1.0, len(cells))
    counts = rng.multinomial(rows, density / density.sum())
    shift = 2 * (29 - ORDER)
    for cell, count in zip(cells.tolist(), counts.tolist(), strict=True):
        if count:
            yield np.sort((cell << shift) + rng.integers(0, 1 << shift, count))


def _blocks(card: Card, rows: int, block_rows: int, rng: np.random.Generator) -> Iterator[Arrays]:
    held = np.zeros(0, dtype=np.int64)
    for part in positions(rows, rng):
        held = np.concatenate([held, part])
        while len(held) >= block_rows:
            yield _values(card, held[:block_rows], rng)
            held = held[block_rows:]
    if len(held):
        yield _values(card, held, rng)


def _values(card: Card, healpix: NDArray[np.int64], rng: np.random.Generator) -> Arrays:
    n = len(healpix)
    lon, lat = healpix_to_lonlat(healpix.astype(np.uint64), 29)
    missed = rng.random(n) < 0.05
    status = np.where(missed, rng.choice(_MISSES, n), Status.PREDICTED).astype(np.int16)
    mag = (20 - rng.exponential(1.2, n).clip(0, 6)).astype(np.float32)
    bright = (20 - mag)[:, np.newaxis] / 6
    concentration = rng.uniform(1, 30, (n, card.outputs["concentration"])).astype(np.float32)
    concentration[:, 1:2] *= 0.2 + bright
    concentration = concentration.clip(1, 101)
    concentration[missed] = np.nan
    embedding = rng.standard_normal((n, EMBEDDING), dtype=np.float32).astype(np.float16)
    embedding[missed] = np.nan
    r50 = np.exp(rng.normal(0.8, 0.4, n)).astype(np.float32)
    return {
        "ra": lon.deg,
        "dec": lat.deg,
        "healpix_29": healpix,
        "status": status,
        "reason": np.where(missed, "no pixels there", ""),
        "missing_fraction": np.where(missed, np.nan, 0.01).astype(np.float32),
        "masked_fraction": np.full(n, np.nan, dtype=np.float32),
        "cutout_width": (6 * r50).astype(np.float32),
        "image_id": np.char.add("brick-", (healpix >> 40).astype(str)),
        "image_set": np.full(n, "synthetic"),
        "psfsize_r": rng.normal(1.2, 0.1, n).astype(np.float32),
        "mag_r": mag,
        "redshift": (0.1 * 10 ** (0.2 * (mag - 17)) * rng.lognormal(0, 0.2, n)).astype(np.float32),
        "r50": r50,
        "embedding": embedding,
        "concentration": concentration,
    }


def _ids(block: Block, seed: int, shared_ids: int) -> NDArray[np.int64]:
    """Return ids in no order: multiplication by an odd number, cut to 60 bits, keeps numbers apart."""
    numbers = np.arange(block.start, block.stop, dtype=np.uint64)
    numbers += np.where(numbers < shared_ids, 0, seed << 40).astype(np.uint64)
    return (numbers * np.uint64(_MULTIPLIER) & np.uint64(2**60 - 1)).astype(np.int64)


def _target_columns(values: Arrays) -> Arrays:
    plain = {name: values[name] for name in ("id", "ra", "dec", "healpix_29", "r50")}
    plain["cutout_width"] = values["cutout_width"].astype(np.float64)
    return plain | {f"{KEPT}{info.name}": values[info.name] for info in KEPT_COLUMNS}


def _record(rows: int, block_rows: int) -> RunRecord:
    return RunRecord(
        inputs={},
        model_sha256="0123456789abcdef" * 4,
        targets="somewhere/targets.fits",
        targets_sha256={"targets.fits": "ab" * 32},
        sources=(SourceRecord(name="synthetic", spec=SourceSpec("synthetic:")),),
        recipe=runs.RECIPE,
        batch_size=8,
        provider="cpu",
        rows=rows,
        block_rows=block_rows,
        has_positions=True,
        id_column=ColumnRecord(name=ID_COLUMN.name, description=ID_COLUMN.description),
        kept=tuple(
            ColumnRecord(name=info.name, unit=info.unit, ucd=info.ucd, description=info.description)
            for info in KEPT_COLUMNS
        ),
        cuts=(CutRecord(name="table", before=rows, after=rows),),
        created="2026-01-01T00:00:00+00:00",
    )


def _finish(run: Path, block: Block, values: Arrays) -> None:
    shards = write_block(RunPaths(run).zarr, RunPaths(run).aside, block.number, values)
    ledger.write_entry(
        run,
        ledger.LedgerEntry(
            block=block.number,
            state="done",
            **ledger.contents(values),
            shards=shards,
            seconds=1.5,
            provider="cpu",
            versions={"zarr": "3"},
            host="here",
            finished="2026-01-01T00:00:00+00:00",
        ),
    )
