"""Galaxies per second of `gzsurvey classify` over JPEG galaxies, beside the bound: its parts alone.

::

    python tests/benchmarks/bench_classify.py --images FOLDER --count 3000                  # a CPU
    python tests/benchmarks/bench_classify.py --count 60000 --device cuda --size 128        # a GPU
    python tests/benchmarks/bench_classify.py --images FOLDER --count 300 --zoobot-python ZOOBOT/bin/python
    python tests/benchmarks/bench_classify.py --images FOLDER --count 300 --hyrax-python HYRAX/bin/python
    python tests/benchmarks/bench_classify.py --images FOLDER --memory 1000 10000 100000 --size 64 --encoder resnet18

Without ``--images``, 500 pictures of 424 pixels are invented. Targets cycle through them. The bound is, on a GPU,
the slower of preparing images (in as many threads) and the model; on a CPU, which does both, the sum of their times.
Prints one Markdown table and one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from bench_engine import timed
from bench_inference import network_of, write_models
from bench_pretrain import AS_IS, HERE, KEPT, KEPT_BY_ENVIRONMENT, machine, shown
from PIL import Image

from gzsurvey.cutouts.open import open_source
from gzsurvey.cutouts.source import Miss
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.export.pictures import invented_images
from gzsurvey.images.prepare import prepare_cutout
from gzsurvey.inference import OnnxModel, predict
from gzsurvey.recipes.cluster import ClusterProfile, load_cluster
from gzsurvey.recipes.survey import load_survey_recipe
from gzsurvey.survey import ledger, plan, run
from gzsurvey.survey.job import Job
from gzsurvey.survey.record import read_record
from gzsurvey.survey.sources import requests
from gzsurvey.survey.streams import merged

JPEG_PX = 424
BLOCK_ROWS = 256
"""Where memory is measured; by default a short run takes smaller blocks than a long one."""
ZOOBOT_BATCHES = (32, 256)
"""The latter is its default."""
LEAST_IMAGES = 256
"""Given to the model at once where it is measured alone: several batches for each of its threads."""


def invent(folder: Path, count: int) -> Path:
    """Write spots on noise as JPEG files of a Galaxy Zoo picture's size."""
    folder.mkdir()
    for number, image in enumerate(invented_images(JPEG_PX, count)):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:05d}.jpg", quality=90)
    return folder


def write_targets(images: Path, count: int, path: Path) -> Path:
    names = sorted(file.name for file in images.iterdir())
    rows = (f"{number},{name}" for number, name in zip(range(count), itertools.cycle(names), strict=False))
    path.write_text("\n".join(["id,image", *rows]) + "\n")
    return path


def job_of(model: Path, targets: Path, images: Path, options: argparse.Namespace, *changes: str) -> Job:
    provider = "cuda" if options.device == "cuda" else "cpu"
    recipe = load_survey_recipe("survey", [f"provider={provider}", "preview_targets=0", "check_rows=0", *changes])
    return Job(model, str(targets), (SourceSpec.parse(f"images:{images}"),), recipe, batch_size=options.batch_size)


def classified(model: Path, targets: Path, images: Path, out: Path, options: argparse.Namespace) -> tuple[float, Any]:
    """Plan, run, and return the seconds of the run alone, and what became of the targets."""
    job = job_of(model, targets, images, options)
    kind: Any = {"kind": "none"} if options.workers == 0 else {"kind": "local", "workers": options.workers}
    cluster = ClusterProfile(**kind, threads=options.threads)
    plan(job, out, cluster)
    start = time.perf_counter()
    summary = run(out, cluster)
    seconds = time.perf_counter() - start
    providers = {entry.provider for entry in ledger.finished(out, read_record(out)).values()}
    return seconds, f"{summary}\nproviders in the ledger: {', '.join(sorted(providers))}"


