"""Fitting a calibration to the labels of held-out galaxies, by maximum likelihood.

Letters: N galaxies, A answers, K classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gzsurvey.card import ClassesCalibration, LabelsCalibration, NumberCalibration, VotesCalibration
from gzsurvey.model.calibration import VotesCalibrator, calibrated_classes, calibrated_concentration, calibrated_labels
from gzsurvey.model.dirichlet import dirichlet_multinomial_nll
from gzsurvey.votes.ranks import STEPS, step_probability
from gzsurvey.votes.tree import DecisionTree

LEAST_GALAXIES = 20
"""With fewer nothing can be told, and predictions stay as they are."""
PRIOR = 1.0
"""Weight of each parameter's squared distance from no change, in units of one galaxy's log-likelihood:
with few galaxies a question stays as the network gives it, with hundreds their votes decide."""
LEAST_VOLUNTEERS = 10
"""Who were asked: fewer say next to nothing of where a galaxy's true fraction lies, and too few were asked of it
for the question to apply."""
MOST_GALAXIES = 10_000
"""From which ranks are learnt, evenly chosen where there are more: they take 100 MB for 30 answers of each."""
_STEPS = 200
_ROUNDS = 1000
_DIGITS = 5
"""Of a share in the card."""


@dataclass(frozen=True)
class _Fit:
    """Parameters by name, and the summed loss without and with them."""

    values: dict[str, NDArray[np.float64]]
    before: float
    after: float

    def per_galaxy(self, galaxies: float) -> dict[str, float]:
        return {"loss_before": self.before / galaxies, "loss_after": self.after / galaxies}


def calibrate_votes(
    concentration: NDArray[np.floating], votes: NDArray[np.integer], tree: DecisionTree
) -> VotesCalibration | None:
    """Fit each question's certainty (offset, slope), its sharpness, shifts of its answers, then their ranks.

    Parameters
    ----------
    concentration : float, shape (N, A)
        As the network gives them.
    votes : int, shape (N, A)
        Of galaxies that did not train it.
    tree : DecisionTree
        Says which columns belong together.

    Returns
    -------
    VotesCalibration or None
        None: fewer than 20 galaxies have votes.
    """
    galaxies = int((votes > 0).any(axis=1).sum())
    if galaxies < LEAST_GALAXIES:
        return None
    fits = [_question(concentration[:, q.columns], votes[:, q.columns]) for q in tree.questions]
    fitted = VotesCalibration(
        offset=tuple(float(fit.values["offset"][0]) for fit in fits),
        slope=tuple(float(np.exp(fit.values["slope"][0])) for fit in fits),
        sharpness=tuple(float(np.exp(fit.values["sharpness"][0])) for fit in fits),
        shift=tuple(float(value) for fit in fits for value in fit.values["shift"]),
        galaxies=galaxies,
        loss_before=sum(fit.before for fit in fits) / galaxies,
        loss_after=sum(fit.after for fit in fits) / galaxies,
    )
    given = torch.from_numpy(np.asarray(concentration, dtype=np.float32))
    calibrated = VotesCalibrator(tree, fitted)(given).numpy().astype(np.float64)
    return fitted.model_copy(update={"ranks": _ranks(calibrated, votes, tree)})


def _ranks(
    concentration: NDArray[np.float64], votes: NDArray[np.integer], tree: DecisionTree
) -> tuple[tuple[float, ...], ...]:
    """Fit where true fractions lie in the beta distributions of each answer: shares of `STEPS` steps.

    Those of one answer start from those of the answers of the same name in all campaigns, and these from even ones.
    """
    rows = np.linspace(0, len(votes) - 1, min(len(votes), MOST_GALAXIES)).astype(np.int64)
    votes, concentration = votes[rows], concentration[rows]
    known: dict[int, NDArray[np.float64]] = {}
    namesakes: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for question in tree.questions:
        n = votes[:, question.columns].sum(axis=1)
        asked = np.flatnonzero(n >= LEAST_VOLUNTEERS)
        k, a = votes[asked, question.columns], concentration[asked, question.columns]
        answers = len(question.answers)
        steps = step_probability(k.T.ravel(), np.tile(n[asked], answers), a.T.ravel(),
                                 (a.sum(axis=1, keepdims=True) - a).T.ravel())  # fmt: skip
        for place, answer in enumerate(question.answers):
            known[question.start + place] = steps[place * len(asked) : (place + 1) * len(asked)]
            namesakes[question.label, answer].append(question.start + place)
    found: dict[int, tuple[float, ...]] = {}
    for columns in namesakes.values():
        alike = _shares(np.concatenate([known[column] for column in columns]), None)
        found |= {column: _stated(_shares(known[column], alike)) for column in columns}
    return tuple(found[column] for column in range(tree.n_answers))


def _shares(steps: NDArray[np.float64], prior: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """Return the shares (K,) that make the votes likeliest, by expectation maximisation.

    Parameters
    ----------
    steps : float64, shape (N, K)
        Probability of each step for each galaxy, if all were as common.
    prior : float64, shape (K,), or None
        What `PRIOR` galaxies more would say; None: even shares. Returned if there are too few galaxies.
    """
    if len(steps) < LEAST_GALAXIES:
        return prior
    start = np.full(STEPS, 1.0 / STEPS) if prior is None else prior
    shares = start
    for _ in range(_ROUNDS):
        counted = shares * ((1.0 / (steps @ shares)) @ steps)
        shares = (counted + PRIOR * start) / (len(steps) + PRIOR)
    return shares


def _stated(shares: NDArray[np.float64] | None) -> tuple[float, ...]:
    return () if shares is None else tuple(np.round(shares, _DIGITS).tolist())


def _question(concentration: NDArray[np.floating], votes: NDArray[np.integer]) -> _Fit:
    """Fit one question to the galaxies of whom it was asked: concentrations and votes of its answers."""
    asked = np.flatnonzero(votes.sum(axis=1) > 0)
    given = torch.from_numpy(np.asarray(concentration[asked], dtype=np.float64))
    counts = torch.from_numpy(votes[asked])
    answers = votes.shape[1]
    member, table = torch.ones(answers, 1, dtype=torch.float64), torch.arange(answers)[None]

    def loss(offset: Tensor, slope: Tensor, sharpness: Tensor, shift: Tensor) -> Tensor:
        calibrated = calibrated_concentration(given, member, offset, torch.exp(slope), torch.exp(sharpness), shift)
        return dirichlet_multinomial_nll(counts, calibrated, table).sum()

    return _descend(loss, {"offset": 1, "slope": 1, "sharpness": 1, "shift": answers})


def calibrate_classes(
    probability: NDArray[np.floating], target: NDArray[np.int64], weight: NDArray[np.floating]
) -> ClassesCalibration | None:
    """Fit one sharpness and a shift per class.

    Parameters
    ----------
    probability : float, shape (N, K)
        As the network gives them; rows add up to 1.
    target : int64, shape (N,)
        Classes of galaxies that did not train it.
    weight : float, shape (N,)
        Of each.

    Returns
    -------
    ClassesCalibration or None
        None: fewer than 20 galaxies.
    """
    if len(target) < LEAST_GALAXIES:
        return None
    given = torch.from_numpy(np.asarray(probability, dtype=np.float64))
    true, counted = torch.from_numpy(target)[:, None], torch.from_numpy(np.asarray(weight, dtype=np.float64))

    def loss(sharpness: Tensor, shift: Tensor) -> Tensor:
        chosen = calibrated_classes(given, torch.exp(sharpness), shift).gather(1, true)[:, 0]
        return -(counted * torch.log(chosen)).sum()

    fit = _descend(loss, {"sharpness": 1, "shift": probability.shape[1]})
    return ClassesCalibration(
        sharpness=float(np.exp(fit.values["sharpness"][0])),
        shift=tuple(fit.values["shift"]),
        galaxies=len(target),
        **fit.per_galaxy(float(counted.sum())),
    )


def calibrate_labels(
    probability: NDArray[np.floating], target: NDArray[np.floating], weight: NDArray[np.floating]
) -> LabelsCalibration | None:
    """Fit sharpness and shift of each class by itself.

    Parameters
    ----------
    probability : float, shape (N, K)
        As the network gives them.
    target : float, shape (N, K)
        1 or 0, NaN where not known, of galaxies that did not train it.
    weight : float, shape (N,)
        Of each.

    Returns
    -------
    LabelsCalibration or None
        None: fewer than 20 galaxies.
    """
    if len(target) < LEAST_GALAXIES:
        return None
    given = torch.from_numpy(np.asarray(probability, dtype=np.float64))
    true = torch.from_numpy(np.nan_to_num(np.asarray(target, dtype=np.float64)))
    weights = torch.from_numpy(np.asarray(weight, dtype=np.float64))
    counted = weights[:, None] * torch.from_numpy(np.isfinite(target))

    def loss(sharpness: Tensor, shift: Tensor) -> Tensor:
        predicted = calibrated_labels(given, torch.exp(sharpness), shift)
        return (nn.functional.binary_cross_entropy(predicted, true, reduction="none") * counted).sum()

    k = probability.shape[1]
    fit = _descend(loss, {"sharpness": k, "shift": k})
    return LabelsCalibration(
        sharpness=tuple(np.exp(fit.values["sharpness"])),
        shift=tuple(fit.values["shift"]),
        galaxies=len(target),
        **fit.per_galaxy(float(weights.sum())),
    )


def calibrate_number(
    moments: NDArray[np.floating], target: NDArray[np.floating], weight: NDArray[np.floating]
) -> NumberCalibration | None:
    """Fit the scale of standard deviations: the root mean square of the standardised errors, in closed form.

    Parameters
    ----------
    moments : float, shape (N, 2)
        Means and standard deviations as the network gives them.
    target : float, shape (N,)
        The numbers, of galaxies that did not train it.
    weight : float, shape (N,)
        Of each.

    Returns
    -------
    NumberCalibration or None
        None: fewer than 20 galaxies, or no error at all.
    """
    mean, deviation = np.asarray(moments, dtype=np.float64).T
    standard = (target - mean) / deviation
    scale = float(np.sqrt(np.average(standard**2, weights=weight))) if len(target) else 0.0
    if len(target) < LEAST_GALAXIES or not scale > 0:
        return None

    def loss(factor: float) -> float:
        each = 0.5 * (standard / factor) ** 2 + np.log(factor * deviation) + 0.5 * np.log(2 * np.pi)
        return float(np.average(each, weights=weight))

    return NumberCalibration(scale=scale, galaxies=len(target), loss_before=loss(1.0), loss_after=loss(scale))


def _descend(loss: Callable[..., Tensor], sizes: dict[str, int]) -> _Fit:
    """Minimise `loss` and the prior over parameters that start at 0, where nothing is changed."""
    free = {name: nn.Parameter(torch.zeros(size, dtype=torch.float64)) for name, size in sizes.items()}
    optimiser = torch.optim.LBFGS(free.values(), max_iter=_STEPS, history_size=20, line_search_fn="strong_wolfe")
    before = float(loss(**free).detach())

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(**free) + PRIOR * torch.stack([(values**2).sum() for values in free.values()]).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    after = float(loss(**free).detach())
    return _Fit({name: values.detach().numpy() for name, values in free.items()}, before, after)
