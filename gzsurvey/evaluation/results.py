"""From predictions and truth to everything that ``evaluation.json`` says.

Page, figures and the printed table read nothing else. Letters: N galaxies, M members, A answers, K classes, W
columns of the output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import ClassesHead, LabelsHead, NumberHead, TaskHead
from gzsurvey.errors import RecipeError, TableError
from gzsurvey.evaluation import classes, votes
from gzsurvey.evaluation import numbers as number_measures
from gzsurvey.evaluation.bins import FEWEST, equal_bins, reliability
from gzsurvey.evaluation.intervals import Bootstrap, Floats, Measure
from gzsurvey.evaluation.sample import Sample, TaskSample, VotesSample
from gzsurvey.evaluation.votes import Answered
from gzsurvey.outputs.prevalence import estimated_shares
from gzsurvey.outputs.rows import at_prevalence
from gzsurvey.progress import Progress
from gzsurvey.recipes.evaluation import EvaluationRecipe
from gzsurvey.votes.ranks import RankMaps
from gzsurvey.votes.tree import DecisionTree
from gzsurvey.votes.uncertainty import mixture_fractions

DRAWN_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""At which coverage is drawn, besides the recipe's."""
DRAWN_POINTS = 200
"""Of a curve against the threshold, at most."""
RELIABILITY_BINS = 10

Results = dict[str, Any]


def levels_of(recipe: EvaluationRecipe) -> tuple[float, ...]:
    """Nominal levels of coverage, ascending."""
    return tuple(sorted({*DRAWN_LEVELS, *recipe.levels}))


def level_key(level: float) -> str:
    """Return the name of a level: ``0.9``."""
    return f"{level:g}"


class Galleries:
    """Ranks galaxies by error and by uncertainty, both added up over questions."""

    def __init__(self, n: int) -> None:
        self.error, self.uncertainty, self.judged = np.zeros(n), np.zeros(n), np.zeros(n, np.int64)
        self._worst, self._note = np.full(n, -np.inf), np.full(n, "", dtype=object)

    def add(self, rows: NDArray[np.int64], error: Floats, uncertainty: Floats, notes: Sequence[str]) -> None:
        """Count one question of some galaxies: squared errors, variances, and what to say if this one errs most."""
        self.error[rows] += error
        self.uncertainty[rows] += uncertainty
        self.judged[rows] += 1
        worse = error > self._worst[rows]
        self._worst[rows] = np.where(worse, error, self._worst[rows])
        self._note[rows] = np.where(worse, np.asarray(notes, dtype=object), self._note[rows])

    def chosen(self, number: int, galaxies: Sample) -> Results:
        """Return the best, the worst and the most uncertain galaxies, `number` of each."""
        rows = np.flatnonzero(self.judged)
        error, uncertainty = (np.sqrt(v[rows] / self.judged[rows]) for v in (self.error, self.uncertainty))
        orders = {"best": error, "worst": -error, "most uncertain": -uncertainty}
        values = {"best": error, "worst": error, "most uncertain": uncertainty}
        return {
            kind: [
                {"row": int(rows[i]), "id": galaxies.name(int(rows[i])), "value": float(values[kind][i]),
                 "note": str(self._note[rows[i]])}
                for i in np.argsort(order, kind="stable")[:number]
            ]
            for kind, order in orders.items()
        }  # fmt: skip


def refuse_unjudged(counts: NDArray[np.integer], tree: DecisionTree, recipe: EvaluationRecipe) -> None:
    """Refuse galaxies of which too few have enough votes.

    Parameters
    ----------
    counts : int, shape (N, A)
        Votes.
    tree : DecisionTree
        Of these answers.
    recipe : EvaluationRecipe
        How many are enough.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No question has enough galaxies.
    """
    judged = votes.judged(counts, tree, recipe.enough_votes, recipe.asked_of)
    if judged.sum(axis=0).max(initial=0) < FEWEST:
        raise RecipeError("enough_votes", f"no question has {FEWEST} galaxies with {recipe.enough_votes} votes, "
                          f"asked of {recipe.asked_of:g} of their volunteers, here; lower it by --set")  # fmt: skip