def preparing(model: OnnxModel, targets: int, images: Path, threads: int) -> float:
    """Images per second of reading, decoding and preparing alone."""
    preparation = model.card.preparation
    names = sorted(file.name for file in images.iterdir())
    rows = np.arange(targets)
    table = {
        "id": rows, "ra": np.full(targets, np.nan), "dec": np.full(targets, np.nan),
        "cutout_width": np.full(targets, np.nan), "image": np.array(names)[rows % len(names)],
    }  # fmt: skip
    source = open_source(SourceSpec.parse(f"images:{images}"), preparation, None, 0.2)
    wanted = requests(table, range(targets), preparation)

    def stream(piece: Sequence[Any]) -> Iterator[int]:
        for row, answer in source.fetch(piece):
            assert not isinstance(answer, Miss)
            prepare_cutout(answer.pixels, preparation)
            yield row

    pieces = [wanted[start :: 4 * threads] for start in range(4 * threads)]
    start = time.perf_counter()
    assert sum(1 for _ in merged([stream(piece) for piece in pieces], threads, 4096)) == targets
    return targets / (time.perf_counter() - start)


def predicting(model: OnnxModel, seconds: float) -> float:
    """Images per second of the model alone."""
    size = model.input_shape[1]
    images = np.resize(invented_images(size), (max(model.batch_size, LEAST_IMAGES), 3, size, size))
    model.run(images)
    rounds, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds or not rounds:
        model.run(images)
        rounds += 1
    return rounds * len(images) / passed


def from_memory_map(model: OnnxModel, count: int, folder: Path) -> float:
    """Images per second of predicting prepared images out of a memory-mapped file."""
    size = model.input_shape[1]
    stored = np.memmap(folder / "images.dat", np.uint8, "w+", shape=(count, 3, size, size))
    for start in range(0, count, 1000):
        part = stored[start : start + 1000]
        part[:] = np.resize(invented_images(size, 64), part.shape)
    start = time.perf_counter()
    predicted = sum(len(batch.rows) for batch in predict(model, enumerate(stored)))
    assert predicted == count
    return count / (time.perf_counter() - start)


def memory(options: argparse.Namespace, model: Path, images: Path, folder: Path) -> str:
    """Peak memory of `gzsurvey run` as a process of its own, over more and more images in equal blocks."""
    lines = ["| images | blocks | seconds | peak, MB |", "|---|---|---|---|"]
    for count in options.memory:
        targets, out = write_targets(images, count, folder / f"targets-{count}.csv"), folder / f"run-{count}"
        planned = plan(job_of(model, targets, images, options, f"block_rows={BLOCK_ROWS}"), out, load_cluster("none"))
        took = timed(["run", str(out), "--cluster", "none"])
        lines.append(f"| {count:,} | {planned.record.n_blocks} | {took.seconds:.0f} | {took.peak_mb:.0f} |")
    return "\n".join(lines)


def measure(options: argparse.Namespace, model: Path, images: Path, folder: Path) -> dict[str, Any]:
    targets = write_targets(images, options.count, folder / "targets.csv")
    found: dict[str, list[float]] = {"end to end": [], "preparing alone": [], "the model alone": [], "memory map": []}
    for number in range(options.rounds):
        seconds, summary = classified(model, targets, images, folder / f"run-{number}", options)
        found["end to end"].append(options.count / seconds)
        on = "cuda" if options.device == "cuda" else "cpu"
        threads = options.threads * max(options.workers, 1)
        opened = OnnxModel(model, on, threads, read_record(folder / f"run-{number}").batch_size)
        found["preparing alone"].append(preparing(opened, min(options.count, 3000 * threads), images, threads))
        found["the model alone"].append(predicting(opened, options.seconds))
        found["memory map"].append(from_memory_map(opened, options.count, folder))
        for name, command, variables in peers(options, images, model):
            found.setdefault(name, []).append(peer(command, variables, options.count))
            print(f"{name}: {found[name][-1]:.1f} beside {found['end to end'][-1]:.1f}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rates": found, "summary": str(summary), "peak_mb": peak}


Peer = tuple[str, list[str], dict[str, str]]
"""A name, the command that measures it, and the environment it is given."""


