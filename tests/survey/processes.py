"""A Dask cluster in processes of its own, and a sky server, all of which can be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SKY_SERVER = Path(__file__).with_name("sky_server.py")


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@dataclass
class Cluster:
    """One scheduler and some workers."""

    folder: Path
    port: int = field(default_factory=free_port)
    scheduler: subprocess.Popen[bytes] | None = None
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start_scheduler(self) -> None:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        self.scheduler = self._start("scheduler", options)
        _until_open(self.port, self.scheduler)

    def start_worker(self, name: str, *options: str) -> None:
        fixed = [self.address, "--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
        self.workers[name] = self._start("worker", [*fixed, "--name", name, "--death-timeout", "20", *options])

    def _start(self, kind: str, options: list[str]) -> subprocess.Popen[bytes]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
        with (self.folder / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", kind, *options], stdout=log, stderr=log, cwd=self.folder,
                env=environment,
            )  # fmt: skip

    def kill(self, name: str) -> None:
        """End the scheduler or a worker as a power cut would."""
        process = self.scheduler if name == "scheduler" else self.workers.pop(name)
        assert process is not None
        kill(process)
        if name == "scheduler":
            self.scheduler = None

    def stop(self) -> None:
        for process in [*self.workers.values(), self.scheduler]:
            if process is not None:
                kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait()


@contextmanager
def cluster(folder: Path, workers: dict[str, tuple[str, ...]]) -> Iterator[Cluster]:
    """Run a scheduler, and workers with their options by name."""
    running = Cluster(folder)
    try:
        running.start_scheduler()
        for name, options in workers.items():
            running.start_worker(name, *options)
        yield running
    finally:
        running.stop()


@dataclass
class SkyServer:
    """The simulated sky behind hips2fits, in a process of its own."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.folder / "sky.log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, str(SKY_SERVER), str(self.port)], stdout=log, stderr=log)
        _until_open(self.port, self.process)

    def kill(self) -> None:
        assert self.process is not None
        kill(self.process)


@contextmanager
def sky_server(folder: Path) -> Iterator[SkyServer]:
    running = SkyServer(folder)
    running.start()
    try:
        yield running
    finally:
        running.kill()


def _until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, f"process {process.args} ended with {process.returncode}"
        with socket.socket() as trying:
            trying.settimeout(1)
            if trying.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")
