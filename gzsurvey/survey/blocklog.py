"""``logs/block-NNNNNN.jsonl``: what happened to one block, one JSON line each, attempts below each other."""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from gzsurvey.outputs.paths import RunPaths
from gzsurvey.survey.activity import worker_name

OURS = logging.getLogger("gzsurvey")


@contextmanager
def written(run: Path, block: int, attempt: int) -> Iterator[None]:
    """Keep what gzsurvey logs in this process while it works on a block.

    Parameters
    ----------
    run : Path
        The RUN.
    block, attempt : int
        What is worked on.
    """
    handler = _JsonLines(RunPaths(run).block_log(block), attempt)
    level = OURS.level
    OURS.addHandler(handler)
    OURS.setLevel(min(level or logging.INFO, logging.INFO))
    try:
        yield
    finally:
        OURS.removeHandler(handler)
        OURS.setLevel(level)


class _JsonLines(logging.Handler):
    def __init__(self, path: Path, attempt: int) -> None:
        super().__init__(logging.INFO)
        self._path, self._attempt = path, attempt

    def emit(self, record: logging.LogRecord) -> None:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "worker": worker_name(),
            "attempt": self._attempt,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info and record.exc_info[1]:
            line["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        try:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("ab+") as file:
                cut_short = file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
                file.write((b"\n" if cut_short else b"") + json.dumps(line).encode() + b"\n")
        except OSError:
            return  # a full disk is said by the block, not by its log