def peers(options: argparse.Namespace, images: Path, model: Path) -> Iterator[Peer]:
    """Yield each peer in each of its settings, in an environment of its own."""
    zoobot, hyrax = (str(HERE / f"contestant_{name}.py") for name in ("zoobot_predict", "hyrax"))
    common = (str(images), str(options.count))
    for memory, variables in {AS_IS: {}, KEPT: KEPT_BY_ENVIRONMENT}.items():
        allocator = f"allocator {memory.replace('_', ' ')}"
        if options.zoobot_python:
            for workers, batch in itertools.product((0, 2), ZOOBOT_BATCHES):
                given = (zoobot, *common, options.encoder, options.size, batch, workers, options.threads)
                name = f"Zoobot, {workers} workers, batch {batch}, {allocator}"
                yield name, [options.zoobot_python, *map(str, given)], variables
        if options.hyrax_python:
            for batch in (8, 32):
                given = (hyrax, model, *common, options.size, batch)
                yield f"Hyrax, batch {batch}, {allocator}", [options.hyrax_python, *map(str, given)], variables


def peer(command: Sequence[str], variables: dict[str, str], count: int) -> float:
    """Images per second that a peer says it took."""
    ended = subprocess.run(command, env=os.environ | variables, check=True, stdout=subprocess.PIPE, text=True)
    answer = json.loads(ended.stdout.splitlines()[-1])
    return count / float(answer["seconds"])


def table(found: dict[str, list[float]], device: str) -> str:
    prepared, predicted = (found[name] for name in ("preparing alone", "the model alone"))
    pairs = zip(prepared, predicted, strict=True)
    bound = [min(a, b) if device == "cuda" else 1 / (1 / a + 1 / b) for a, b in pairs]
    lines = ["| | galaxies/s, median [range] |", "|---|---|"]
    lines += [f"| {name} | {shown(rates, 0)} |" for name, rates in (found | {"the bound": bound}).items()]
    shares = [rate / limit for rate, limit in zip(found["end to end"], bound, strict=True)]
    mapped = [rate / limit for rate, limit in zip(found["memory map"], predicted, strict=True)]
    lines += [f"| end to end / the bound | {shown(shares, 2)} |", f"| memory map / the model | {shown(mapped, 2)} |"]
    ours = found["end to end"]
    for name in (name for name in found if name.startswith(("Zoobot", "Hyrax"))):
        ratios = [mine / theirs for mine, theirs in zip(ours, found[name], strict=True)]
        lines.append(f"| end to end / {name} | {shown(ratios, 2)} |")
    hours = 1e7 / statistics.median(found["end to end"]) / 3600
    return "\n".join([*lines, f"| hours for 10 million galaxies | {hours:.2f} |"])


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the benchmark; return its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of pictures; without: invented ones")
    parser.add_argument("--pictures", type=int, default=500, help="to invent")
    parser.add_argument("--count", type=int, default=3000, help="targets")
    parser.add_argument("--memory", type=int, nargs="+", help="numbers of images: peak memory of each, and no speed")
    parser.add_argument("--encoder", default="efficientnet_b0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch-size", type=int, help="default: as `classify` chooses it")
    parser.add_argument("--workers", type=int, default=0, help="Dask workers; 0: this process alone")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--zoobot-python", help="interpreter that has zoobot; without: no such peer")
    parser.add_argument("--hyrax-python", help="interpreter that has hyrax; without: no such peer")
    parser.add_argument("--seconds", type=float, default=2.0, help="of the model alone")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        images = options.images or invent(folder / "images", options.pictures)
        precision = "fp16" if options.device == "cuda" else "fp32"
        model = write_models(network_of(options.encoder), options.size, (precision,), folder)[precision]
        if options.memory:
            text = memory(options, model, images, folder)
            print(text)
            return text
        found = measure(options, model, images, folder)
    text = table(found["rates"], options.device)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, Python {platform.python_version()}, {options.encoder} at "
          f"{options.size} px, {options.workers} Dask workers, {options.threads} threads, "
          f"batch {options.batch_size or 'auto'}, {options.count:,} targets, "
          f"peak memory {found['peak_mb']:.0f} MB\n\n{text}\n")  # fmt: skip
    print(found["summary"])
    print(json.dumps(found, default=str))
    return text


if __name__ == "__main__":
    main()