def votes_results(
    sample: VotesSample, outputs: NDArray[np.float32], maps: Mapping[int, RankMaps], recipe: EvaluationRecipe
) -> Results:
    """Measure predicted votes, question by question.

    Parameters
    ----------
    sample : VotesSample
        Galaxies, votes, perhaps the simulator's truth.
    outputs : float32, shape (N, M, W)
        Concentrations of each member, for all questions of the model.
    maps : mapping of int to RankMaps
        Of the members' ranks, for all questions of the model, by fold; 0 where there are none.
    recipe : EvaluationRecipe
        What counts. It judges by some question, as `refuse_unjudged` makes sure.
    """
    measuring = _Measuring(recipe)
    judged = votes.judged(sample.votes, sample.tree, recipe.enough_votes, recipe.asked_of)
    truly = None if sample.truth is None else votes.truly_asked(sample.truth, sample.tree, recipe.asked_of)
    galleries = Galleries(len(sample.galaxies))
    fold = np.zeros(len(sample.galaxies), np.int64) if sample.galaxies.fold is None else sample.galaxies.fold
    said = votes.Members(outputs, maps, fold)
    levels = levels_of(recipe)
    covered, covered_truth = (np.zeros((len(sample.galaxies), len(levels) + 1)) for _ in range(2))
    questions: Results = {}
    left_out: dict[str, int] = {}
    shown = Progress("measure", len(sample.tree.questions), "questions")
    for number, question in enumerate(sample.tree.questions):
        rows = np.flatnonzero(judged[:, number])
        columns = sample.columns[question.columns]
        if len(rows) < FEWEST:
            left_out[question.name] = len(rows)
        else:
            answered = Answered(
                question, rows, sample.votes[rows, question.columns].astype(np.int64), sample.counted[rows],
                said.taken(rows, columns),
            )  # fmt: skip
            inside = votes.inside(votes.observed_ranks(answered, recipe.seed), levels)
            covered[rows] += inside
            measured = measuring.question(answered, sample.galaxies, inside)
            if sample.truth is not None and truly is not None:
                simulated = np.flatnonzero(truly[:, number])
                given = said.taken(simulated, columns)
                truth = sample.truth[simulated, question.columns]
                ranks, beyond = votes.true_ranks(truth, given, question)
                inside = votes.inside(ranks, levels)
                covered_truth[simulated] += inside
                measured["truth"] = measuring.truth(
                    truth, mixture_fractions(given.concentration, votes.alone(question)), beyond, inside
                )
            questions[question.name] = measured
            galleries.add(answered.rows, answered.squared_error, answered.variance, _notes(answered))
        shown.advance()
    shown.finish()
    return {
        "kind": "votes",
        "galaxies": len(sample.galaxies),
        "galaxies_judged": int(judged.any(axis=1).sum()),
        "galaxies_with_assumed_votes": int((~sample.counted).sum()),
        "coverage": measuring.coverage(covered),
        "truth_coverage": measuring.coverage(covered_truth),
        "questions": questions,
        "questions_left_out": left_out,
        "galleries": galleries.chosen(recipe.gallery, sample.galaxies),
    }


def _notes(answered: Answered) -> list[str]:
    """Say for each galaxy what the volunteers' favourite answer was, and how many of them the model expects."""
    favourite = answered.observed.argmax(axis=1)
    n = np.arange(len(favourite))
    rows = zip(favourite, answered.observed[n, favourite], answered.predicted[n, favourite], strict=True)
    return [f"{answered.question.name} {answered.question.answers[k]}: volunteers {o:.2f}, model {p:.2f}"
            for k, o, p in rows]  # fmt: skip


def task_results(sample: TaskSample, head: TaskHead, outputs: NDArray[np.float32], recipe: EvaluationRecipe) -> Results:
    """Measure a finetuned task.

    Parameters
    ----------
    sample : TaskSample
        Galaxies and labels.
    head : TaskHead
        The task.
    outputs : float32, shape (N, M, W)
        Of each member.
    recipe : EvaluationRecipe
        What counts.

    Raises
    ------
    gzsurvey.errors.TableError
        Too few galaxies.
    """
    if len(sample.galaxies) < FEWEST:
        raise TableError(head.task, f"{len(sample.galaxies)} labelled galaxies are left to judge by; "
                         f"at least {FEWEST} are needed")  # fmt: skip
    measuring = _Measuring(recipe)
    given = outputs.astype(np.float64)
    if isinstance(head, NumberHead):
        return measuring.number(sample, head, given)
    return measuring.classes(sample, head, given)


