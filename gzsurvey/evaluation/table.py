"""The numbers of an evaluation as a short text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def as_text(results: dict[str, Any]) -> str:
    """Return what the command prints; `results` as they stand in ``evaluation.json``."""
    kinds = {"votes": _votes, "classes": _classes, "labels": _labels, "number": _number}
    head = (f"{results['galaxies']:,} galaxies, {results['members']} "
            f"{'member' if results['members'] == 1 else 'members'}; intervals hold {results['level']:.0%}")  # fmt: skip
    return "\n".join([head, *kinds[results["kind"]](results)])


def shown(value: dict[str, float | None], digits: int = 3) -> str:
    """Return a value with its interval: ``0.123 [0.120, 0.127]``; a dash where it is not known."""
    if value["value"] is None:
        return "-"
    if value["low"] is None or value["high"] is None:
        return f"{value['value']:.{digits}f}"
    return f"{value['value']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def _plain(value: dict[str, float | None], digits: int = 3) -> str:
    return "-" if value["value"] is None else f"{value['value']:.{digits}f}"


def _votes(results: dict[str, Any]) -> Iterator[str]:
    width = max(len(name) for name in results["questions"])
    yield (f"{'question':{width}}  galaxies  {'MAE':22}  RMSE   floor  volunteers  accuracy  confident  "
           "covered at 90 %")  # fmt: skip
    for name, q in results["questions"].items():
        yield (
            f"{name:{width}}  {q['galaxies']:8,}  {shown(q['mae']):22}  {_plain(q['rmse'])}  "
            f"{_plain(q['rmse_floor']):5}  "
            f"{_plain(q['volunteers'], 1):>10}  {_plain(q['accuracy']):>8}  {_plain(q['accuracy_confident']):>9}  "
            f"{_plain(q['coverage']['0.9']):>15}"
        )
    yield from _coverage(results)
    if results["questions_left_out"]:
        yield f"too few galaxies for {len(results['questions_left_out'])} questions: evaluation.json names them"


def _coverage(results: dict[str, Any]) -> Iterator[str]:
    """Yield the coverage of all questions together: of observed votes, and of a simulation's true fractions."""
    named = {"votes": results["coverage"]} | (
        {"true fractions": results["truth_coverage"]} if results["has_truth"] else {}
    )
    for name, levels in named.items():
        inside = ", ".join(f"{level:.0%}: {shown(levels[f'{level:g}'])}" for level in results["recipe"]["levels"])
        yield f"inside intervals, {name} of all questions: {inside}"


def _classes(results: dict[str, Any]) -> Iterator[str]:
    for name in ("accuracy", "balanced_accuracy", "roc_auc", "log_loss"):
        yield f"{name.replace('_', ' '):18} {shown(results[name])}"
    yield from _cuts(results)


def _labels(results: dict[str, Any]) -> Iterator[str]:
    for name, one in results["by_class"].items():
        yield f"{name}: ROC-AUC {shown(one['roc_auc'])}, balanced accuracy {shown(one['balanced_accuracy'])}"
    yield from _cuts(results)


def _cuts(results: dict[str, Any]) -> Iterator[str]:
    for name, one in results["by_class"].items():
        share, cut = results["prevalence"][name], one["cut"]
        asked = f"{name} at a prevalence of {share:.3g}: {results['purity_asked']:.0%} purity"
        if cut["threshold"]["value"] is None:
            yield f"{asked} is not reached"
        else:
            yield f"{asked} above {cut['threshold']['value']:.3f}, completeness {shown(cut['completeness'])}"


def _number(results: dict[str, Any]) -> Iterator[str]:
    for name in ("rmse", "bias", "mae", "scatter", "outliers"):
        yield f"{name:9} {shown(results[name], 4)}"
