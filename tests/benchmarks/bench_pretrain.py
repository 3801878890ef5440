"""Images per second of pretraining: ours end to end, its bound, and lightly's BYOL.

One run on one machine; the contestants are processes that take turns. On a CPU::

    python tests/benchmarks/bench_pretrain.py gz2_sdss/images.zip --catalogue gz2_sdss/catalogue.csv \
        --lightly-python LIGHTLY/bin/python

and on a GPU, larger encoders beside the rate of a bare matrix product::

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
LEAST_ROUNDS = 3
EPOCH_PER_WORKER = 8
"""Batches in an epoch of lightly's loader for each of its processes: at its end they run dry."""

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

    def recipe(self) -> PretrainRecipe:
        """Ours: the shipped defaults but for encoder, batch and approach."""
        return PretrainRecipe.model_validate(
            {
                "approach": self.approach,
                "encoder": {"name": self.encoder},
                "batch_size": self.batch_size,
                "epochs": 9999,
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


def ours(side: str, memory: str, store: Path, settings: Settings) -> Contestant:
    script, recipe = str(HERE / "contestant_gzsurvey.py"), settings.recipe().model_dump_json()
    options = [side, memory, str(store), settings.device, str(settings.threads), recipe]
    return Contestant([sys.executable, script, *options], {})


def lightlys(memory: str, python: str, folder: Path, settings: Settings) -> Contestant:
    numbers = (settings.size_px, settings.batch_size, settings.lightly_workers, settings.threads)
    command = [python, str(HERE / "contestant_lightly.py"), str(folder), *map(str, numbers), settings.device]
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


def lightly_table(turns: Turns, settings: Settings) -> str:
    """Ours, the bound and lightly, with the C library's allocator as it is and with freed memory kept."""

    def rate(side: str, memory: str) -> list[float]:
        return rates(turns, f"{side} {memory}", settings)

    def faults(side: str, memory: str) -> list[float]:
        return [turn["faults"] / turn["steps"] / settings.batch_size for turn in turns[f"{side} {memory}"]]

    def peak(side: str, memory: str) -> list[float]:
        return [turn["peak_mb"] for turn in turns[f"{side} {memory}"]]

    def row(what: str, cell: Callable[[str], str]) -> str:
        return f"| {what} | {' | '.join(cell(memory) for memory in memories)} |"

    sides = {"end_to_end": f"gzsurvey, {settings.approach}, end to end", "bound": "the bound: networks alone"}
    if f"lightly {AS_IS}" in turns:
        sides["lightly"] = "lightly's BYOL, end to end"
    unit = "images/s" if settings.clock == "seconds" else "images per CPU second"
    memories = [memory for memory in ALLOCATORS if f"bound {memory}" in turns]
    lines = ["| median [range] | " + " | ".join(ALLOCATORS[memory] for memory in memories) + " |"]
    lines.append("|---|" + "---|" * len(memories))
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
        "| encoder | px | end to end, images/s | bound, images/s | end to end / bound | share of the matrix rate |",
        "|---|---|---|---|---|---|",
    ]


def encoders_row(turns: Turns, settings: Settings, bound: dict[str, Any]) -> str:
    """One encoder at one size; the share is that of the end-to-end step."""
    whole, alone = (rates(turns, side, settings) for side in ("end_to_end", "bound"))
    share = [rate / settings.batch_size * bound["flops"] / bound["matrix_rate"] for rate in whole]
    cells = (shown(whole, 1), shown(alone, 1), shown(ratios(whole, alone), 2), shown(share, 3))
    return f"| {settings.encoder} | {settings.size_px} | {' | '.join(cells)} |"


def against_lightly(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure one encoder with and without lightly beside it."""
    settings = settings_of(options, options.encoders[0], options.sizes[0])
    store = make_store(options.images, options.catalogue, settings.size_px, options.pictures, folder / "store")
    # What a GPU frees is kept by torch in any case.
    memories = (AS_IS,) if settings.device == "cuda" else (AS_IS, KEPT)
    contestants = {
        f"{side} {memory}": ours(side, memory, store.path, settings)
        for memory in memories
        for side in ("end_to_end", "bound")
    }
    if options.lightly_python:
        epoch = EPOCH_PER_WORKER * settings.lightly_workers * settings.batch_size
        pictures = write_pictures(store, folder / "pictures", epoch)
        for memory in memories:
            contestants[f"lightly {memory}"] = lightlys(memory, options.lightly_python, pictures, settings)
    # Neighbours in a round are compared: ours, the bound and lightly with one allocator, then with the other.
    ordered = dict(sorted(contestants.items(), key=lambda item: item[0].split()[1]))
    turns = play(ordered, options.steps, options.minutes * 60)
    for contestant in ordered.values():
        contestant.end()
    about = {key: value for contestant in ordered.values() for key, value in contestant.about.items()}
    return {"table": lightly_table(turns, settings), "turns": turns, "about": about}


def of_encoders(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure several encoders at several sizes, one after the other."""
    lines, found, about = encoders_header(), {}, {}
    for size_px in options.sizes:
        store = make_store(options.images, options.catalogue, size_px, options.pictures, folder / f"store-{size_px}")
        for encoder in options.encoders:
            settings = settings_of(options, encoder, size_px)
            contestants = {side: ours(side, KEPT, store.path, settings) for side in ("end_to_end", "bound")}
            turns = play(contestants, options.steps, options.minutes * 60 / len(options.encoders) / len(options.sizes))
            for contestant in contestants.values():
                contestant.end()
            about = contestants["bound"].about
            lines.append(encoders_row(turns, settings, about))
            found[f"{encoder} {size_px}"] = {"turns": turns, "about": about}
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
