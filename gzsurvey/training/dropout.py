"""Dropout drawn for the whole batch, of which each part takes its rows.

torch draws dropout for the galaxies at hand, so that what is hidden from a galaxy would depend on
how its batch is cut into micro-batches and shared among processes. Here it does not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gzsurvey.model.timm_import import import_timm


class Seen:
    """Which rows of which batch the model sees at the moment; one object for all layers."""

    def __init__(self) -> None:
        self.whole: int | None = None
        """Galaxies of the whole batch; None: those at hand are all."""
        self.rows = slice(None)


class WholeBatchDropout(nn.Module):
    """Hides a share of the numbers, or of whole galaxies, of a batch in training.

    Parameters
    ----------
    share : float
        Probability of being hidden; what stays is scaled up.
    seen : Seen
        Which galaxies come.
    galaxies : bool
        Whether a galaxy is hidden as a whole, as stochastic depth does.
    """

    def __init__(self, share: float, seen: Seen, galaxies: bool) -> None:
        super().__init__()
        self.share, self.seen, self.galaxies = share, seen, galaxies

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, ...) to (N, ...)."""
        if not self.training or self.share == 0.0:
            return x
        n = len(x) if self.seen.whole is None else self.seen.whole
        shape = [n] + [1 if self.galaxies else size for size in x.shape[1:]]
        kept = torch.rand(shape, device=x.device)[self.seen.rows] >= self.share
        return x * kept.to(x.dtype) * (1.0 / (1.0 - self.share) if self.share < 1.0 else 0.0)


def draw_for_whole_batches(model: nn.Module) -> Seen:
    """Replace torch's dropout and timm's stochastic depth in `model`.

    Returns
    -------
    Seen
        To be told before each forward pass which galaxies come.
    """
    stochastic_depth = import_timm().layers.DropPath
    seen = Seen()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout):
                parent.add_module(name, WholeBatchDropout(child.p, seen, galaxies=False))
            elif isinstance(child, stochastic_depth):
                parent.add_module(name, WholeBatchDropout(child.drop_prob or 0.0, seen, galaxies=True))
    return seen
