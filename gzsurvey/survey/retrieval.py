"""Where the cutouts of a block are fetched and prepared: in this process, or by workers that have no GPU."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.cutouts.remote.budget import HOSTS
from gzsurvey.cutouts.source import Cutout, CutoutSource, Miss, Request
from gzsurvey.images.prepare import prepare_cutout
from gzsurvey.inference import OnnxModel
from gzsurvey.inference.predict import to_model_input
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.recipes.cluster import RetrievalPool
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.survey.record import RunRecord, read_record
from gzsurvey.survey.sources import answers, open_sources
from gzsurvey.survey.streams import merged

Arrival = tuple[int, Cutout | Miss, NDArray[Any] | None]
"""Row, answer, and the prepared image of a cutout in the model's layout."""
Retrieve = Callable[[Sequence[Request]], Iterator[Arrival]]
"""Yields one arrival for each request, in any order."""
_PIECES_PER_FETCHER = 4
"""So that the last thread of a block is not waited for long."""
_NOTHING = np.zeros(0, np.uint8)


@dataclass(frozen=True)
class Fetcher:
    """Fetches and prepares cutouts in this process.

    Parameters
    ----------
    sources : sequence of CutoutSource
        Open; the first that covers a target serves it.
    record : RunRecord
        The plan.
    preparation : Preparation
        From the model's card.
    threads : int
        That fetch and prepare side by side.
    ahead : int
        Prepared images that wait for the model at most.
    """

    sources: Sequence[CutoutSource]
    record: RunRecord
    preparation: Preparation
    threads: int = 1
    ahead: int = 1

    def __call__(self, wanted: Sequence[Request]) -> Iterator[Arrival]:
        """Yield one arrival for each request."""
        if self.threads == 1:
            return self._answered(wanted)
        length = max(-(-len(wanted) // (self.threads * _PIECES_PER_FETCHER)), 1)
        streams = [self._answered(piece) for piece in pieces(wanted, length)]
        return merged(streams, self.threads, self.ahead)

    @functools.cached_property
    def _set_names(self) -> dict[str, str]:
        """Short names of the sources, by their own."""
        return {source.name: record.name for source, record in zip(self.sources, self.record.sources, strict=True)}

    def _answered(self, wanted: Sequence[Request]) -> Iterator[Arrival]:
        for row, given in answers(self.sources, wanted, self.record.recipe.missing_limit):
            answer = replace(given, image_set=self._set_names.get(given.image_set, given.image_set))
            image = None if isinstance(answer, Miss) else prepare_cutout(answer.pixels, self.preparation)
            yield row, answer, None if image is None else to_model_input(image)


def pieces(wanted: Sequence[Request], length: int) -> list[Sequence[Request]]:
    """Return runs of at most `length` requests."""
    return [wanted[start : start + length] for start in range(0, len(wanted), length)]


@dataclass(frozen=True, slots=True)
class PieceTask:
    """What a worker without a GPU is told."""

    run: str
    session: str
    wanted: Sequence[Request]
    workers: int
    """Processes that fetch: they share what a host may be asked for."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What it answers: prepared images, compressed without loss."""

    answers: tuple[tuple[int, Cutout | Miss], ...]
    """Cutouts without their pixels."""
    images: bytes
    """Those of the cutouts, in order, shape (n, C, S, S)."""
    shape: tuple[int, ...]
    dtype: str

    def arrivals(self) -> Iterator[Arrival]:
        """Unpack."""
        import pyarrow as pa

        size = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        raw = pa.decompress(self.images, size, codec="zstd", asbytes=True) if size else b""
        images = iter(np.frombuffer(raw, self.dtype).reshape(self.shape))
        for row, answer in self.answers:
            yield row, answer, None if isinstance(answer, Miss) else next(images)


def fetch_piece(task: PieceTask) -> Piece:
    """Fetch and prepare some cutouts for a worker that has a GPU."""
    import pyarrow as pa

    HOSTS.assume(task.workers)
    arrived = list(_open_fetcher(Path(task.run), task.session)(task.wanted))
    found = [image for _, _, image in arrived if image is not None]
    images = np.stack(found) if found else _NOTHING
    packed = pa.compress(images.tobytes(), codec="zstd", asbytes=True) if found else b""
    said = tuple((row, _without_pixels(answer)) for row, answer, _ in arrived)
    return Piece(said, packed, images.shape, images.dtype.name)


def _without_pixels(answer: Cutout | Miss) -> Cutout | Miss:
    return answer if isinstance(answer, Miss) else replace(answer, pixels=_NOTHING)


@functools.lru_cache(maxsize=1)
def _open_fetcher(run: Path, _session: str) -> Fetcher:
    record = read_record(run)
    preparation = OnnxModel(RunPaths(run).model, "cpu").card.preparation
    return Fetcher(open_sources(run, record, preparation), record, preparation)


@dataclass(frozen=True)
class Pieces:
    """Has cutouts fetched and prepared by other workers of the same Dask cluster, a few pieces ahead of the model.

    Parameters
    ----------
    run : Path
        The RUN.
    session : str
        Which call of `run`.
    pool : RetrievalPool
        Which workers, how much at a time.
    workers : int
        How many of them there are.
    """

    run: Path
    session: str
    pool: RetrievalPool
    workers: int

    def __call__(self, wanted: Sequence[Request]) -> Iterator[Arrival]:
        """Yield one arrival for each request, piece by piece and in order."""
        from distributed import get_client

        client: Any = get_client()
        parts = pieces(wanted, self.pool.piece_rows)
        waiting = deque(PieceTask(str(self.run), self.session, part, self.workers) for part in parts)
        ahead: deque[Any] = deque()
        try:
            while waiting or ahead:
                while waiting and len(ahead) < self.pool.pieces_ahead:
                    task = waiting.popleft()
                    ahead.append(client.submit(fetch_piece, task, pure=False, resources={self.pool.resource: 1}))
                yield from ahead.popleft().result().arrivals()
        finally:
            client.cancel(list(ahead))
