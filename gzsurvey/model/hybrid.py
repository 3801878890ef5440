"""One program for three pretrainings: hybrid, supervised, contrastive.

Letters: N galaxies, A answers, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gzsurvey.model.byol import BYOL
from gzsurvey.model.dirichlet import votes_loss
from gzsurvey.model.network import Network
from gzsurvey.recipes.training import ByolRecipe, HybridRecipe


@dataclass(frozen=True)
class Losses:
    """What one batch says; scalars."""

    total: Tensor
    """Goes backwards. Its value means nothing across steps where the weighting is scale-free."""
    contrastive: Tensor | None
    supervised: Tensor | None
    labelled: Tensor
    """Galaxies with any vote."""
    spread: Tensor
    """`relative_spread` of the embedding, or of the projection where that is smaller."""
    dimensions: Tensor
    """`effective_dimensions` of the embedding."""


def combine(contrastive: Tensor, supervised: Tensor, recipe: HybridRecipe) -> Tensor:
    """Add the loss of votes to the contrastive loss.

    Parameters
    ----------
    contrastive : float, scalar
        Between -1 and 1.
    supervised : float, scalar
        At least 0; exactly 0 where no galaxy of the batch has votes.
    recipe : HybridRecipe
        The weighting.

    Returns
    -------
    float, scalar
    """
    if recipe.normalisation == "fixed":
        return contrastive + recipe.weight * supervised
    unlike = contrastive if recipe.normalisation == "scale_free" else 2.0 + 2.0 * contrastive
    size = supervised.detach()
    # A batch without labels must stay finite, backwards too: the quotient is never 0 / 0.
    known = size > 0
    scale = torch.where(known, unlike.detach().abs() / torch.where(known, size, 1.0), 0.0)
    return unlike + recipe.weight * scale * supervised


def relative_spread(vectors: Tensor) -> Tensor:
    """Say how much the directions of vectors differ: 0 when all are equal, at most 1.

    The root mean square distance of the unit vectors (N, D) from their mean.
    """
    unit = nn.functional.normalize(vectors.detach().float(), dim=1)
    return unit.var(dim=0, correction=0).sum().sqrt()


def effective_dimensions(vectors: Tensor) -> Tensor:
    """Say along how many directions vectors differ: 1 when all lie on one line.

    The participation ratio of the variances of the unit vectors (N, D) along their principal
    directions: squared sum over sum of squares.
    """
    unit = nn.functional.normalize(vectors.detach().float(), dim=1)
    centred = unit - unit.mean(dim=0)
    gram = centred @ centred.T
    return gram.trace() ** 2 / (gram**2).sum().clamp(min=1e-20)


class SupervisedModel(nn.Module):
    """Votes only, on the first view."""

    views = 1
    table: Tensor

    def __init__(self, network: Network, table: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("table", table, persistent=False)

    def forward(self, views: tuple[Tensor, ...], votes: Tensor) -> Losses:
        """Return the losses of one batch: views (N, 3, H, W), votes (N, A)."""
        outputs = self.network(views[0])
        loss, labelled = votes_loss(votes, outputs["concentration"], self.table)
        embedding = outputs["embedding"]
        return Losses(loss, None, loss, labelled, relative_spread(embedding), effective_dimensions(embedding))

    def before_step(self, tau: float) -> None:
        """Nothing moves by itself."""


class ContrastiveModel(nn.Module):
    """BYOL only; votes are not looked at."""

    views = 2

    def __init__(self, network: Network, recipe: ByolRecipe) -> None:
        super().__init__()
        self.network = network
        self.byol = BYOL(network.encoder, network.embedding_size, recipe)

    def forward(self, views: tuple[Tensor, ...], votes: Tensor) -> Losses:
        """Return the losses of one batch: views (N, 3, H, W), votes (N, A)."""
        loss, embedding, spread = contrast(self.network, self.byol, views)
        labelled = (votes > 0).any(dim=1).sum()
        return Losses(loss, loss, None, labelled, spread, effective_dimensions(embedding))

    def before_step(self, tau: float) -> None:
        """Let the target network follow."""
        self.byol.update_target(self.network.encoder, tau)


class HybridModel(nn.Module):
    """BYOL, and a vote head on the online embedding of the first view."""

    views = 2
    table: Tensor

    def __init__(self, network: Network, table: Tensor, byol: ByolRecipe, hybrid: HybridRecipe) -> None:
        super().__init__()
        self.network = network
        self.byol = BYOL(network.encoder, network.embedding_size, byol)
        self.recipe = hybrid
        self.register_buffer("table", table, persistent=False)

    def forward(self, views: tuple[Tensor, ...], votes: Tensor) -> Losses:
        """Return the losses of one batch: views (N, 3, H, W), votes (N, A)."""
        contrastive, embedding, spread = contrast(self.network, self.byol, views)
        concentrations = self.network.heads["concentration"](embedding)
        supervised, labelled = votes_loss(votes, concentrations, self.table)
        total = combine(contrastive, supervised, self.recipe)
        return Losses(total, contrastive, supervised, labelled, spread, effective_dimensions(embedding))

    def before_step(self, tau: float) -> None:
        """Let the target network follow."""
        self.byol.update_target(self.network.encoder, tau)


def contrast(network: Network, byol: BYOL, views: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Compare two views.

    Returns
    -------
    loss : float, scalar
    embedding : float, shape (N, D)
        Of the first view, with gradient.
    spread : float, scalar
    """
    first, second = (network.encoder(view) for view in views)
    projections = byol.projector(first), byol.projector(second)
    targets = byol.target(views[0]), byol.target(views[1])
    spread = torch.minimum(relative_spread(first), relative_spread(projections[0]))
    return byol.loss(projections, targets), first, spread


PretrainModel = SupervisedModel | ContrastiveModel | HybridModel
