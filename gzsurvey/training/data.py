"""Batches out of a store: a pure function of seed and step, read ahead in the background.

Letters: N galaxies, A answers, S pixels on a side.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gzsurvey.dataset.store import Store
from gzsurvey.errors import TrainingError
from gzsurvey.progress import timed
from gzsurvey.recipes.training import PretrainRecipe

READ_AHEAD = 3
"""Batches that wait in memory."""
Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """Some galaxies, as they lie in the store."""

    step: int
    images: Tensor
    """uint8, or float32 flux, shape (N, S, S, 3)."""
    votes: Tensor
    """int32, shape (N, A)."""

    def to(self, device: torch.device) -> Batch:
        """Move to `device`, without waiting where memory is pinned."""
        return Batch(self.step, self.images.to(device, non_blocking=True), self.votes.to(device, non_blocking=True))


def as_input(images: Tensor) -> Tensor:
    """Turn stored images (N, S, S, 3) into network input (N, 3, S, S): uint8 into float32 from 0 to 1, flux as it is.

    In channels-last memory order, which is how the store has them.
    """
    planes = images.permute(0, 3, 1, 2)
    return planes.float().div_(255.0) if images.dtype == torch.uint8 else planes


def as_stored(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn network input back into images (N, S, S, 3), `dtype` being that of the store."""
    pixels = (inputs * 255.0).round().to(dtype) if dtype == torch.uint8 else inputs
    return pixels.permute(0, 2, 3, 1)


