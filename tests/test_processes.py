import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gzsurvey.processes import THREADS_OF_LIBRARIES, worker_processes

PROGRAM = Path(__file__).parent / "interrupted_workers.py"


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def began(kind: str, folder: Path) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """Start the program in a process group of its own, as a terminal does; return it and its two busy workers."""
    program = subprocess.Popen([sys.executable, PROGRAM, kind, folder], stderr=subprocess.PIPE, start_new_session=True)
    until(lambda: len([p for p in folder.glob("began-*") if p.read_text()]) == 2)
    return program, [psutil.Process(int(path.read_text())) for path in folder.glob("began-*")]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["draw", "train"])
def test_workers_of_a_killed_process_end(kind: str, tmp_path: Path) -> None:
    program, workers = began(kind, tmp_path)
    program.kill()
    program.wait()
    until(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers), 5)
    assert names(tmp_path) == {"began-0", "began-1"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_stop_at_once_and_begin_nothing_more(number: signal.Signals, tmp_path: Path) -> None:
    program, workers = began("draw", tmp_path)
    os.killpg(program.pid, number)
    _, errors = program.communicate(timeout=10)
    assert b"Traceback" not in errors
    assert not any(worker.is_running() for worker in workers)
    assert names(tmp_path) == {"began-0", "began-1"}


def test_workers_that_can_save_do_and_begin_nothing_more(tmp_path: Path) -> None:
    program, _ = began("train", tmp_path)
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=10)
    assert program.returncode == 130
    assert errors == b""
    assert names(tmp_path) == {"began-0", "began-1", "saved-0", "saved-1"}


def test_a_second_request_ends_workers_that_are_saving(tmp_path: Path) -> None:
    program, workers = began("train", tmp_path)
    program.send_signal(signal.SIGINT)
    time.sleep(0.15)
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=10)
    assert program.returncode == 130
    assert errors == b""
    assert not any(worker.is_running() for worker in workers)
    assert names(tmp_path) == {"began-0", "began-1"}


def threads_of_linear_algebra() -> list[int]:
    import numpy as np  # noqa: F401 - a worker loads it with its first task
    from threadpoolctl import threadpool_info

    return [pool["num_threads"] for pool in threadpool_info()]


def test_a_library_that_is_loaded_later_has_one_thread_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREADS_OF_LIBRARIES:
        monkeypatch.setenv(name, "2")
    with worker_processes(1) as pool:
        found = pool.submit(threads_of_linear_algebra).result()
    assert found
    assert set(found) == {1}


def test_an_error_of_one_task_stops_the_others() -> None:
    def fail() -> None:
        with worker_processes(2) as pool:
            sleeping = pool.submit(time.sleep, 30)
            until(sleeping.running)
            pool.submit(int, "x").result()

    start = time.monotonic()
    with pytest.raises(ValueError, match="invalid literal"):
        fail()
    assert time.monotonic() - start < 20
