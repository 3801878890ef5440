"""What every training has around it: device, OUT, interruption, schedules, its log."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch

from gzsurvey.errors import GZSurveyError, OutputConflict, TrainingError
from gzsurvey.lock import alone_in
from gzsurvey.model.checkpoint import write_aside
from gzsurvey.recipes.training import OptimiserRecipe

JOB, LOG = "job.json", "metrics.jsonl"


def choose_device(text: str) -> torch.device:
    """Return the device that ``--device`` names.

    Raises
    ------
    gzsurvey.errors.TrainingError
        ``cuda`` where torch finds no GPU.
    """
    usable = torch.cuda.is_available()
    if text == "cuda" and not usable:
        raise TrainingError("--device cuda: torch finds no GPU here; see 'gzsurvey doctor', or use --device auto")
    return torch.device("cuda" if usable and text != "cpu" else "cpu")


ModuleT = TypeVar("ModuleT", bound=torch.nn.Module)


def on_device(module: ModuleT, device: torch.device) -> ModuleT:
    """Move a network to `device`, its filters in channels-last order: faster on CPUs and GPUs."""
    module.to(device)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


@contextmanager
def claimed(out: Path, job: dict[str, Any]) -> Iterator[bool]:
    """Make OUT, or check that it was made for the same job, and keep other processes out of it.

    Parameters
    ----------
    out : Path
        OUT.
    job : dict
        Plain values that say what is trained on what.

    Yields
    ------
    bool
        Whether the job is finished already; then OUT may be read only.

    Raises
    ------
    gzsurvey.errors.OutputConflict
        OUT belongs to another job; names what differs.
    gzsurvey.errors.OutputBusy
        Another process does this job.
    """
    if is_finished(out, job):
        yield True
        return
    with alone_in(out):
        finished = is_finished(out, job)  # perhaps just now, by the process that was in it
        if not is_claimed(out):
            write_aside(out / JOB, _job_file(job, finished=False))
        yield finished


def is_finished(out: Path, job: dict[str, Any]) -> bool:
    """Whether `job` was finished in OUT.

    Raises
    ------
    gzsurvey.errors.OutputConflict
        OUT belongs to another job; names what differs.
    """
    if not is_claimed(out):
        return False
    made = json.loads((out / JOB).read_text())
    differences = list(_differences(made["job"], json.loads(json.dumps(job))))
    if differences:
        raise OutputConflict(out, differences)
    return bool(made["finished"])


def is_claimed(out: Path) -> bool:
    """Whether OUT was made for some job."""
    return (out / JOB).is_file()


@contextmanager
def released_if_refused(out: Path, began: bool) -> Iterator[None]:
    """Give OUT up where inputs are refused before anything was made of them: corrected ones may use it.

    Parameters
    ----------
    out : Path
        OUT, claimed.
    began : bool
        Whether it was claimed before this call, so that it may hold something.
    """
    try:
        yield
    except GZSurveyError:
        if not began:
            (out / JOB).unlink(missing_ok=True)
        raise


def finish(out: Path, job: dict[str, Any]) -> None:
    """Mark OUT as finished."""
    write_aside(out / JOB, _job_file(job, finished=True))


def _job_file(job: dict[str, Any], finished: bool) -> bytes:
    return json.dumps({"finished": finished, "job": job}, indent=1).encode()


def _differences(was: Any, now: Any, key: str = "") -> Iterator[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*was, *now]):
            yield from _differences(was.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif was != now:
        yield f"{key} was {was}, now {now}"


class Interruption:
    """Whether the user or the batch system asked to stop; looked at between steps.

    Parameters
    ----------
    patience : float
        Requests that are taken calmly; the next one is obeyed at once.
    """

    def __init__(self, patience: float = 1) -> None:
        self.asked, self.left = False, patience

    def ask(self, _signal: int, _frame: FrameType | None) -> None:
        """Remember the request."""
        if self.left < 1:
            raise KeyboardInterrupt
        self.asked, self.left = True, self.left - 1


@contextmanager
def interruptible(patience: float = 1) -> Iterator[Interruption]:
    """Turn Ctrl-C and SIGTERM into a request that is obeyed between two steps.

    torchrun passes every signal on to processes that have received it already: under it, `patience`
    must be endless. It ends by itself what does not stop within 30 s. In a worker process it is endless
    for the same reason: a batch system signals worker and parent, and the parent the worker.
    """
    interruption = Interruption(patience if parent_process() is None else math.inf)
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.signal(number, interruption.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_optimiser(recipe: OptimiserRecipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Return the optimiser of `recipe`; each group may hold a ``scale`` of the learning rate."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.kind]
    optimiser: torch.optim.Optimizer = kind(
        [{"scale": 1.0} | group for group in groups],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    return optimiser


def learning_rate(recipe: OptimiserRecipe, step: int, total: int) -> float:
    """Learning rate at `step` of `total`."""
    rate = recipe.learning_rate
    if recipe.warmup_steps:
        rate *= min((step + 1) / recipe.warmup_steps, 1.0)
    if recipe.schedule == "cosine":
        rate *= (1.0 + math.cos(math.pi * min(step / max(total, 1), 1.0))) / 2.0
    return rate


def take_step(
    model: torch.nn.Module, optimiser: torch.optim.Optimizer, loss: torch.Tensor, recipe: OptimiserRecipe
) -> bool:
    """Go one step down the gradient of `loss`, unless loss or gradient are not finite.

    Returns
    -------
    bool
        Whether the step was taken.
    """
    optimiser.zero_grad(set_to_none=True)
    if not torch.isfinite(loss):
        return False
    loss.backward()  # type: ignore[no-untyped-call]
    return bool(descend(model, optimiser, recipe, torch.amp.GradScaler("cpu", enabled=False), loss))


def descend(
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    recipe: OptimiserRecipe,
    scaler: torch.amp.GradScaler,
    loss: torch.Tensor,
) -> torch.Tensor:
    """Go one step down the gradient that the parameters hold, unless it or the loss is not finite.

    That is decided where the gradient lies, so that nobody waits for a GPU: the fused optimisers
    leave weights and moments alone where their ``found_inf`` is 1.

    Returns
    -------
    bool, scalar
        Whether the step was taken.
    """
    scaler.unscale_(optimiser)
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    finite = torch.isfinite(norm) & torch.isfinite(loss.detach())
    if recipe.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), recipe.clip_norm, norm)
    if scaler.is_enabled():
        scaler.step(optimiser)
    else:
        vars(optimiser).update(grad_scale=None, found_inf=(~finite).float())
        optimiser.step()
    scaler.update()
    return finite


def append_log(out: Path, record: dict[str, Any]) -> None:
    """Add one line to ``metrics.jsonl``."""
    with (out / LOG).open("a") as file:
        file.write(json.dumps(record) + "\n")


def read_log(out: Path) -> list[dict[str, Any]]:
    """Return the records of ``metrics.jsonl``; a line that was cut short is left out."""
    path = out / LOG
    records = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        if line.endswith("}"):
            records.append(json.loads(line))
    return records


def rewind_log(out: Path, step: int) -> None:
    """Forget records of steps that are done again."""
    kept = [record for record in read_log(out) if record["step"] <= step]
    write_aside(out / LOG, "".join(json.dumps(record) + "\n" for record in kept).encode())
