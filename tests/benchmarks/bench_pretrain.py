"""Images per second of pretraining: ours end to end, its bound, and lightly's BYOL.

One run on one machine; the contestants are processes that take turns. On a CPU::

    python tests/benchmarks/bench_pretrain.py gz2_sdss/images.zip --catalogue gz2_sdss/catalogue.csv \
        --lightly-python LIGHTLY/bin/python

``--precisions auto bfloat16`` adds a column, of both sides in bfloat16.
On a GPU, larger encoders beside the rate of a bare matrix product::

    python tests/benchmarks/bench_pretrain.py gz2_sdss/images.zip --catalogue gz2_sdss/catalogue.csv \
        --table encoders --device cuda

``sky/dataset.yaml`` of ``gzsurvey simulate sky`` serves as well as pictures and catalogue.
``--short`` tries everything in under a minute. Prints one Markdown table and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from gzsurvey.dataset import build
from gzsurvey.dataset.store import Store
from gzsurvey.recipes.dataset import DatasetRecipe, load_dataset_recipe
from gzsurvey.recipes.training import PretrainRecipe

HERE = Path(__file__).parent
AS_IS, KEPT = "as_is", "kept"
KEPT_BY_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
"""For lightly; gzsurvey sees to it by itself."""
ALLOCATORS = {AS_IS: "allocator as it is", KEPT: "freed memory kept"}
AS_RECIPE = "auto"
LEAST_ROUNDS = 3
EPOCH_PER_WORKER = 8
"""Batches in an epoch of lightly's loader for each of its processes: at its end they run dry."""

Column = tuple[str, str]
"""Allocator and precision, of both sides."""
Turns = dict[str, list[dict[str, float]]]
"""What each contestant measured, round by round."""


@dataclass(frozen=True)
class Settings:
    """What is compared."""

    encoder: str = "resnet18"
    size_px: int = 64
    batch_size: int = 128
    approach: str = "hybrid"
    device: str = "cpu"
    threads: int = 2
    lightly_workers: int = 0
    clock: str = "seconds"
    """``seconds`` by the wall, or ``cpu_seconds`` where other programs take the cores away."""

    def recipe(self, precision: str = AS_RECIPE) -> PretrainRecipe:
        """Ours: the shipped defaults but for encoder, batch, approach and precision."""
        return PretrainRecipe.model_validate(
            {
                "approach": self.approach,
                "encoder": {"name": self.encoder},
                "batch_size": self.batch_size,
                "epochs": 9999,
                "precision": precision,
            }
        )


