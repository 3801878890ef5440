"""The numbers of a study as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gzsurvey.study.results import CHOSEN

PAPER = {
    "hybrid - direct": "about +4 at 44,000 labels",
    "supervised - direct": "about +4 at 44,000 labels",
    "hybrid - supervised": "+6 at 750 labels, over this or contrastive",
    "hybrid - contrastive": "+6 at 750 labels, over this or supervised",
}
"""What arXiv:2206.11927 states, in points of accuracy, on real rings."""
SHOWN = {"accuracy": "accuracy (%)", "roc_auc": "ROC-AUC (%)"}


def as_markdown(results: dict[str, Any]) -> str:
    """Write means, intervals and paired differences of every task."""
    return "\n".join(line for name, task in results["tasks"].items() for line in _task(name, task, results))


def caption(results: dict[str, Any], task: dict[str, Any]) -> str:
    """Say what the intervals hold."""
    pretraining = results["pretraining_seeds"]
    more = "" if pretraining > 1 else " One pretraining per arm: how pretrainings vary is not in them."
    sky = "simulated" if results["simulated"] else "real"
    how = f"{task['folds']}-fold cross-validation of" if task["folds"] else "tested on"
    return (
        f"{how} {task['test_galaxies']:,} {sky} galaxies, {results['runs']} label subsets"
        f"{f' x {pretraining} pretrainings' if pretraining > 1 else ''}. "
        f"Intervals: 95 %, bootstrap over test galaxies and runs.{more}"
    )


def _task(name: str, task: dict[str, Any], results: dict[str, Any]) -> Iterator[str]:
    counts = list(task["labels"])
    yield from (f"### {name}", "", caption(results, task)[0].upper() + caption(results, task)[1:], "")
    for metric, title in SHOWN.items():
        yield f"| {title}, by labels | " + " | ".join(f"{int(n):,}" for n in counts) + " |"
        yield "|---|" + "---|" * len(counts)
        for arm in arms_of(task):
            cells = (_stated(task["labels"][n]["arms"][f"{arm}/{CHOSEN}"][metric], "") for n in counts)
            yield f"| {arm} | " + " | ".join(cells) + " |"
        yield ""
    yield "| points of accuracy | " + " | ".join(f"{int(n):,}" for n in counts) + " | the paper |"
    yield "|---|" + "---|" * (len(counts) + 1)
    for pair in task["labels"][counts[0]]["differences"]:
        cells = (_stated(task["labels"][n]["differences"][pair]["accuracy"], "+") for n in counts)
        yield f"| {pair} | " + " | ".join(cells) + f" | {PAPER.get(pair, '')} |"
    yield ""


def arms_of(task: dict[str, Any]) -> list[str]:
    """Return the arms of one task's results, in their order."""
    first = next(iter(task["labels"].values()))
    return list(dict.fromkeys(key.split("/")[0] for key in first["arms"]))


def _stated(value: dict[str, float], sign: str) -> str:
    mean, low, high = (f"{100 * value[key]:{sign}.1f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
