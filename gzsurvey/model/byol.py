"""BYOL: two views of a galaxy predict each other, without negative examples.

Letters: N galaxies, D embedding, P projection.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from gzsurvey.recipes.training import ByolRecipe


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return the two-layer network that serves as projector and as predictor."""
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of minus the cosine between the rows of two (N, P) tensors: -1 where they agree."""
    return -nn.functional.cosine_similarity(prediction.float(), target.float(), dim=1).mean()


def tau_at(recipe: ByolRecipe, step: int, total: int) -> float:
    """Share of the target network that stays at `step` of `total`.

    The cosine schedule starts at the recipe's value and ends at 1; each value is computed from
    the recipe's, never from the one before.
    """
    if recipe.tau_schedule == "constant":
        return recipe.tau
    progress = min(step / max(total, 1), 1.0)
    return 1.0 - (1.0 - recipe.tau) * (math.cos(math.pi * progress) + 1.0) / 2.0


class BYOL(nn.Module):
    """Projector, predictor and the target network beside an online encoder.

    The online encoder belongs to the exported network and is handed in at each call, so that it
    has one owner. The target is a separate copy of encoder and projector: no gradient reaches
    it, and it moves by `update_target`. Its batch norms use the statistics of their own batch;
    buffers are not averaged.

    Parameters
    ----------
    encoder : nn.Module
        The online encoder: images to embeddings (N, D). Copied for the target.
    embedding_size : int
        D.
    recipe : ByolRecipe
        Sizes and the target's pace.
    """

    def __init__(self, encoder: nn.Module, embedding_size: int, recipe: ByolRecipe) -> None:
        super().__init__()
        self.projector = mlp(embedding_size, recipe.hidden, recipe.projection)
        self.predictor = mlp(recipe.projection, recipe.hidden, recipe.projection)
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def target(self, images: Tensor) -> Tensor:
        """Project images (N, 3, H, W) by the target network: (N, P), without gradient."""
        with torch.no_grad():
            projected: Tensor = self.target_projector(self.target_encoder(images))
        return projected

    def loss(self, projections: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        """Symmetric loss of two views.

        Parameters
        ----------
        projections : two of float, shape (N, P)
            The online network's, of each view.
        targets : two of float, shape (N, P)
            The target network's, of each view.

        Returns
        -------
        float, scalar
            Between -1 (each view predicts the other) and 1.
        """
        first, second = (self.predictor(projection) for projection in projections)
        return (negative_cosine(first, targets[1]) + negative_cosine(second, targets[0])) / 2.0

    @torch.no_grad()
    def update_target(self, encoder: nn.Module, tau: float) -> None:
        """Move the target's parameters: ``tau * target + (1 - tau) * online``."""
        online: list[Tensor] = [*encoder.parameters(), *self.projector.parameters()]
        target: list[Tensor] = [*self.target_encoder.parameters(), *self.target_projector.parameters()]
        torch._foreach_lerp_(target, online, 1.0 - tau)
