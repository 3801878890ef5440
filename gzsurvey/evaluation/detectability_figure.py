"""How each vote fraction falls: one panel per change, one colour per answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

TITLES = {
    "fainter": "fainter by (mag)",
    "smaller": "size times",
    "blurred": "PSF width times",
    "noisier": "depth less by (mag)",
}
"""By change; in this order."""


def draw_detectability(table: pd.DataFrame, path: Path) -> None:
    """Draw predicted (line) and volunteers' (dashes) mean fractions against the amount of each change.

    Parameters
    ----------
    table : DataFrame
        As `gzsurvey.evaluation.detectability.follow` makes it.
    path : Path
        The PNG.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    questions = list(dict.fromkeys(table["question"]))
    figure = Figure(figsize=(15, 2.6 * len(questions)), layout="constrained")
    panels = figure.subplots(len(questions), len(TITLES), squeeze=False, sharey=True)
    for line, question in zip(panels, questions, strict=True):
        own = table[table["question"] == question]
        answers = list(dict.fromkeys(own["answer"]))
        for axes, (change, title) in zip(line, TITLES.items(), strict=True):
            part = own[own["change"] == change]
            for number, answer in enumerate(answers):
                rows, colour = part[part["answer"] == answer], colormaps["tab10"](number % 10)
                at = np.arange(len(rows))
                axes.errorbar(at, rows["predicted"], rows["standard_error"], color=colour, capsize=2, label=answer)
                axes.plot(at, rows["volunteers"], color=colour, ls="--")
            axes.set_xticks(np.arange(part["amount"].nunique()), [f"{a:g}" for a in part["amount"].unique()])
            axes.set_ylim(0, 1)
            axes.grid(alpha=0.3)
            axes.set_xlabel(title, fontsize=8)
        line[0].set_ylabel(question, fontsize=8)
        line[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    title = "Mean fraction of galaxies that plainly show an answer: line, the model; dashes, simulated volunteers"
    figure.suptitle(title, fontsize=10)
    aside = path.with_suffix(".partial.png")
    figure.savefig(aside, dpi=100)
    aside.replace(path)
