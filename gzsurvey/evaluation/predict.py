"""What one checkpoint, or several, or several passes of one, say of galaxies. Torch is used here only.

Letters: N galaxies, n galaxies of one part, M members, W columns of the output, D embedding, S pixels on a side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gzsurvey.card import Head, VotesHead, rank_maps
from gzsurvey.errors import RecipeError
from gzsurvey.evaluation.paths import EvaluationPaths
from gzsurvey.model.checkpoint import CheckpointInfo, find_checkpoint, load_network, read_info, write_aside
from gzsurvey.model.network import Network
from gzsurvey.progress import Progress
from gzsurvey.recipes.evaluation import EvaluationRecipe
from gzsurvey.training.augment import augment, draw
from gzsurvey.training.data import as_input, read_ahead, seed_of
from gzsurvey.training.job import choose_device, on_device
from gzsurvey.votes.ranks import RankMaps

PART = 256
"""Galaxies per pass; what chance decides is drawn for each part anew."""
_PARTS_PER_SAVE = 8

Images = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
"""From rows (n,) to images (n, S, S, 3)."""


@dataclass(frozen=True)
class Mixture:
    """Whose predictions are mixed, all with equal weight."""

    checkpoints: tuple[str, ...]
    """Each the OUT of `pretrain` or `finetune`, or one file in it."""
    passes: int = 1
    """Members made of each checkpoint."""
    vary: Literal["dropout", "views"] = "dropout"
    """What differs between several passes: what dropout hides from the heads, or the view that is shown."""

    @property
    def members(self) -> int:
        """M."""
        return len(self.checkpoints) * self.passes

    def infos(self) -> tuple[CheckpointInfo, ...]:
        """What the checkpoints say of themselves."""
        return tuple(read_info(find_checkpoint(checkpoint)) for checkpoint in self.checkpoints)

    def hashes(self) -> list[str]:
        """Of the weights."""
        return [hashlib.sha256(find_checkpoint(c).read_bytes()).hexdigest() for c in self.checkpoints]


def check_alike(mixture: Mixture, infos: tuple[CheckpointInfo, ...], head: Head) -> None:
    """Refuse members that do not predict the same from the same images.

    Raises
    ------
    gzsurvey.errors.RecipeError
        Names the checkpoint and what differs from the first.
    """
    for name, info in zip(mixture.checkpoints[1:], infos[1:], strict=True):
        own = next((h for h in info.heads if h.output == head.output), None)
        if own is None or (own.kind, own.width) != (head.kind, head.width) or _answers(own) != _answers(head):
            raise RecipeError(name, f"does not predict what {mixture.checkpoints[0]} predicts ({head.output!r}); "
                              "members must have the same questions or classes")  # fmt: skip
        if info.preparation != infos[0].preparation:
            raise RecipeError(
                name, f"was trained on images prepared differently from those of {mixture.checkpoints[0]}"
            )


def _answers(head: Head) -> tuple[str, ...]:
    if head.kind == "votes":
        return head.tree.vote_columns
    return () if head.kind == "number" else head.classes


@dataclass(frozen=True)
class Predictor:
    """Shows galaxies to the members."""

    mixture: Mixture
    head: Head
    """Whose output is wanted."""
    recipe: EvaluationRecipe
    """Its `augmentation` and `seed`, for passes that differ."""
    device: str
    """``auto``, ``cpu`` or ``cuda``."""

    def predict(self, images: Images, n: int, out: Path) -> NDArray[np.float32]:
        """Predict galaxies by all members; what was finished before an interruption is not done again.

        Parameters
        ----------
        images : callable
            Gives images by row, 0 to N - 1.
        n : int
            N.
        out : Path
            OUT, of this evaluation only: it keeps the outputs.

        Returns
        -------
        float32, shape (N, M, W)
            Mapped from disk. Calibrated, as an exported model would give it, unless the recipe ignores that.
        """
        paths, chosen = EvaluationPaths(out), choose_device(self.device)
        shape = (n, self.mixture.members, self.head.width)
        done = _done(paths, shape)
        given = np.lib.format.open_memmap(paths.outputs, mode="r+" if done else "w+", dtype=np.float32, shape=shape)
        networks = [on_device(self._network(checkpoint), chosen) for checkpoint in self.mixture.checkpoints]
        shown = Progress("predict", n, "galaxies")
        shown.advance(done)
        parts = [np.arange(start, min(start + PART, n)) for start in range(done, n, PART)]
        with torch.inference_mode():
            for number, (rows, pixels) in enumerate(read_ahead((rows, images(rows)) for rows in parts), 1):
                seen = as_input(torch.from_numpy(pixels).to(chosen))
                given[rows] = np.stack([m for net in networks for m in self._passes(net, seen, int(rows[0]))], axis=1)
                shown.advance(len(rows))
                if number % _PARTS_PER_SAVE == 0:
                    _save(given, paths, int(rows[-1]) + 1)
        _save(given, paths, n)
        shown.finish()
        return given

    def rank_maps(self, mixture: Mixture) -> RankMaps:
        """Return how the ranks of true fractions are spread for each member, of a head of votes."""
        assert isinstance(self.head, VotesHead)
        used = mixture.infos() if self.recipe.calibration != "ignored" else ()
        calibrations = [info.calibration.get(self.head.output) for info in used] or [None] * len(mixture.checkpoints)
        return rank_maps([own for own in calibrations for _ in range(mixture.passes)], self.head.width)

    def _network(self, checkpoint: str) -> Network:
        network, _ = load_network(find_checkpoint(checkpoint))
        if self.recipe.calibration == "ignored":
            network.calibrators.clear()
        return network

    def _passes(self, network: Network, images: Tensor, start: int) -> Iterator[NDArray[np.float32]]:
        """Yield the output of each pass of one network, float32, shape (n, W)."""
        mixture, seeds = self.mixture, (seed_of(self.recipe.seed, start, p) for p in range(self.mixture.passes))
        if mixture.passes == 1:
            yield self._output(network, network.encoder(images))
        elif mixture.vary == "views":
            for seed in seeds:
                view = augment(images, draw(self.recipe.augmentation, len(images), seed))
                yield self._output(network, network.encoder(view))
        else:
            embedding = network.encoder(images)
            for seed in seeds:
                with torch.random.fork_rng(), _dropout(network):
                    torch.manual_seed(seed)
                    yield self._output(network, embedding)

    def _output(self, network: Network, embedding: Tensor) -> NDArray[np.float32]:
        given = network.heads[self.head.output](embedding)
        if self.head.output in network.calibrators:
            given = network.calibrators[self.head.output](given)
        array: NDArray[np.float32] = given.float().cpu().numpy()
        return array


@contextmanager
def _dropout(network: Network) -> Iterator[None]:
    """Turn on the dropout of a network's heads, and nothing else: batch norm keeps its statistics."""
    layers = [layer for layer in network.heads.modules() if isinstance(layer, nn.Dropout)]
    for layer in layers:
        layer.train()
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()


def _done(paths: EvaluationPaths, shape: tuple[int, ...]) -> int:
    """Return how many galaxies an earlier, interrupted call finished."""
    if not paths.outputs_done.is_file() or not paths.outputs.is_file():
        return 0
    said = json.loads(paths.outputs_done.read_text())
    return int(said["galaxies"]) if tuple(said["shape"]) == shape else 0


def _save(given: NDArray[np.float32], paths: EvaluationPaths, galaxies: int) -> None:
    assert isinstance(given, np.memmap)
    given.flush()
    write_aside(paths.outputs_done, json.dumps({"shape": given.shape, "galaxies": galaxies}).encode())
