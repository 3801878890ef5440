"""What a network says of galaxies with votes that do not train it: its loss, and its calibration.

Letters: n galaxies of one part, A answers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gzsurvey.card import VotesCalibration
from gzsurvey.dataset.store import Store
from gzsurvey.model.dirichlet import answer_table, dirichlet_multinomial_nll
from gzsurvey.model.network import Network
from gzsurvey.training import describe
from gzsurvey.training.calibrate import calibrate_votes
from gzsurvey.training.data import as_input

VOTES = "concentration"
CALIBRATION_GALAXIES = 10_000
"""Enough to know a question that one galaxy in a hundred is asked."""


def summed_votes_loss(network: Network, store: Store, rows: NDArray[np.int64], device: torch.device) -> float:
    """Loss of votes, summed over questions and over some galaxies, without augmentation and dropout."""
    table = answer_table(store.tree).to(device)
    parts = _predicted(network, store, rows, device)
    return sum(float(dirichlet_multinomial_nll(votes, given, table).sum()) for given, votes in parts)


def votes_calibration(
    network: Network, store: Store, rows: NDArray[np.int64], device: torch.device, seed: int
) -> dict[str, VotesCalibration]:
    """Calibrate the votes of a network on some galaxies, at most 10,000; empty where that cannot be told.

    Parameters
    ----------
    network : Network
        On `device`. Its own calibration, if it has one, is not applied.
    store : Store
        Holds images and votes.
    rows : int64, shape (N,)
        Galaxies with votes that did not train it.
    device : torch.device
        Where it runs.
    seed : int
        Of the choice among more galaxies.
    """
    if VOTES not in network.heads or not len(rows):
        return {}
    chosen = describe.some(rows, CALIBRATION_GALAXIES, seed)
    parts = [(given.float().cpu().numpy(), votes.cpu().numpy())
             for given, votes in _predicted(network, store, chosen, device)]  # fmt: skip
    given, votes = (np.concatenate(values) for values in zip(*parts, strict=True))
    fitted = calibrate_votes(given, votes, store.tree)
    return {} if fitted is None else {VOTES: fitted}


def _predicted(
    network: Network, store: Store, rows: NDArray[np.int64], device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield concentrations as the head gives them, and votes, (n, A) each."""
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(rows), describe.AT_A_TIME):
            part = rows[start : start + describe.AT_A_TIME]
            images = as_input(torch.from_numpy(store.images(part)).to(device))
            yield network.heads[VOTES](network.encoder(images)), torch.from_numpy(store.vote_counts(part)).to(device)
