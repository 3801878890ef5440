"""The processes that train one model together, as ``torchrun`` starts them.

Every process holds the whole model and sees its share of each batch. Losses, gradients and the
statistics of batch norm are summed over all processes, so that each takes the step that one
process with the whole batch would take. Only the first process writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from gzsurvey.errors import GZSurveyError, TrainingError
from gzsurvey.progress import Progress
from gzsurvey.training.data import Visits
from gzsurvey.training.job import choose_device

INTERRUPTED = 130
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One process among those that train one model."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files, logs and progress."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """Return which of `n` galaxies of a batch this process sees."""
        each = n // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def sum(self, values: Tensor) -> Tensor:
        """Add up `values` over all processes."""
        summed = values.detach().clone()
        if self.size > 1:
            dist.all_reduce(summed)
        return summed

    def count(self, n: int) -> int:
        """Add up a number of galaxies over all processes."""
        return n if self.size == 1 else int(self.sum(torch.tensor(n, device=self.device)))

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Add up many tensors of one type over all processes, in one message."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        with torch.no_grad():
            for tensor, summed in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
                tensor.copy_(summed.view(tensor.shape))

    def gather(self, rows: Tensor) -> Tensor:
        """Put the rows (n, ...) of all processes one below the other; each must bring as many."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process."""
        return self.count(int(flag)) > 0

    def wait(self) -> None:
        """Wait until all processes are here: what the first one writes is written."""
        self.any(False)

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in the first process, or leave with its error, in all of them."""
        outcome: list[T | GZSurveyError | None] = [None]
        if self.first:
            try:
                outcome = [make()]
            except GZSurveyError as error:
                outcome = [error]
        if self.size > 1:
            dist.broadcast_object_list(outcome, device=self.device)
        (made,) = outcome
        if isinstance(made, GZSurveyError):
            with self.alike():
                raise made
        return made  # type: ignore[return-value]

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors with those of the first process."""
        if not self.first:
            for tensor in tensors:
                tensor.detach().zero_()
        self.sum_in_place(tensors)

    @contextmanager
    def alike(self) -> Iterator[None]:
        """Around what goes wrong in all processes or in none: the first one alone says so."""
        try:
            yield
        except (GZSurveyError, KeyboardInterrupt) as error:
            if self.first:
                raise
            raise SystemExit(getattr(error, "exit_code", INTERRUPTED)) from error


@dataclass(frozen=True)
class Part:
    """The share of each batch that one process reads."""

    order: Visits
    world: World

    def at(self, step: int) -> NDArray[np.int64]:
        """Rows of one step, int64."""
        rows = self.order.at(step)
        return rows[self.world.part(len(rows))]


@contextmanager
def join(device: str) -> Iterator[World]:
    """Meet the other processes that torchrun started; alone, where it did not.

    Parameters
    ----------
    device : str
        ``auto``, ``cpu`` (messages by gloo) or ``cuda`` (by NCCL, one GPU per process).

    Yields
    ------
    World
        This process's place.

    Raises
    ------
    gzsurvey.errors.TrainingError
        There are more processes than GPUs, the environment is not torchrun's, or another
        process stopped.
    """
    chosen, size = choose_device(device), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(chosen)
        return
    world = World(_own_device(chosen), int(os.environ.get("RANK", "0")), size)
    Progress.quiet = Progress.quiet or not world.first
    try:
        _meet(world)
        yield world
    except RuntimeError as error:
        if not _is_lost_peer(error):
            raise
        raise TrainingError(
            f"process {world.rank} of {size} has lost the others; what stopped them stands above or in their node's log"
        ) from error
    dist.destroy_process_group()


def refuse_several_processes(command: str) -> None:
    """Refuse torchrun where processes would overwrite each other's OUT.

    Raises
    ------
    gzsurvey.errors.TrainingError
        This is one of several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError(f"{command} trains in one process; start it without torchrun")


def _own_device(chosen: torch.device) -> torch.device:
    if chosen.type == "cpu":
        return chosen
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if here > gpus:
        raise TrainingError(
            f"{here} processes for {gpus} GPUs; start torchrun with --nproc-per-node {gpus}, or use --device cpu"
        )
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(own)
    return own


def _meet(world: World) -> None:
    if "MASTER_ADDR" not in os.environ:
        raise TrainingError(f"WORLD_SIZE is {world.size}, but MASTER_ADDR is not set; start with torchrun, or unset it")
    if world.device.type == "cuda":
        dist.init_process_group("nccl", device_id=world.device)
    else:
        dist.init_process_group("gloo")


def _is_lost_peer(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "onnection"))
