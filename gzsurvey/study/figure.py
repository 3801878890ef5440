"""The paper's figure, with error bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gzsurvey.study.results import CHOSEN
from gzsurvey.study.table import SHOWN, arms_of, caption

STYLES = {
    "pixels": ("0.6", "v", ":"),
    "random": ("0.35", "^", ":"),
    "direct": ("tab:red", "s", "-"),
    "contrastive": ("tab:orange", "D", "-"),
    "supervised": ("tab:blue", "o", "-"),
    "hybrid": ("tab:green", "*", "-"),
}
"""Colour, marker and line of each arm."""
COLOURS, MARKERS = ("tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan", "black"), ("P", "X", "h", "<", ">")
"""Of variants, in turn: no two of thirty look alike."""


def draw_figure(results: dict[str, Any], path: Path) -> None:
    """Draw each task's accuracy and ROC-AUC against the number of labels.

    Parameters
    ----------
    results : dict
        As `gzsurvey.study.results.collect_results` makes it.
    path : Path
        The PNG.
    """
    from matplotlib.figure import Figure

    tasks = results["tasks"]
    figure = Figure(figsize=(12.5, 4.2 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), len(SHOWN), squeeze=False)
    for row, (name, task) in zip(axes, tasks.items(), strict=True):
        for panel, (metric, title) in zip(row, SHOWN.items(), strict=True):
            _panel(panel, task, metric)
            panel.set_title(f"{name}: {title}")
        row[0].set_xlabel(f"labels\n{caption(results, task)}", fontsize=8, loc="left")
    figure.legend(handles=axes[0, 0].get_legend_handles_labels()[0], loc="outside right upper", fontsize=8)
    aside = path.with_suffix(".partial.png")
    figure.savefig(aside, dpi=110)
    aside.replace(path)


def _panel(axes: Any, task: dict[str, Any], metric: str) -> None:
    counts = [int(n) for n in task["labels"]]
    arms = arms_of(task)
    variants = [arm for arm in arms if arm not in STYLES]
    turns = [(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], "--") for i in range(len(variants))]
    styles = STYLES | dict(zip(variants, turns, strict=True))
    for place, arm in enumerate(arms):
        colour, marker, line = styles[arm]
        values = [at["arms"][f"{arm}/{CHOSEN}"][metric] for at in task["labels"].values()]
        mean = [100 * value["mean"] for value in values]
        ends = [[100 * (v["mean"] - v["low"]) for v in values], [100 * (v["high"] - v["mean"]) for v in values]]
        moved = [n * 1.03 ** (place - len(arms) / 2) for n in counts]
        axes.errorbar(moved, mean, yerr=ends, color=colour, marker=marker, ls=line, capsize=2, lw=1.2, ms=5, label=arm)
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{n:,}" for n in counts])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
