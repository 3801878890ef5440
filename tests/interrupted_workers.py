"""A program that `test_processes.py` stops in different ways: FOLDER gets a file per step that a worker has taken."""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from gzsurvey.processes import worker_processes

TASKS, STEPS = 6, 20


def draw(folder: Path, number: int) -> None:
    """Stop at once."""
    (folder / f"began-{number}").write_text(str(os.getpid()))
    for _ in range(STEPS):
        time.sleep(0.1)
    (folder / f"ended-{number}").touch()


def train(folder: Path, number: int) -> None:
    """Save what there is when asked to stop, as a pretraining does."""
    asked = []

    def ask(_signal: int, _frame: FrameType | None) -> None:
        asked.append(True)

    before = signal.signal(signal.SIGTERM, ask)
    (folder / f"began-{number}").write_text(str(os.getpid()))
    for _ in range(STEPS):
        time.sleep(0.1)
        if asked:
            time.sleep(0.3)
            (folder / f"saved-{number}").touch()
            signal.signal(signal.SIGTERM, before)
            raise KeyboardInterrupt
    (folder / f"ended-{number}").touch()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    function, folder = {"draw": draw, "train": train}[sys.argv[1]], Path(sys.argv[2])
    try:
        with worker_processes(2) as pool:
            for future in [pool.submit(function, folder, number) for number in range(TASKS)]:
                future.result()
    except KeyboardInterrupt:
        sys.exit(130)