def check_prevalence(head: ClassesHead | LabelsHead, recipe: EvaluationRecipe) -> None:
    """Refuse shares that do not fit the classes.

    Raises
    ------
    gzsurvey.errors.RecipeError
        A class is missing or unknown, or shares of classes that exclude each other do not add up to 1.
    """
    if not isinstance(recipe.prevalence, dict):
        return
    odd = set(recipe.prevalence) ^ set(head.classes)
    if odd:
        named = ", ".join(head.classes)
        raise RecipeError("prevalence", f"must name each of {named}, and no other; {sorted(odd)[0]!r} does not fit")
    total = sum(recipe.prevalence.values())
    if isinstance(head, ClassesHead) and not math.isclose(total, 1.0, abs_tol=1e-3):
        raise RecipeError("prevalence", f"shares of classes must add up to 1, not {total:g}")


def prevalence_of(
    head: ClassesHead | LabelsHead, probability: Floats, truth: Floats, recipe: EvaluationRecipe
) -> dict[str, float]:
    """Return the shares of classes that purity is stated for.

    Parameters
    ----------
    head : ClassesHead or LabelsHead
        Classes, and their balance among the training labels.
    probability : float, shape (N, K)
        At that balance.
    truth : float, shape (N,) or (N, K)
        As of `TaskSample`.
    recipe : EvaluationRecipe
        Its `prevalence`, as `check_prevalence` accepts it.
    """
    if isinstance(recipe.prevalence, dict):
        return dict(recipe.prevalence)
    if recipe.prevalence == "estimated":
        return estimated_shares(probability, head)
    exclusive = isinstance(head, ClassesHead)
    member = np.equal.outer(truth, np.arange(len(head.classes))) if exclusive else truth
    return dict(zip(head.classes, np.nanmean(member, axis=0).tolist(), strict=True))


