"""Images per second of a model alone: torch, plain ONNX Runtime, and ours; beside what the machine could do.

All contestants take turns in one process, from uint8 images in memory to float32 predictions in memory::

    python tests/benchmarks/bench_inference.py                 # a CPU: eager, compiled, plain ONNX Runtime, ours, int8
    python tests/benchmarks/bench_inference.py --device cuda   # a GPU: bfloat16, CUDA graphs, half precision
    python tests/benchmarks/bench_inference.py --batches 4 8 16 32   # a CPU: ours alone, in these batches

Weights are random: speed does not depend on them. Prints one Markdown table per model and size, and one line of JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_pretrain import ALLOCATORS, HERE, KEPT, KEPT_BY_ENVIRONMENT, machine, shown
from bench_pretrain import Contestant as Process
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gzsurvey.card import Card, VotesHead
from gzsurvey.export.graph import PixelsToOutputs, to_onnx
from gzsurvey.export.pictures import invented_images
from gzsurvey.export.precision import lowered
from gzsurvey.inference import OnnxModel, choose_batch_size
from gzsurvey.inference.session import images_on_a_cpu
from gzsurvey.model.encoder import create_encoder
from gzsurvey.model.network import Network
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.votes.tree import DecisionTree

Run = Callable[[np.ndarray], object]
OUTPUTS = ("embedding", "concentration")
COPIED_BYTES = 1 << 30


@dataclass
class Contestant:
    """One way to predict, with the batch it does best with."""

    name: str
    run: Run
    batch: int
    rates: list[float] = field(default_factory=list)
    """Images per second by the clock, turn by turn."""
    costs: list[float] = field(default_factory=list)
    """Milliseconds of processor time of an image, of all threads: what others take of the cores is not in it."""

    def turn(self, images: np.ndarray, seconds: float) -> None:
        """Predict for some time."""
        batches, start, before = 0, time.perf_counter(), time.process_time()
        while (passed := time.perf_counter() - start) < seconds or not batches:
            self.run(images[: self.batch])
            batches += 1
        self.took(batches * self.batch, passed, time.process_time() - before)

    def took(self, images: int, seconds: float, cpu_seconds: float) -> None:
        """Note one turn."""
        self.rates.append(images / seconds)
        self.costs.append(1000 * cpu_seconds / images)

    def end(self) -> None:
        """Let go of what it holds outside this process: nothing."""


@dataclass
class Apart(Contestant):
    """A contestant that runs in a process of its own, on images of its own."""

    process: Process = field(kw_only=True)

    def turn(self, images: np.ndarray, seconds: float) -> None:
        """Predict for about that time."""
        turn = self.process.turn(max(round(seconds * (self.rates or [0.0])[-1] / self.batch), 1))
        self.took(int(turn["steps"]) * self.batch, turn["seconds"], turn["cpu_seconds"])

    def end(self) -> None:
        """End its process."""
        self.process.end()


def network_of(encoder: str) -> Network:
    torch.manual_seed(0)
    heads = (VotesHead(questions=tuple(DecisionTree.load("gz_evo_v0_1").to_json())),)
    return Network(create_encoder(encoder), heads).eval()


def card_of(network: Network, size: int, precision: str) -> Card:
    return Card.model_validate(
        {
            "name": "benchmark",
            "created": f"{datetime.now(UTC):%Y-%m-%d}",
            "preparation": Preparation(image_size=size),
            "embedding_size": network.embedding_size,
            "heads": (VotesHead(questions=tuple(DecisionTree.load("gz_evo_v0_1").to_json())),),
            "precision": precision,
        }
    )


def write_models(network: Network, size: int, precisions: Sequence[str], folder: Path) -> dict[str, Path]:
    """Export as `gzsurvey export` does, without its comparison: random weights agree with nothing."""
    from onnx import helper

    paths = {precision: folder / f"{precision}.onnx" for precision in precisions}
    if all(path.is_file() for path in paths.values()):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    exact = to_onnx(PixelsToOutputs(network, OUTPUTS).eval(), Preparation(image_size=size))
    for precision, path in paths.items():
        proto = lowered(exact, precision, invented_images(size))  # type: ignore[arg-type]
        helper.set_model_props(proto, card_of(network, size, precision).to_metadata())
        path.write_bytes(proto.SerializeToString())
    return paths


def torch_run(model: nn.Module, device: str, half: torch.dtype | None) -> Run:
    """From uint8 here to float32 here; on a GPU through page-locked memory."""

    def run(images: np.ndarray) -> object:
        pixels = torch.from_numpy(images)
        if device == "cuda":
            pixels = pixels.pin_memory().to(device, non_blocking=True)
        with torch.inference_mode(), torch.autocast(device, half or torch.bfloat16, enabled=half is not None):
            outputs = model(pixels.contiguous(memory_format=torch.channels_last))
        return [value.float().cpu().numpy() for value in outputs]

    return run


def torch_contestants(network: Network, device: str, batch: int, compiled: bool) -> Iterator[Contestant]:
    model = PixelsToOutputs(network, OUTPUTS).eval().to(device)
    half, name = (torch.bfloat16, "bfloat16") if device == "cuda" else (None, "float32")
    yield Contestant("torch eager, float32", torch_run(model, device, None), batch)
    fast = copy.deepcopy(model).to(memory_format=torch.channels_last)
    yield Contestant(f"torch eager, channels last, {name}", torch_run(fast, device, half), batch)
    if compiled:
        yield Contestant(f"torch compiled, channels last, {name}", torch_run(torch.compile(fast), device, half), batch)


def eager_apart(encoder: str, size: int, options: argparse.Namespace, batch: int) -> Iterator[Apart]:
    """Eager torch with freed memory kept."""
    for layout in ("contiguous", "channels_last"):
        given = (HERE / "contestant_eager.py", encoder, size, batch, options.threads, layout)
        process = Process([sys.executable, *map(str, given)], KEPT_BY_ENVIRONMENT)
        name = f"torch eager, {layout.replace('_', ' ')}, float32, {ALLOCATORS[KEPT]}"
        yield Apart(name, lambda _images: None, batch, process=process)


def plain(path: Path, device: str, threads: int) -> Run:
    """ONNX Runtime as its documentation begins, with its own defaults but for the threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = ["CUDAExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    if session.get_providers()[0] != providers[0]:
        raise SystemExit(f"ONNX Runtime fell back to {session.get_providers()[0]}")
    return lambda images: session.run(list(OUTPUTS), {"image": images})


def ours(path: Path, device: str, batch: int, threads: int) -> Run:
    model = OnnxModel(path, "cuda" if device == "cuda" else "cpu", threads, batch)
    return model.run


def best_plain(path: Path, threads: int, images: np.ndarray) -> Contestant:
    """The fastest of several batch sizes of plain ONNX Runtime, found in this run."""
    tried = [
        Contestant(f"plain ONNX Runtime, batch {size}", plain(path, "cpu", threads), size)
        for size in (1, 2, 4, 8, 16, 32)
    ]
    for contestant in tried:
        contestant.run(images[: contestant.batch])
        contestant.turn(images, 1.0)
    best = max(tried, key=lambda contestant: contestant.rates[0])
    best.rates.clear()
    best.costs.clear()
    return best


def of_batches(path: Path, options: argparse.Namespace, size: int) -> list[Contestant]:
    """Ours in several batches, that which it takes by itself first."""
    rule = images_on_a_cpu(size)
    batches = [rule, *(batch for batch in options.batches if batch != rule)]
    many = options.threads * max(batches)
    return [
        Contestant(f"batch {batch} on each thread", ours(path, "cpu", batch, options.threads), many)
        for batch in batches
    ]


def contestants(
    network: Network, paths: dict[str, Path], options: argparse.Namespace, images: np.ndarray
) -> list[Contestant]:
    device, threads = options.device, options.threads
    batch = options.batch_size or (choose_batch_size(paths["fp16"], "cuda") if device == "cuda" else 32)
    found = list(torch_contestants(network, device, batch, options.compile))
    if device == "cuda":
        for precision, path in paths.items():
            found.append(Contestant(f"plain ONNX Runtime, {precision}", plain(path, device, 1), batch))
            found.append(Contestant(f"**gzsurvey, {precision}**", ours(path, device, batch, 1), batch))
        return found
    found.append(best_plain(paths["fp32"], threads, images))
    size = images_on_a_cpu(images.shape[-1])
    found += [
        Contestant(f"**gzsurvey, {name}**, batch {size} on each thread", ours(path, device, size, threads), len(images))
        for name, path in paths.items()
    ]
    return found


def flops(network: Network, size: int) -> float:
    """Floating-point operations of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        PixelsToOutputs(network, OUTPUTS).eval()(torch.zeros((1, 3, size, size), dtype=torch.uint8))
    return float(counter.get_total_flops())


def activation_values(network: Network, size: int) -> int:
    """Numbers that convolutions and matrix products read and write for one image, everything else fused into them."""
    total = 0

    def count(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        total += inputs[0].numel() + output.numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return total


def matrix_rate(device: str, kind: torch.dtype) -> float:
    """Operations per second of a large product of random matrices."""
    side = 8192 if device == "cuda" else 2048
    a, b = (torch.randn((side, side), device=device).to(kind) for _ in range(2))
    return statistics.median(2 * side**3 / seconds(lambda: a @ b, device) for _ in range(8))


def copy_rate(device: str) -> float:
    """Bytes per second read and written by a large copy."""
    a = torch.randn(COPIED_BYTES // 4, device=device)
    b = torch.empty_like(a)
    return statistics.median(2 * COPIED_BYTES / seconds(lambda: b.copy_(a), device) for _ in range(8))


def seconds(run: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def table(found: list[Contestant], bound: dict[str, float]) -> str:
    lines = [f"| | images/s, median [range] | to {found[0].name} | to the bound | CPU ms an image |",
             "|---|---|---|---|---|"]  # fmt: skip
    first = statistics.median(found[0].rates)
    for contestant in found:
        rate = statistics.median(contestant.rates)
        share = f"{rate / min(bound.values()):.0%}"
        cost = shown(contestant.costs, 1)
        lines.append(f"| {contestant.name} | {shown(contestant.rates, 0)} | {rate / first:.2f} | {share} | {cost} |")
    lines += [f"| bound by {name} | {value:,.0f} | {value / first:.2f} | | |" for name, value in bound.items()]
    return "\n".join(lines)


def measure(encoder: str, size: int, options: argparse.Namespace, rates: dict[str, float]) -> dict[str, Any]:
    network = network_of(encoder)
    operations, values = flops(network, size), activation_values(network, size)
    said = f"{operations / 1e9:.2f} GFLOP and {values / 1e6:.1f} million activations per image"
    bound = {"operations": rates["operations"] / operations}
    if options.device == "cuda":
        bound["bytes"] = rates["bytes"] / (2 * values)
    precisions = ("fp32",) if options.batches else ("fp32", "fp16" if options.device == "cuda" else "int8")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_models(network, size, precisions, (options.models or Path(folder)) / f"{encoder}-{size}")
        images = np.resize(invented_images(size, 64), (2048 if options.device == "cuda" else 128, 3, size, size))
        if options.batches:
            found = of_batches(paths["fp32"], options, size)
        else:
            found = contestants(network, paths, options, images)
            if options.kept and options.device == "cpu":
                found[2:2] = eager_apart(encoder, size, options, found[0].batch)
        for contestant in found:
            for _ in range(3):
                contestant.run(images[: contestant.batch])
        for _ in range(options.rounds):
            for contestant in found:
                contestant.turn(images, options.seconds)
        for contestant in found:
            contestant.end()
    print(
        f"\n{encoder}, {size} px, {said}, batch {found[0].batch}\n\n{table(found, bound)}\n",
        flush=True,
    )
    return {"bound": bound, "rates": {contestant.name: contestant.rates for contestant in found}}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; return what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--encoders", nargs="+", default=["efficientnet_b0", "convnext_nano"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 224])
    parser.add_argument("--batch-size", type=int, help="default: 32 on a CPU, measured on a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--models", type=Path, help="folder that keeps the exported files")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--no-kept", dest="kept", action="store_false", help="leave out torch with freed memory kept")
    parser.add_argument("--batches", type=int, nargs="+", help="compare ours in these batches, and nothing else")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with contextlib.suppress(AttributeError):
        torch.backends.cudnn.benchmark = True
    half = torch.bfloat16 if options.device == "cuda" else torch.float32
    rates = {"operations": matrix_rate(options.device, half), "bytes": copy_rate(options.device)}
    import onnxruntime

    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {device}; {machine()}; Python {platform.python_version()}, "
          f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, {options.threads} threads")  # fmt: skip
    print(f"matrix product {rates['operations'] / 1e12:.3g} TFLOP/s, copy {rates['bytes'] / 1e9:.0f} GB/s")
    found = {
        f"{encoder} {size}": measure(encoder, size, options, rates)
        for size in options.sizes
        for encoder in options.encoders
    }
    print(json.dumps({"device": device, "machine": machine(), "limits": rates, "found": found}))
    return found


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