class Order:
    """Which galaxies come at which step: every epoch its own permutation.

    Parameters
    ----------
    rows : int64, shape (n,)
        Rows of the store to be visited.
    batch_size : int
        Galaxies per step; all of them where there are fewer. What does not fill a batch is
        left out until the next epoch draws again.
    seed : int
        Of the permutations.
    """

    def __init__(self, rows: NDArray[np.int64], batch_size: int, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self.batch_size = min(batch_size, len(rows))
        self.steps_per_epoch = len(rows) // self.batch_size
        self._epoch = -1
        self._permutation: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def at(self, step: int) -> NDArray[np.int64]:
        """Rows of one step, int64, shape (batch_size,): the same whenever it is asked."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._permutation = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
            self._epoch = epoch
        start = place * self.batch_size
        return self.rows[self._permutation[start : start + self.batch_size]]


class StratifiedOrder(Order):
    """Batches of two kinds of galaxies, equally many of each kind in every one.

    Each kind comes as permutation after permutation of its own, so the smaller one is shuffled
    again as soon as it runs out, and no galaxy comes twice before all of its kind came once. An
    epoch is as many steps as without strata.

    Parameters
    ----------
    labelled, others : int64, shapes (n,) and (m,)
        Rows of the store.
    labelled_share : float
        Of a batch, rounded to whole galaxies, at least one of each kind.
    batch_size, seed : int
        As for `Order`.
    """

    def __init__(
        self,
        labelled: NDArray[np.int64],
        others: NDArray[np.int64],
        labelled_share: float,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(np.concatenate([labelled, others]), batch_size, seed)
        n = min(max(round(labelled_share * self.batch_size), 1), self.batch_size - 1)
        self._kinds = _Endless(labelled, n, (seed, 0)), _Endless(others, self.batch_size - n, (seed, 1))

    def at(self, step: int) -> NDArray[np.int64]:
        """Rows of one step, int64, shape (batch_size,): the same whenever it is asked."""
        rows = np.concatenate([kind.at(step) for kind in self._kinds])
        # Mixed, so that any part of a batch holds both kinds.
        return rows[np.random.default_rng([self.seed, step, 2]).permutation(len(rows))]


class _Endless:
    """Permutation after permutation of `rows`, `size` rows a step."""

    def __init__(self, rows: NDArray[np.int64], size: int, seeds: tuple[int, int]) -> None:
        self.rows, self.size, self._seeds = rows, size, seeds
        self._permutation = lru_cache(2)(self._shuffle)

    def _shuffle(self, number: int) -> NDArray[np.int64]:
        seed, kind = self._seeds
        return np.random.default_rng([seed, number, kind]).permutation(len(self.rows))

    def at(self, step: int) -> NDArray[np.int64]:
        number, place = np.divmod(np.arange(step * self.size, (step + 1) * self.size), len(self.rows))
        parts = [self._permutation(int(n))[place[number == n]] for n in np.unique(number)]
        rows: NDArray[np.int64] = self.rows[np.concatenate(parts)]
        return rows


def choose_order(recipe: PretrainRecipe, training: NDArray[np.int64], voted: NDArray[np.int64]) -> Order:
    """Decide in which order galaxies come.

    Parameters
    ----------
    recipe : PretrainRecipe
        Its `sampling`.
    training, voted : int64, shapes (n,) and (m,)
        Rows to be visited, and those of them with any vote.

    Raises
    ------
    gzsurvey.errors.TrainingError
        Strata are asked for, and every galaxy has votes.
    """
    if recipe.sampling == "natural":
        return Order(training, recipe.batch_size, recipe.seed)
    others = np.setdiff1d(training, voted, assume_unique=True)
    if not len(others):
        raise TrainingError("sampling 'stratified': every galaxy of the store has votes; use sampling 'natural'")
    return StratifiedOrder(voted, others, recipe.labelled_share, recipe.batch_size, recipe.seed)


class Visits(Protocol):
    """Says which galaxies come at which step, as `Order` does."""

    def at(self, step: int) -> NDArray[np.int64]:
        """Rows of one step, int64."""


def batches(store: Store, order: Visits, steps: range, pinned: bool = False) -> Iterator[Batch]:
    """Yield the batches of `steps`, reading ahead in a thread.

    Parameters
    ----------
    store : Store
        Where images and votes lie.
    order : Visits
        Which rows at which step.
    steps : range
        Steps to yield.
    pinned : bool
        Put them in page-locked memory, from which a GPU copies without waiting.
    """
    return read_ahead(_read(store, order, steps, pinned))


def _read(store: Store, order: Visits, steps: range, pinned: bool) -> Iterator[Batch]:
    for step in steps:
        rows = order.at(step)
        images, votes = torch.from_numpy(store.images(rows)), torch.from_numpy(store.vote_counts(rows))
        yield Batch(step, images.pin_memory(), votes.pin_memory()) if pinned else Batch(step, images, votes)


def read_ahead(items: Iterable[Item], depth: int = READ_AHEAD) -> Iterator[Item]:
    """Yield `items`, taken from their source by a thread that is up to `depth` items ahead.

    An error of the source is raised where its item would have come. The thread ends when the
    consumer stops.
    """
    ready: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: tuple[Item | None, BaseException | None]) -> None:
        while not stop.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 (handed to the consumer, who raises it)
            put((None, error))
        else:
            put((None, StopIteration()))

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            assert item is not None
            yield item
    finally:
        stop.set()
        thread.join()


class Waiting:
    """Measures which share of its time a loop waits for its next item.

    The first item is not counted: nothing could be read ahead of it.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._waited = 0.0

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield `items`, timing each."""
        for seconds, item in timed(items):
            if self._since is not None:
                self._waited += seconds
            else:
                self._since = time.perf_counter()
            yield item

    @property
    def share(self) -> float:
        """Time waited over time passed, since the first item or the last `restart`."""
        passed = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._waited / passed if passed > 0 else 0.0

    def restart(self) -> None:
        """Forget what was measured, and begin again now."""
        self._since, self._waited = time.perf_counter(), 0.0


def seed_of(seed: int, step: int, use: int) -> int:
    """Return a seed of its own for each use at each step, so that no random state is carried along."""
    return int(np.random.SeedSequence([seed, step, use]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def labelled_rows(store: Store, rows: NDArray[np.int64], at_a_time: int = 8192) -> NDArray[np.int64]:
    """Return those of `rows` whose galaxies have any vote, int64, in the same order."""
    parts = [rows[start : start + at_a_time] for start in range(0, len(rows), at_a_time)]
    kept = [part[store.vote_counts(part).any(axis=1)] for part in parts]
    return np.concatenate(kept) if kept else rows
