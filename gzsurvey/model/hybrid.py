"""One program for three pretrainings: hybrid, supervised, contrastive.

Letters: N galaxies, A answers, D embedding, P projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gzsurvey.model.byol import BYOL
from gzsurvey.model.dirichlet import count_labelled, votes_loss
from gzsurvey.model.network import Network
from gzsurvey.recipes.training import ByolRecipe, HybridRecipe


@dataclass(frozen=True)
class Losses:
    """What some galaxies say: a batch, or a part of one."""

    contrastive: Tensor | None
    """Scalar, mean over the galaxies."""
    supervised: Tensor | None
    """Scalar, mean over the galaxies with any vote."""
    labelled: Tensor
    """Galaxies with any vote, scalar."""
    embedding: Tensor
    """Of the first view, without gradient, shape (N, D)."""
    projection: Tensor | None = None
    """Of the first view, without gradient, shape (N, P)."""

    @property
    def terms(self) -> dict[str, Tensor]:
        """The losses there are, by name."""
        both = {"contrastive": self.contrastive, "supervised": self.supervised}
        return {name: value for name, value in both.items() if value is not None}

    def detached(self) -> Losses:
        """Return the values alone, so that what led to them need not be kept."""
        contrastive, supervised = (
            None if value is None else value.detach() for value in (self.contrastive, self.supervised)
        )
        return Losses(contrastive, supervised, self.labelled, self.embedding, self.projection)


def combine(terms: dict[str, Tensor], pulls: dict[str, Tensor]) -> Tensor:
    """Add up terms of the loss, each by its pull: what goes backwards. Scalar."""
    total: Tensor = torch.stack([pulls[name] * term for name, term in terms.items()]).sum()
    return total


def equal_pulls(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Let every term pull with 1."""
    return {name: torch.ones_like(term) for name, term in terms.items()}


def weighted_pulls(terms: dict[str, Tensor], recipe: HybridRecipe) -> dict[str, Tensor]:
    """Say how strongly contrast and votes pull.

    Parameters
    ----------
    terms : dict of str to Tensor
        ``contrastive``, between -1 and 1, and ``supervised``, at least 0 and exactly 0 where no
        galaxy of the batch has votes; scalars, of the whole batch.
    recipe : HybridRecipe
        The weighting.

    Returns
    -------
    dict of str to Tensor
        One pull per term, without gradient.
    """
    contrastive, size = terms["contrastive"].detach(), terms["supervised"].detach()
    one = torch.ones_like(contrastive)
    if recipe.normalisation == "fixed":
        return {"contrastive": one, "supervised": recipe.weight * one}
    # Where 2 + 2 x contrastive loss is meant, its gradient is twice that of the contrastive loss.
    slope, unlike = (1.0, contrastive.abs()) if recipe.normalisation == "scale_free" else (2.0, 2.0 + 2.0 * contrastive)
    # A batch without labels must stay finite: the quotient is never 0 / 0.
    known = size > 0
    scale = torch.where(known, unlike / torch.where(known, size, 1.0), 0.0)
    return {"contrastive": slope * one, "supervised": recipe.weight * scale}


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
        return Losses(None, loss, labelled, outputs["embedding"].detach())

    def pulls(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the pull of each term of a whole batch."""
        return equal_pulls(terms)

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
        loss, embedding, projection = contrast(self.network, self.byol, views)
        return Losses(loss, None, count_labelled(votes), embedding.detach(), projection.detach())

    def pulls(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the pull of each term of a whole batch."""
        return equal_pulls(terms)

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
        contrastive, embedding, projection = contrast(self.network, self.byol, views)
        concentrations = self.network.heads["concentration"](embedding)
        supervised, labelled = votes_loss(votes, concentrations, self.table)
        return Losses(contrastive, supervised, labelled, embedding.detach(), projection.detach())

    def pulls(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the pull of each term of a whole batch."""
        return weighted_pulls(terms, self.recipe)

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
    projection : float, shape (N, P)
        Of the first view, with gradient.
    """
    first, second = (network.encoder(view) for view in views)
    projections = byol.projector(first), byol.projector(second)
    targets = byol.target(views[0]), byol.target(views[1])
    return byol.loss(projections, targets), first, projections[0]


PretrainModel = SupervisedModel | ContrastiveModel | HybridModel
