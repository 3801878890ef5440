"""The gradient of a whole batch that is seen in parts: micro-batches, on several processes.

The loss of a batch is a sum of terms (contrast, votes), each with a pull. Once the pulls are known the
loss is linear in what the parts add to its terms; but a scale-free pull depends on the terms of the
whole batch, which are known only after its last part. So all parts but the last are differentiated
term by term, and the gradients held until the pulls are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gzsurvey.model.hybrid import Losses, PretrainModel, combine, effective_dimensions, relative_spread
from gzsurvey.training.distributed import World

Gradients = list[Tensor | None]


@dataclass(frozen=True)
class Whole:
    """What a whole batch says; scalars."""

    total: Tensor
    """What went backwards; means nothing across steps where the weighting is scale-free."""
    terms: dict[str, Tensor]
    """``contrastive``, ``supervised``: those there are."""
    spread: Tensor
    """`relative_spread` of the embedding, or of the projection where that is smaller."""
    dimensions: Tensor
    """`effective_dimensions` of the embedding."""


@dataclass(frozen=True)
class Counts:
    """Galaxies of a whole batch."""

    galaxies: int
    labelled: int
    """Those with any vote."""


def whole_gradient(
    model: PretrainModel,
    passes: Sequence[Callable[[], Losses]],
    counts: Counts,
    world: World,
    scaler: torch.amp.GradScaler,
) -> Whole:
    """Leave the gradient of a whole batch in the parameters of `model`.

    Parameters
    ----------
    model : PretrainModel
        Its parameters hold no gradient.
    passes : sequence of callable
        Each runs the model on one of this process's parts of the batch.
    counts : Counts
        Of the whole batch.
    world : World
        Who sees the other parts.
    scaler : torch.amp.GradScaler
        Its scale is left in the gradient.

    Returns
    -------
    Whole
        The same in all processes. Nothing waits for a GPU here: whether it is finite is not looked at.
    """
    held = _Held([p for p in model.parameters() if p.requires_grad])
    seen: list[Losses] = []
    for forward in passes[:-1]:
        losses = forward()
        held.add(shares(losses, counts), scaler)
        seen.append(losses.detached())
    losses = passes[-1]()
    seen.append(losses.detached())
    whole = _whole(model, seen, counts, world)
    pulls = model.pulls(whole.terms)
    scaler.scale(combine(shares(losses, counts), pulls)).backward()  # type: ignore[no-untyped-call]
    held.release(pulls)
    world.sum_in_place([p.grad for p in held.parameters if p.grad is not None])
    return whole


def shares(losses: Losses, counts: Counts) -> dict[str, Tensor]:
    """Return what a part adds to the terms of its whole batch: contrast counts galaxies, votes labelled ones."""
    galaxies, labelled = len(losses.embedding) / counts.galaxies, losses.labelled / max(counts.labelled, 1)
    return {name: term * (galaxies if name == "contrastive" else labelled) for name, term in losses.terms.items()}


def _whole(model: PretrainModel, seen: list[Losses], counts: Counts, world: World) -> Whole:
    parts = [shares(losses, counts) for losses in seen]
    summed = {name: world.sum(torch.stack([part[name] for part in parts]).sum()) for name in parts[0]}
    embedding = world.gather(torch.cat([losses.embedding for losses in seen]))
    spread = relative_spread(embedding)
    projections = [losses.projection for losses in seen if losses.projection is not None]
    if projections:
        spread = torch.minimum(spread, relative_spread(world.gather(torch.cat(projections))))
    return Whole(combine(summed, model.pulls(summed)), summed, spread, effective_dimensions(embedding))


class _Held:
    """Gradients of terms whose pulls are not known yet."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.gradients: dict[str, Gradients] = {}

    def add(self, terms: dict[str, Tensor], scaler: torch.amp.GradScaler) -> None:
        for place, (name, term) in enumerate(terms.items()):
            more: Gradients = list(
                torch.autograd.grad(
                    scaler.scale(term), self.parameters, allow_unused=True, retain_graph=place < len(terms) - 1
                )
            )
            before = self.gradients.get(name)
            self.gradients[name] = more if before is None else [_add(a, b) for a, b in zip(before, more, strict=True)]

    @torch.no_grad()
    def release(self, pulls: dict[str, Tensor]) -> None:
        """Add them to the parameters' gradient."""
        for name, gradients in self.gradients.items():
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                if gradient is not None and parameter.grad is not None:
                    parameter.grad.add_(gradient * pulls[name])


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a.add_(b)
