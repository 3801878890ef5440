"""Calibration: predictions as a network gives them, turned into predictions that mean what they say.

Each is a layer after a head, part of the exported graph. At its identity it changes nothing.

Letters: N galaxies, A answers, Q questions, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gzsurvey.card import (
    Calibration,
    ClassesCalibration,
    Head,
    LabelsCalibration,
    VotesCalibration,
    VotesHead,
)  # fmt: skip
from gzsurvey.votes.tree import DecisionTree

_LEAST = 1e-12
"""Smaller probabilities have no logarithm worth knowing."""


def membership(tree: DecisionTree) -> Tensor:
    """Return which answer belongs to which question: float32, shape (A, Q), ones and zeros."""
    member = torch.zeros(tree.n_answers, len(tree.questions))
    member[torch.arange(tree.n_answers), torch.as_tensor(tree.question_of_answer, dtype=torch.int64)] = 1.0
    return member


def calibrated_concentration(
    concentration: Tensor, member: Tensor, offset: Tensor, slope: Tensor, sharpness: Tensor, shift: Tensor
) -> Tensor:
    """Sharpen and shift the fractions of each question, rescale its certainty.

    With S the sum of a question's concentrations and f their shares, the calibrated shares are
    ``softmax(sharpness log f + shift)``, and their sum is ``exp(offset + slope log S)``.

    Parameters
    ----------
    concentration : float, shape (N, A)
        Above 0.
    member : float, shape (A, Q)
        As `membership` returns it.
    offset, slope, sharpness : float, shape (Q,)
        0, 1, 1 change nothing.
    shift : float, shape (A,)
        0 changes nothing.

    Returns
    -------
    float, shape (N, A)
    """
    total = concentration @ member
    share = torch.exp((sharpness @ member.T) * torch.log(concentration / (total @ member.T)) + shift)
    evidence = torch.exp(offset + slope * torch.log(total))
    return share * ((evidence / (share @ member)) @ member.T)


def calibrated_classes(probability: Tensor, sharpness: Tensor, shift: Tensor) -> Tensor:
    """Return ``softmax(sharpness log p + shift)``: temperature scaling with a bias per class, (N, K).

    Guo et al. 2017 (arXiv:1706.04599).
    """
    return torch.softmax(sharpness * torch.log(probability.clamp(min=_LEAST)) + shift, dim=1)


def calibrated_labels(probability: Tensor, sharpness: Tensor, shift: Tensor) -> Tensor:
    """Return ``sigmoid(sharpness logit(p) + shift)`` of each class by itself (Platt 1999), (N, K)."""
    logits = torch.log(probability.clamp(min=_LEAST)) - torch.log((1.0 - probability).clamp(min=_LEAST))
    return torch.sigmoid(sharpness * logits + shift)


class _Calibrator(nn.Module):
    member: Tensor
    offset: Tensor
    slope: Tensor
    sharpness: Tensor
    shift: Tensor
    factors: Tensor

    def keep(self, **values: Tensor) -> None:
        """Hold constants that move with the module and stay out of the checkpoint's weights."""
        for name, tensor in values.items():
            self.register_buffer(name, tensor, persistent=False)


class VotesCalibrator(_Calibrator):
    """`calibrated_concentration` as a layer."""

    def __init__(self, tree: DecisionTree, calibration: VotesCalibration) -> None:
        super().__init__()
        names = ("offset", "slope", "sharpness", "shift")
        self.keep(member=membership(tree), **{name: torch.tensor(getattr(calibration, name)) for name in names})

    def forward(self, concentration: Tensor) -> Tensor:
        """Map concentrations (N, A) to calibrated ones, (N, A)."""
        return calibrated_concentration(concentration, self.member, self.offset, self.slope, self.sharpness, self.shift)


class ClassesCalibrator(_Calibrator):
    """`calibrated_classes` as a layer."""

    def __init__(self, calibration: ClassesCalibration) -> None:
        super().__init__()
        self.keep(sharpness=torch.tensor(calibration.sharpness), shift=torch.tensor(calibration.shift))

    def forward(self, probability: Tensor) -> Tensor:
        """Map probabilities (N, K) to calibrated ones, (N, K)."""
        return calibrated_classes(probability, self.sharpness, self.shift)


class LabelsCalibrator(_Calibrator):
    """`calibrated_labels` as a layer."""

    def __init__(self, calibration: LabelsCalibration) -> None:
        super().__init__()
        self.keep(sharpness=torch.tensor(calibration.sharpness), shift=torch.tensor(calibration.shift))

    def forward(self, probability: Tensor) -> Tensor:
        """Map probabilities (N, K) to calibrated ones, (N, K)."""
        return calibrated_labels(probability, self.sharpness, self.shift)


class NumberCalibrator(_Calibrator):
    """The standard deviation rescaled; the mean as it is."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.keep(factors=torch.tensor([1.0, scale]))

    def forward(self, moments: Tensor) -> Tensor:
        """Map mean and standard deviation (N, 2) to calibrated ones, (N, 2)."""
        return moments * self.factors


def calibrator(head: Head, calibration: Calibration) -> nn.Module:
    """Build the layer that applies `calibration` to the output of `head`."""
    if isinstance(calibration, VotesCalibration):
        assert isinstance(head, VotesHead)
        return VotesCalibrator(head.tree, calibration)
    if isinstance(calibration, ClassesCalibration):
        return ClassesCalibrator(calibration)
    if isinstance(calibration, LabelsCalibration):
        return LabelsCalibrator(calibration)
    return NumberCalibrator(calibration.scale)