class Contestant:
    """A process that runs steps when it is asked to."""

    def __init__(self, command: Sequence[str], variables: dict[str, str]) -> None:
        self.name = Path(command[1]).stem
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
        path = os.pathsep.join([str(HERE.parents[1]), *filter(None, [clean.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            command,
            env=clean | {"PYTHONPATH": path} | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._read()

    def turn(self, steps: int) -> dict[str, float]:
        """Run `steps` and return what they took."""
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)
        return self._read()

    def end(self) -> None:
        self.process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.name} ended with status {self.process.wait()}")


def ours(side: str, memory: str, store: Path, settings: Settings, precision: str = AS_RECIPE) -> Contestant:
    script, recipe = str(HERE / "contestant_gzsurvey.py"), settings.recipe(precision).model_dump_json()
    options = [side, memory, str(store), settings.device, str(settings.threads), recipe]
    return Contestant([sys.executable, script, *options], {})


def lightlys(memory: str, python: str, folder: Path, settings: Settings, precision: str = AS_RECIPE) -> Contestant:
    numbers = (settings.size_px, settings.batch_size, settings.lightly_workers, settings.threads)
    command = [python, str(HERE / "contestant_lightly.py"), str(folder), *map(str, numbers), settings.device, precision]
    return Contestant(command, KEPT_BY_ENVIRONMENT if memory == KEPT else {})


def make_store(images: Path, catalogue: Path | None, size_px: int, pictures: int, out: Path) -> Store:
    """Build a store of some pictures, with votes if they come with a table of Galaxy Zoo 2; or by a dataset recipe."""
    if images.suffix == ".yaml":
        return build(load_dataset_recipe(str(images), [f"preparation.image_size={size_px}"]), out)
    source: dict[str, Any] = {"name": "pictures", "images": str(images.resolve()), "limit": pictures}
    if catalogue is not None:
        source |= {"catalogue": str(catalogue.resolve()), "campaign": "gz2", "assumed_votes": 44}
        source |= {"id_column": "galaxy_id", "image_column": "image", "columns": "kaggle_gz2"}
    recipe = {"name": "benchmark", "preparation": {"image_size": size_px}, "sources": [source]}
    return build(DatasetRecipe.model_validate(recipe), out)


def write_pictures(store: Store, folder: Path, at_least: int = 0) -> Path:
    """Write the pictures that train as PNG files, for a loader that reads a folder; repeated up to `at_least`."""
    folder.mkdir()
    rows = store.rows("train")
    for row, pixels in zip(rows, store.images(rows), strict=True):
        Image.fromarray(pixels).save(folder / f"{row}.png")
    for i in range(len(rows), at_least):
        (folder / f"{rows[i % len(rows)]}-{i // len(rows)}.png").hardlink_to(folder / f"{rows[i % len(rows)]}.png")
    return folder


def play(contestants: dict[str, Contestant], steps: int, seconds: float) -> Turns:
    """Let all take turns: at least `LEAST_ROUNDS` rounds, and more while they fit into `seconds`."""
    turns: Turns = {name: [] for name in contestants}
    start = time.perf_counter()
    while True:
        began = time.perf_counter()
        for name, contestant in contestants.items():
            turns[name].append(contestant.turn(steps))
        now, rounds = time.perf_counter(), len(next(iter(turns.values())))
        if rounds >= LEAST_ROUNDS and 2 * now - began - start > seconds:
            return turns


def rates(turns: Turns, name: str, settings: Settings) -> list[float]:
    """Images per second of each turn."""
    return [turn["steps"] * settings.batch_size / turn[settings.clock] for turn in turns[name]]


def shown(values: Sequence[float], digits: int) -> str:
    """Median and range."""
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} [{low}, {high}]"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def contestant(side: str, column: Column) -> str:
    """Name of a contestant."""
    return " ".join((side, *column))


def title(column: Column) -> str:
    memory, precision = column
    return ALLOCATORS[memory] if precision == AS_RECIPE else f"{ALLOCATORS[memory]}, {precision}"


def columns_of(precisions: Sequence[str], device: str) -> list[Column]:
    """Return what is compared: allocators in the first precision, then memory kept in the others."""
    first, *more = precisions
    # What a GPU frees is kept by torch in any case.
    memories = (AS_IS,) if device == "cuda" else (AS_IS, KEPT)
    return [*((memory, first) for memory in memories), *((memories[-1], other) for other in more)]


def lightly_table(turns: Turns, settings: Settings, columns: Sequence[Column]) -> str:
    """Ours, the bound and lightly, with one allocator and precision after the other."""

    def rate(side: str, column: Column) -> list[float]:
        return rates(turns, contestant(side, column), settings)

    def faults(side: str, column: Column) -> list[float]:
        return [turn["faults"] / turn["steps"] / settings.batch_size for turn in turns[contestant(side, column)]]

    def peak(side: str, column: Column) -> list[float]:
        return [turn["peak_mb"] for turn in turns[contestant(side, column)]]

    def row(what: str, cell: Callable[[Column], str]) -> str:
        return f"| {what} | {' | '.join(cell(column) for column in columns)} |"

    sides = {"end_to_end": f"gzsurvey, {settings.approach}, end to end", "bound": "the bound: networks alone"}
    if contestant("lightly", columns[0]) in turns:
        sides["lightly"] = "lightly's BYOL, end to end"
    unit = "images/s" if settings.clock == "seconds" else "images per CPU second"
    lines = ["| median [range] | " + " | ".join(title(column) for column in columns) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    lines += [row(f"{text}, {unit}", lambda m, s=s: shown(rate(s, m), 1)) for s, text in sides.items()]
    lines.append(row("gzsurvey / bound", lambda m: shown(ratios(rate("end_to_end", m), rate("bound", m)), 2)))
    if "lightly" in sides:
        lines.append(row("gzsurvey / lightly", lambda m: shown(ratios(rate("end_to_end", m), rate("lightly", m)), 2)))
    for side in [side for side in sides if side != "bound"]:
        name = sides[side].split(",")[0]
        lines.append(row(f"{name}, page faults per image", lambda m, s=side: shown(faults(s, m), 0)))
        lines.append(row(f"{name}, peak memory, MB", lambda m, s=side: shown(peak(s, m), 0)))
    return "\n".join(lines)


def encoders_header() -> list[str]:
    return [
        "| encoder | px | precision | end to end, images/s | bound, images/s | end to end / bound "
        "| share of the matrix rate |",
        "|---|---|---|---|---|---|---|",
    ]


def encoders_row(turns: Turns, settings: Settings, bound: dict[str, Any]) -> str:
    """One encoder at one size in one precision; the share is that of the end-to-end step."""
    whole, alone = (rates(turns, side, settings) for side in ("end_to_end", "bound"))
    share = [rate / settings.batch_size * bound["flops"] / bound["matrix_rate"] for rate in whole]
    cells = (bound["precision"], shown(whole, 1), shown(alone, 1), shown(ratios(whole, alone), 2), shown(share, 3))
    return f"| {settings.encoder} | {settings.size_px} | {' | '.join(cells)} |"


def against_lightly(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure one encoder with and without lightly beside it."""
    settings = settings_of(options, options.encoders[0], options.sizes[0])
    store = make_store(options.images, options.catalogue, settings.size_px, options.pictures, folder / "store")
    columns, python = columns_of(options.precisions, settings.device), options.lightly_python
    epoch = EPOCH_PER_WORKER * settings.lightly_workers * settings.batch_size
    pictures = write_pictures(store, folder / "pictures", epoch) if python else None
    # Neighbours in a round are compared: ours, the bound and lightly of one column, then of the next.
    contestants = {}
    for column in columns:
        memory, precision = column
        for side in ("end_to_end", "bound"):
            contestants[contestant(side, column)] = ours(side, memory, store.path, settings, precision)
        if pictures is not None:
            contestants[contestant("lightly", column)] = lightlys(memory, python, pictures, settings, precision)
    turns = play(contestants, options.steps, options.minutes * 60)
    for process in contestants.values():
        process.end()
    about = {key: value for process in reversed(contestants.values()) for key, value in process.about.items()}
    return {"table": lightly_table(turns, settings, columns), "turns": turns, "about": about}


def of_encoders(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure several encoders at several sizes and precisions, one after the other."""
    lines, found, about = encoders_header(), {}, {}
    stores = {
        size_px: make_store(options.images, options.catalogue, size_px, options.pictures, folder / f"store-{size_px}")
        for size_px in options.sizes
    }
    each = list(product(options.sizes, options.encoders, options.precisions))
    for size_px, encoder, precision in each:
        settings = settings_of(options, encoder, size_px)
        contestants = {
            side: ours(side, KEPT, stores[size_px].path, settings, precision) for side in ("end_to_end", "bound")
        }
        turns = play(contestants, options.steps, options.minutes * 60 / len(each))
        for process in contestants.values():
            process.end()
        about = contestants["bound"].about
        lines.append(encoders_row(turns, settings, about))
        found[f"{encoder} {size_px} {precision}"] = {"turns": turns, "about": about}
    return {"table": "\n".join(lines), "found": found, "about": about}


def settings_of(options: argparse.Namespace, encoder: str, size_px: int) -> Settings:
    return Settings(
        encoder=encoder,
        size_px=size_px,
        batch_size=options.batch_size,
        approach="hybrid" if options.catalogue or options.images.suffix == ".yaml" else "contrastive",
        device=options.device,
        threads=options.threads,
        lightly_workers=options.lightly_workers,
        clock=options.clock,
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("images", type=Path, help="folder or zip of galaxy pictures, or a dataset recipe")
    parser.add_argument("--catalogue", type=Path, help="Galaxy Zoo 2 votes of them; without: contrastive, not hybrid")
    parser.add_argument("--table", choices=("lightly", "encoders"), default="lightly")
    parser.add_argument("--lightly-python", help="interpreter that has lightly; without: no peer")
    parser.add_argument("--lightly-workers", type=int, default=0, help="processes of its DataLoader")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precisions", nargs="+", default=[AS_RECIPE], help="of both sides; one column for each")
    parser.add_argument("--encoders", nargs="+", help="timm names; lightly runs resnet18")
    parser.add_argument("--sizes", nargs="+", type=int)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=2, help="of one turn")
    parser.add_argument("--minutes", type=float, default=6.0, help="for the rounds; three are run in any case")
    parser.add_argument("--clock", choices=("seconds", "cpu_seconds"), default="seconds")
    parser.add_argument("--short", action="store_true", help="try everything on tiny settings; measures nothing")
    options = parser.parse_args(arguments)
    if options.short:
        options.batch_size, options.steps, options.pictures, options.minutes = 8, 1, 40, 0.0
    small, large = (["resnet18"], [64]), (["efficientnet_b0", "convnext_nano"], [128, 224])
    encoders, sizes = small if options.table == "lightly" else large
    options.encoders = options.encoders or encoders
    options.sizes = options.sizes or ([32] if options.short else sizes)
    return options


def machine() -> str:
    """CPU, cores and load."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the benchmark; return its table."""
    options = parse(arguments)
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        run = against_lightly if options.table == "lightly" else of_encoders
        found = run(options, Path(folder))
    versions = ", ".join(f"{name} {value}" for name, value in found["about"].items() if isinstance(value, str))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {before} before, {os.getloadavg()[0]:.1f} after")
    print(f"Python {platform.python_version()}, {versions}, {options.threads} threads, batch {options.batch_size}\n")
    print(found["table"] + "\n")
    print(json.dumps({"machine": before, "options": vars(options), **found}, default=str))
    return str(found["table"])


if __name__ == "__main__":
    main()
