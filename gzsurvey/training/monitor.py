"""Watching an embedding while it is learned: nearest neighbours on a labelled set.

Letters: N galaxies, D embedding, K classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gzsurvey.dataset.store import Store
from gzsurvey.errors import TableError
from gzsurvey.model.network import Network
from gzsurvey.recipes.training import FinetuneTask
from gzsurvey.training import describe
from gzsurvey.training.labels import read_labels
from gzsurvey.training.metrics import class_metrics
from gzsurvey.training.pictures import rows_by_id
from gzsurvey.training.split import divide

NEIGHBOURS, TEMPERATURE, TARGETS = 100, 0.1, 0.2
"""As the authors' monitor: 80 % of the galaxies are the bank that votes on the others."""
AT_MOST = 10_000
"""Galaxies, the authors' number: each is embedded once an epoch."""


class Monitor:
    """Labelled galaxies of a store, none of its test split, divided into a bank and targets.

    Parameters
    ----------
    labels : Path
        Table with ``id`` and ``label``.
    store : Store
        Where their images are.
    seed : int
        Of the division.

    Raises
    ------
    gzsurvey.errors.TableError
        The table is wrong, has no ids, or leaves a class with fewer than two galaxies.
    """

    def __init__(self, labels: Path, store: Store, seed: int) -> None:
        table = read_labels(labels, (FinetuneTask(),))
        if table.ids is None:
            raise TableError(
                table.where, "has no ids, by which the monitor finds galaxies in the store; add a column id"
            )
        rows = rows_by_id(table, store)
        usable = np.flatnonzero(np.isin(rows, np.concatenate([store.rows(name) for name in ("train", "validation")])))
        usable = describe.some(usable, AT_MOST, seed)
        task = table.only_task
        lacking = task.lacking(usable, 2)
        if lacking is not None:
            raise TableError(table.where, f"{lacking} in the train and validation splits of {store.path}, the monitor "
                             "needs two")  # fmt: skip
        self.store, self.rows, self.target = store, rows[usable], task.target[usable]
        self.asked = divide(self.target, TARGETS, seed)

    def measure(self, network: Network, device: torch.device) -> dict[str, float]:
        """Return ``knn_accuracy`` and ``knn_balanced_accuracy`` of the targets; the network learns nothing."""
        embedding = describe.embed(network, describe.in_parts(self.store, self.rows), device)
        bank, asked = ~self.asked, self.asked
        shares = weighted_neighbours(embedding[bank], self.target[bank], embedding[asked])
        measured = class_metrics(shares, self.target[asked])
        return {f"knn_{name}": measured[name] for name in ("accuracy", "balanced_accuracy")}


def weighted_neighbours(
    bank: NDArray[np.float32], target: NDArray[np.int64], asked: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Let the nearest of a bank vote, the nearer the more.

    Parameters
    ----------
    bank, asked : float32, shapes (N, D) and (n, D)
        Embeddings. Nearness is the cosine; a neighbour's weight is exp(cosine / 0.1).
    target : int64, shape (N,)
        Classes of the bank, 0 to K - 1.

    Returns
    -------
    float64, shape (n, K)
        Shares of the 100 nearest, or of all in a smaller bank; rows add up to 1.
    """
    unit, wanted = (v / np.linalg.norm(v, axis=1, keepdims=True).clip(1e-12) for v in (bank, asked))
    shares = np.empty((len(asked), int(target.max()) + 1))
    for start in range(0, len(asked), describe.AT_A_TIME):
        cosine = wanted[start : start + describe.AT_A_TIME].astype(np.float64) @ unit.T.astype(np.float64)
        near = np.argsort(-cosine, axis=1, kind="stable")[:, :NEIGHBOURS]
        weight = np.exp((np.take_along_axis(cosine, near, axis=1) - 1.0) / TEMPERATURE)
        for k in range(shares.shape[1]):
            shares[start : start + len(near), k] = (weight * (target[near] == k)).sum(axis=1)
    summed: NDArray[np.float64] = shares.sum(axis=1, keepdims=True)
    return np.divide(shares, summed)
