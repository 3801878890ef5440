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


def steps(out: Path, device: str, short: bool, lightly_python: str | None) -> list[Step]:
    """Return what is to be done, most wanted first.

    Parameters
    ----------
    out : Path
        OUT; a simulated sky of training galaxies is drawn into it.
    device : str
        ``cuda``, or ``cpu`` for a trial.
    short : bool
        Whether to try rather than to measure.
    lightly_python : str, optional
        Interpreter that has lightly; None: it is left out.
    """
    sky, pictures = out / "sky", "300" if short else "6000"
    quick = ("--rounds", "1", "--seconds", "0.01", "--encoders", "test_resnet", "--sizes", "32", "--no-compile")
    of_models = quick if short else ("--rounds", "5", "--seconds", "1")
    of_steps = ("--short",) if short else ("--minutes", "2", "--pictures", pictures)
    of_runs = ("--count", "64", "--pictures", "8", "--rounds", "1", "--encoder", "test_resnet", "--size", "32")
    peer = () if lightly_python is None else ("--lightly-python", lightly_python)
    draw = ("-m", "gzsurvey", "simulate", str(sky), "--set", "targets=10", "--set", f"training={pictures}")
    training = (str(HERE / "bench_pretrain.py"), str(sky / "dataset.yaml"), "--device", device, *of_steps)
    return [
        Step("tests", ("-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "tests/training", "tests/inference",
                       "tests/export"), 240),
        Step("inference", (str(HERE / "bench_inference.py"), "--device", device, *of_models), 300),
        Step("sky", (*draw, "--set", "stamps.image_size=128"), 180),
        Step("encoders", (*training, "--table", "encoders"), 300),
        Step("lightly", (*training, "--table", "lightly", *peer), 240),
        Step("classify", (str(HERE / "bench_classify.py"), "--device", device,
                          *(of_runs if short else ("--count", "30000", "--size", "128"))), 180),
        Step("loading", (str(HERE / "bench_loading.py"), device), 120),
    ]  # fmt: skip


def take(step: Step, out: Path) -> str:
    """Run one step into its files; return how it ended."""
    done = out / f"{step.name}.done"
    if done.exists():
        return "was done before"
    started = time.monotonic()
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
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    until, ended = time.monotonic() + 60 * options.minutes, {}
    for step in steps(options.out, options.device, options.short, options.lightly_python):
        late = time.monotonic() + step.seconds > until and not (options.out / f"{step.name}.done").exists()
        ended[step.name] = "was not begun: too late" if late else take(step, options.out)
        print(f"{step.name}: {ended[step.name]}", flush=True)
    return ended


if __name__ == "__main__":
    main()
