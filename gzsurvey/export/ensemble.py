"""Several networks as one: side by side in one file, described by one card.

Letters: N galaxies, M members.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gzsurvey.card import Credit, Head, NumberHead, TrainingRange, VotesHead
from gzsurvey.errors import ExportError
from gzsurvey.model.checkpoint import CheckpointInfo


class Ensemble(nn.Module):
    """Networks with the same heads.

    Parameters
    ----------
    networks : sequence of nn.Module
        Images to a mapping of outputs, all with the same names and widths.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Predict with every member.

        Returns
        -------
        dict of str to Tensor
            ``embedding`` (N, D) of the first member; every other output (N, M, ...).
        """
        outputs = [network(images) for network in self.networks]
        names = [name for name in outputs[0] if name != "embedding"]
        stacked = {name: torch.stack([output[name] for output in outputs], dim=1) for name in names}
        return {"embedding": outputs[0]["embedding"]} | stacked


def describe_ensemble(infos: Sequence[CheckpointInfo], names: Sequence[str]) -> CheckpointInfo:
    """Describe several checkpoints as one; what concerns the embedding is the first's.

    Parameters
    ----------
    infos : sequence of CheckpointInfo
        At least one.
    names : sequence of str
        How the user called them, for errors.

    Raises
    ------
    gzsurvey.errors.ExportError
        They predict different things, or from images prepared differently.
    """
    first = infos[0]
    for info, name in zip(infos[1:], names[1:], strict=True):
        if info.preparation != first.preparation:
            raise ExportError(f"{name} was trained on images prepared differently from those of {names[0]}")
        if [_asked(head) for head in info.heads] != [_asked(head) for head in first.heads]:
            raise ExportError(f"{name} does not predict what {names[0]} predicts; members need equal heads")
    return first.model_copy(
        update={
            "heads": tuple(_pooled([info.heads[i] for info in infos]) for i in range(len(first.heads))),
            "simulated": all(info.simulated for info in infos),
            "credits": _credits(infos),
            "training_ranges": _ranges([info.training_ranges for info in infos]),
            "training_cells": _cells(infos),
            "dataset_sha256": _joined([info.dataset_sha256 for info in infos]),
            "recipe_sha256": _joined([info.recipe_sha256 for info in infos]),
        }
    )


def _asked(head: Head) -> dict[str, Any]:
    """What a head predicts, without what its labels were like."""
    return head.model_dump(exclude={"balance", "trained_on"})


def _pooled(heads: Sequence[Head]) -> Head:
    """Return the head of all members: mean balance, widest range."""
    first = heads[0]
    if isinstance(first, VotesHead):
        return first
    if isinstance(first, NumberHead):
        numbers = [head.trained_on for head in heads if isinstance(head, NumberHead)]
        return first.model_copy(update={"trained_on": _widest(numbers)})
    balances = [head.balance for head in heads if not isinstance(head, VotesHead | NumberHead)]
    mean = {name: sum(balance[name] for balance in balances) / len(balances) for name in first.classes}
    return first.model_copy(update={"balance": mean})


def _widest(ranges: Sequence[TrainingRange]) -> TrainingRange:
    return TrainingRange(low=min(r.low for r in ranges), high=max(r.high for r in ranges))


def _ranges(ranges: Sequence[dict[str, TrainingRange]]) -> dict[str, TrainingRange]:
    known = [name for name in ranges[0] if all(name in other for other in ranges)]
    return {name: _widest([other[name] for other in ranges]) for name in known}


def _cells(infos: Sequence[CheckpointInfo]) -> dict[str, tuple[int, ...]] | None:
    """Join the cells of training galaxies; with votes for any member counts as with votes."""
    cells = [info.training_cells for info in infos if info.training_cells is not None]
    if len(cells) < len(infos):
        return None
    voted = {cell for part in cells for cell in part["voted"]}
    seen = {cell for part in cells for cell in part["seen"]} - voted
    return {"voted": tuple(sorted(voted)), "seen": tuple(sorted(seen))}


def _credits(infos: Sequence[CheckpointInfo]) -> tuple[Credit, ...]:
    """Name every source once, with the most galaxies that any member took from it."""
    by_name: dict[str, Credit] = {}
    for credit in (credit for info in infos for credit in info.credits):
        if credit.name not in by_name or credit.galaxies > by_name[credit.name].galaxies:
            by_name[credit.name] = credit
    return tuple(by_name.values())


def _joined(digests: Sequence[str]) -> str:
    """Return the digest that all have, else the digest of all."""
    return digests[0] if len(set(digests)) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