class _Measuring:
    """Measures with intervals as a recipe asks for."""

    def __init__(self, recipe: EvaluationRecipe) -> None:
        self.recipe = recipe
        self._bootstrap = Bootstrap(recipe.resamples, recipe.level, recipe.seed)

    def _stated(self, measure: Measure, n: int, names: tuple[str, ...]) -> Results:
        return self._bootstrap.estimate(measure, n).named(names)

    def question(self, answered: Answered, galaxies: Sample, inside: Floats) -> Results:
        recipe, n = self.recipe, len(answered.rows)
        question = answered.question
        return {
            "campaign": question.campaign,
            "label": question.label,
            "asked_after_any": [f"{label}: {answer}" for label, answer in question.asked_after_any],
            "galaxies": n,
            "confident_galaxies": int((answered.observed.max(axis=1) > recipe.confident).sum()),
            "assumed": int((~answered.counted).sum()),
            "votes_per_galaxy": float(answered.votes.sum(axis=1).mean()),
            **self._stated(votes.question_measure(answered, recipe.confident), n, votes.QUESTION_MEASURES),
            "answers": {
                answer: {
                    **self._stated(votes.answer_measure(answered, k), n, votes.ANSWER_MEASURES),
                    "reliability": reliability(answered.predicted[:, k], answered.observed[:, k], RELIABILITY_BINS),
                }
                for k, answer in enumerate(question.answers)
            },
            "coverage": self.coverage(inside),
            "trends": {
                name: self._trend(answered, values[answered.rows]) for name, values in galaxies.quantities.items()
            },
        }

    def coverage(self, inside: Floats) -> Results:
        """State the share of answers inside intervals of each level; of galaxies of whom nothing is known, none."""
        known = inside[inside[:, -1] > 0]
        names = tuple(level_key(level) for level in levels_of(self.recipe))
        if not len(known):
            return {name: {"value": math.nan, "low": math.nan, "high": math.nan} for name in names}
        return self._stated(votes.coverage_measure(known), len(known), names)

    def _trend(self, answered: Answered, quantity: Floats) -> list[Results]:
        rows = []
        for part in equal_bins(quantity, self.recipe.bins):
            own = Answered(answered.question, answered.rows[part], answered.votes[part], answered.counted[part],
                           answered.members.taken(part))  # fmt: skip
            rows.append(
                _bin(quantity[part]) | self._stated(votes.error_measure(own), len(part), ("rmse", "rmse_floor"))
            )
        return rows

    def truth(
        self, truth: Floats, predicted: NDArray[np.floating], beyond: NDArray[np.bool_], inside: Floats
    ) -> Results:
        if len(truth) < FEWEST:
            return {"galaxies": len(truth)}
        squared = ((predicted - truth) ** 2).mean(axis=1)
        return {
            "galaxies": len(truth),
            "beyond_reach": float(beyond.mean()),
            **self._stated(lambda w: np.sqrt(w @ squared / w.sum(axis=1))[:, np.newaxis], len(truth), ("rmse",)),
            "coverage": self.coverage(inside),
        }

    def number(self, sample: TaskSample, head: NumberHead, moments: Floats) -> Results:
        truth, recipe = sample.truth, self.recipe
        n = len(truth)
        measure = number_measures.number_measure(moments, truth, recipe.outlier)
        mean = moments[:, :, 0].mean(axis=1)
        variance = (moments[:, :, 1] ** 2).mean(axis=1) + moments[:, :, 0].var(axis=1)
        galleries = Galleries(n)
        notes = [f"{head.task}: label {t:.4g}, model {m:.4g}" for t, m in zip(truth, mean, strict=True)]
        galleries.add(np.arange(n), (mean - truth) ** 2, variance, notes)
        trends = {}
        for name, quantity in sample.galaxies.quantities.items():
            parts = equal_bins(quantity, recipe.bins)
            each = (number_measures.number_measure(moments[p], truth[p], recipe.outlier) for p in parts)
            trends[name] = [
                _bin(quantity[p]) | self._stated(m, len(p), number_measures.NUMBER_MEASURES)
                for p, m in zip(parts, each, strict=True)
            ]
        return {
            "kind": "number",
            "task": head.task,
            "unit": head.unit,
            "galaxies": n,
            **self._stated(measure, n, number_measures.NUMBER_MEASURES),
            "disagreement": float(moments[:, :, 0].std(axis=1).mean()),
            "coverage": self.coverage(votes.inside(number_measures.number_ranks(moments, truth), levels_of(recipe))),
            "points": [
                {"predicted": float(np.median(mean[p])), "observed": float(np.median(truth[p])),
                 "low": float(np.quantile(truth[p], 0.16)), "high": float(np.quantile(truth[p], 0.84)),
                 "galaxies": len(p)}
                for p in equal_bins(mean, RELIABILITY_BINS)
            ],
            "trends": trends,
            "galleries": galleries.chosen(recipe.gallery, sample.galaxies),
        }  # fmt: skip

    def classes(self, sample: TaskSample, head: ClassesHead | LabelsHead, outputs: Floats) -> Results:
        probability, truth, n = outputs.mean(axis=1), sample.truth, len(sample.truth)
        prevalence = prevalence_of(head, probability, truth, self.recipe)
        published = at_prevalence(probability, head, prevalence)
        galleries = Galleries(n)
        found: Results = {
            "kind": head.kind,
            "task": head.task,
            "classes": list(head.classes),
            "galaxies": n,
            "balance": dict(head.balance),
            "prevalence": prevalence,
            "prevalence_from": "given" if isinstance(self.recipe.prevalence, dict) else self.recipe.prevalence,
            "purity_asked": self.recipe.purity,
            "disagreement": float(np.sqrt(outputs.var(axis=1).sum(axis=1) / 2.0).mean()),
        }
        shares = np.array([prevalence[name] for name in head.classes])
        by_class: Results = {}
        if isinstance(head, ClassesHead):
            target = truth.astype(np.int64)
            found["confusion"] = classes.confusion(probability, target).tolist()
            found |= self._stated(classes.class_measure(probability, target), n, classes.CLASS_MEASURES)
            for k, name in enumerate(head.classes):
                by_class[name] = self._one_class(published[:, k], target, k, shares, sample.galaxies.quantities)
            own = probability[np.arange(n), target]
            spread = (probability * (1.0 - probability)).sum(axis=1)
            notes = [f"label {head.classes[t]}: {p:.2f}" for t, p in zip(target, own, strict=True)]
            galleries.add(np.arange(n), (1.0 - own) ** 2, spread, notes)
        else:
            for k, name in enumerate(head.classes):
                known = np.flatnonzero(np.isfinite(truth[:, k]))
                target, own = truth[known, k].astype(np.int64), probability[known, k]
                both = np.array([1.0 - shares[k], shares[k]])
                quantities = {q: v[known] for q, v in sample.galaxies.quantities.items()}
                binary = np.column_stack([1.0 - own, own])
                by_class[name] = {
                    "confusion": classes.confusion(binary, target).tolist(),
                    **self._stated(classes.class_measure(binary, target), len(known), classes.CLASS_MEASURES),
                    **self._one_class(published[known, k], target, 1, both, quantities),
                }
                notes = [f"{name} {t}: {p:.2f}" for t, p in zip(target, own, strict=True)]
                galleries.add(known, (own - target) ** 2, own * (1.0 - own), notes)
        return found | {
            "by_class": by_class,
            "galleries": galleries.chosen(self.recipe.gallery, sample.galaxies),
        }

    def _one_class(
        self, score: Floats, target: NDArray[np.int64], k: int, prevalence: Floats, quantities: Mapping[str, Floats]
    ) -> Results:
        """Measure one class against the rest; arguments as of `classes.curve`."""
        recipe, n = self.recipe, len(target)
        cut = self._bootstrap.estimate(classes.cut_measure(score, target, k, prevalence, recipe.purity), n)
        threshold = float(cut.value[0])
        counts = np.bincount(target, minlength=len(prevalence)).astype(np.float64)
        weight = prevalence[target] / counts[target]
        mine = (target == k).astype(np.float64)
        return {
            "galaxies": int(mine.sum()),
            "cut": cut.named(classes.CUT_MEASURES),
            "curve": _thinned(classes.curve(score, target, k, prevalence, np.ones((1, n)))),
            "reliability": reliability(score, mine, RELIABILITY_BINS, weight),
            "trends": {
                name: [
                    _bin(quantity[part]) | self._in_bin(score[part], target[part], k, prevalence, threshold)
                    for part in equal_bins(quantity, recipe.bins)
                ]
                for name, quantity in quantities.items()
            },
        }

    def _in_bin(
        self, score: Floats, target: NDArray[np.int64], k: int, prevalence: Floats, threshold: float
    ) -> Results:
        """Measure the cut of all galaxies, and the bin's own, on the galaxies of one bin."""
        n = len(target)
        fixed = classes.threshold_measure(score, target, k, prevalence, threshold)
        own = classes.cut_measure(score, target, k, prevalence, self.recipe.purity)
        return {
            "members": int((target == k).sum()),
            "at_threshold": self._stated(fixed, n, ("purity", "completeness")),
            "own_cut": self._stated(own, n, classes.CUT_MEASURES),
        }


def _bin(quantity: Floats) -> Results:
    return {
        "low": float(quantity.min()),
        "median": float(np.median(quantity)),
        "high": float(quantity.max()),
        "galaxies": len(quantity),
    }


def _thinned(found: classes.Curve) -> dict[str, list[float]]:
    points = np.unique(np.linspace(0, len(found.threshold) - 1, DRAWN_POINTS).round().astype(int))
    rows = {"threshold": found.threshold, "purity": found.purity[0], "completeness": found.completeness[0],
            "contamination": found.contamination[0]}  # fmt: skip
    return {name: values[points].tolist() for name, values in rows.items()}


def without_nan(value: Any) -> Any:
    """Return the same with None for what is not a finite number, as JSON wants it."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
