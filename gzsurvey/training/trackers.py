"""Other programs that show a training while it runs, beside ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gzsurvey.errors import TrainingError

FOLDER = "tensorboard"


class Trackers:
    """Writes each epoch's record for the programs that a recipe names.

    Parameters
    ----------
    names : sequence of str
        ``tensorboard``, or nothing.
    out : Path
        OUT; TensorBoard's files go to ``OUT/tensorboard``.
    step : int
        Where training goes on: later records of an earlier attempt are hidden.

    Raises
    ------
    gzsurvey.errors.TrainingError
        The program is not installed.
    """

    def __init__(self, names: Sequence[str], out: Path, step: int) -> None:
        self._writers = [_tensorboard(out / FOLDER, step) for _ in names]

    def write(self, record: Mapping[str, Any]) -> None:
        """Add the numbers of one epoch at its step."""
        for writer in self._writers:
            for name, value in record.items():
                if name != "step":
                    writer.add_scalar(name, value, record["step"])
            writer.flush()


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise TrainingError(
            "trackers: tensorboard is not installed; pip install 'gzsurvey[tensorboard]', or set trackers to []"
        ) from None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
