"""All that only a GPU can show, most wanted first; what is measured lies in OUT as soon as it is.

::

    python tests/benchmarks/on_a_gpu.py OUT                       # twenty minutes; repeated, it does what is missing
    python tests/benchmarks/on_a_gpu.py OUT --minutes 13          # begins nothing that may not end by then
    python tests/benchmarks/on_a_gpu.py OUT --lightly-python LIGHTLY/bin/python
    python tests/benchmarks/on_a_gpu.py OUT --short --device cpu  # tries every step on a CPU; measures nothing

``OUT/STEP.txt`` holds what a step printed, ``OUT/STEP.done`` says that it was whole.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Step:
    """One thing to run, and how long it may take."""

    name: str
    arguments: tuple[str, ...]
    """Of Python."""
    seconds: float


@dataclass(frozen=True)
class Scale:
    """How much is done: options of the benchmarks."""

    pictures: int
    """Galaxies to draw and to train on."""
    models: tuple[str, ...]
    trainings: tuple[str, ...]
    runs: tuple[str, ...]


WHOLE = Scale(
    pictures=6000,
    models=("--rounds", "5", "--seconds", "1"),
    trainings=("--minutes", "2", "--pictures", "6000"),
    runs=("--count", "30000", "--size", "128"),
)
TRIAL = Scale(
    pictures=300,
    models=("--rounds", "1", "--seconds", "0.01", "--encoders", "test_resnet", "--sizes", "32", "--no-compile"),
    trainings=("--short",),
    runs=("--count", "64", "--pictures", "8", "--rounds", "1", "--encoder", "test_resnet", "--size", "32"),
)


def steps(out: Path, device: str, scale: Scale, lightly_python: str | None) -> list[Step]:
    """Return what is to be done, most wanted first.

    Parameters
    ----------
    out : Path
        OUT; a simulated sky of training galaxies is drawn into it.
    device : str
        ``cuda``, or ``cpu`` for a trial.
    scale : Scale
        How much.
    lightly_python : str, optional
        Interpreter that has lightly; None: it is left out.
    """
    sky = out / "sky"
    peer = () if lightly_python is None else ("--lightly-python", lightly_python)
    changes = ("targets=10", f"training={scale.pictures}", "stamps.image_size=128")
    draw = ("-m", "gzsurvey", "simulate", str(sky), *(word for change in changes for word in ("--set", change)))
    training = (str(HERE / "bench_pretrain.py"), str(sky / "dataset.yaml"), "--device", device, *scale.trainings)
    return [
        Step("tests", ("-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "tests/training", "tests/inference",
                       "tests/export"), 240),
        Step("inference", (str(HERE / "bench_inference.py"), "--device", device, *scale.models), 300),
        Step("sky", draw, 180),
        Step("encoders", (*training, "--table", "encoders"), 300),
        Step("lightly", (*training, "--table", "lightly", *peer), 240),
        Step("classify", (str(HERE / "bench_classify.py"), "--device", device, *scale.runs), 180),
        Step("loading", (str(HERE / "bench_loading.py"), device), 120),
    ]  # fmt: skip


def take(step: Step, out: Path, until: float) -> str:
    """Run one step into its files unless it was done, or may not end by `until`; return how it ended."""
    done, started = out / f"{step.name}.done", time.monotonic()
    if done.exists():
        return "was done before"
    if started + step.seconds > until:
        return "was not begun: too late"
    with (out / f"{step.name}.txt").open("w") as said:
        process = subprocess.Popen([sys.executable, *step.arguments], stdout=said, stderr=subprocess.STDOUT)
        try:
            code = process.wait(step.seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return f"ran past {step.seconds:.0f} s"
    if code:
        return f"failed with {code}; see {step.name}.txt"
    done.touch()
    return f"took {time.monotonic() - started:.0f} s"


def main(arguments: Sequence[str] | None = None) -> dict[str, str]:
    """Run what is missing; return how each step ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--lightly-python")
    parser.add_argument("--short", dest="scale", action="store_const", const=TRIAL, default=WHOLE)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    until, ended = time.monotonic() + 60 * options.minutes, {}
    for step in steps(options.out, options.device, options.scale, options.lightly_python):
        ended[step.name] = take(step, options.out, until)
        print(f"{step.name}: {ended[step.name]}", flush=True)
    return ended


if __name__ == "__main__":
    main()
