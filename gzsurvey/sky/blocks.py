"""Blocks: contiguous runs of targets in sky order, the unit of work and one Zarr shard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

LARGEST_BLOCK = 16_384
SMALLEST_BLOCK = 256
BLOCKS_PER_WORKER = 8
"""So that workers finish together, and a kill costs little."""


@dataclass(frozen=True, slots=True)
class Block:
    """Rows `start` to `stop` (exclusive) of a run."""

    number: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many targets."""
        return self.stop - self.start


def block_length(targets: int, workers: int, largest: int = LARGEST_BLOCK) -> int:
    """Return how many rows a block of a job has.

    Parameters
    ----------
    targets : int
        Rows of the job.
    workers : int
        Processes that will share it.
    largest : int
        Rows of a block of a big job, a multiple of 256.

    Returns
    -------
    int
        A multiple of 256: at most `largest`; for small jobs less, so that every worker
        gets at least 8 blocks, unless these would be shorter than 256 rows.
    """
    wanted = targets // (BLOCKS_PER_WORKER * max(workers, 1))
    rounded = wanted // SMALLEST_BLOCK * SMALLEST_BLOCK
    return min(max(rounded, SMALLEST_BLOCK), largest)


def block(number: int, targets: int, length: int) -> Block:
    """Return one block of `targets` rows; the last one is as short as need be."""
    if not 0 <= number < count(targets, length):
        raise IndexError(f"there is no block {number} of {count(targets, length)}")
    return Block(number, number * length, min((number + 1) * length, targets))


def blocks(targets: int, length: int) -> Iterator[Block]:
    """Yield the blocks of `targets` rows, in order."""
    for number in range(count(targets, length)):
        yield block(number, targets, length)


def count(targets: int, length: int) -> int:
    """Return how many blocks of `length` rows hold `targets` rows."""
    return -(-targets // length)
