"""Batch norm over the batches of all processes.

On a GPU that is torch's, in timm's wrapper, which keeps an activation that timm's layers carry.
torch's refuses tensors on a CPU; there it is the one below.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gzsurvey.model.timm_import import import_timm


class _Sum(torch.autograd.Function):
    """Sum over processes. Each one's loss depends on it, so the gradient is summed too."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        summed = values.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_context: Any, *gradients: Tensor) -> Tensor:
        summed = gradients[0].clone()
        dist.all_reduce(summed)
        return summed


class SynchronisedBatchNorm(_BatchNorm):
    """Batch norm whose statistics are those of all processes together.

    The names of its weights and buffers are torch's, so that checkpoints are the same.

    Parameters
    ----------
    like : nn.Module
        A batch norm of torch or timm: its weights and buffers are taken over, and where it has
        them, timm's ``drop`` and ``act``, which come after.
    """

    def __init__(self, like: _BatchNorm) -> None:
        super().__init__(like.num_features, like.eps, like.momentum, affine=False)
        self.affine, self.weight, self.bias = like.affine, like.weight, like.bias
        self.running_mean, self.running_var = like.running_mean, like.running_var
        self.num_batches_tracked = like.num_batches_tracked
        self.drop: nn.Module = getattr(like, "drop", nn.Identity())
        self.act: nn.Module = getattr(like, "act", nn.Identity())
        self.train(like.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, ...) per channel; every process must bring as many galaxies."""
        normalised: Tensor = self.act(self.drop(self._normalise(x) if self.training else super().forward(x)))
        return normalised

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def _normalise(self, x: Tensor) -> Tensor:
        mean, variance = self._statistics(x)
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return (x * scale.view(shape) + shift.view(shape)).to(x.dtype)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance (C,) over the galaxies of all processes; follow them in the buffers."""
        processes = dist.get_world_size()
        axes = [axis for axis in range(x.dim()) if axis != 1]
        variance, mean = torch.var_mean(x.float(), dim=axes, correction=0)
        # In float64, since the difference of the two sums loses digits.
        mean, variance = mean.double(), variance.double()
        sums: Tensor = _Sum.apply(torch.stack([mean, variance + mean**2]))  # type: ignore[no-untyped-call]
        mean, squared = sums / processes
        variance = squared - mean**2
        self._follow(mean, variance, processes * x.numel() // x.shape[1])
        return mean.float(), variance.float()

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, n: int) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        pace = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.float(), pace)
        self.running_var.lerp_((variance * n / max(n - 1, 1)).float(), pace)


def synchronise(model: nn.Module, device: torch.device) -> None:
    """Let every batch norm of `model` see the batches of all processes; names of weights stay."""
    convert: Any = import_timm().layers.convert_sync_batchnorm
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                parent.add_module(name, SynchronisedBatchNorm(child) if device.type == "cpu" else convert(child))
