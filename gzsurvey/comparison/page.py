"""``comparison.html``: one page about a comparison, with everything inside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey import __version__
from gzsurvey.report.figures import as_data_url, new_figure, plain
from gzsurvey.status import DESCRIPTIONS, Status

_DRAWN = 6
"""Answers in one figure: those that differ most."""
Columns = Mapping[str, NDArray[np.generic]]


def render(
    run: str, other: str, radius: str, pairs: int, found: Columns, statuses: Counter[tuple[int, int | None]]
) -> str:
    """Return the page as HTML; everything that comes from data is escaped.

    Parameters
    ----------
    run, other, radius : str
        What was compared, and how pairs were found.
    pairs : int
        Galaxies in both.
    found : mapping of str to array
        The columns of ``differences.ecsv``.
    statuses : Counter
        Pairs by status here and there.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    whole = [dict(zip(found, row, strict=True)) for row in zip(*found.values(), strict=True) if row[1] == "all"]
    return environment.get_template("page.html.j2").render(
        version=__version__,
        run=run,
        other=other,
        radius=radius,
        pairs=pairs,
        answers=sorted(whole, key=lambda row: -row["rms_difference"]),
        figures=list(_figures(found)),
        statuses=[(_said(ours), _said(theirs), n) for (ours, theirs), n in statuses.most_common()],
    )


def _said(status: int | None) -> str:
    if status is None:
        return "in the table"
    return f"{status} {DESCRIPTIONS[Status(status)]}" if status in set(Status) else str(status)


def _figures(found: Columns) -> Iterator[tuple[str, str]]:
    """Yield a title and a figure for each quantity."""
    quantities = [name for name in dict.fromkeys(found["quantity"].tolist()) if name != "all"]
    overall = found["quantity"] == "all"
    order = np.argsort(-np.asarray(found["rms_difference"][overall], dtype=float))[:_DRAWN]
    answers = found["answer"][overall][order].tolist()
    for quantity in quantities:
        figure = new_figure(7.5, 3.6)
        axes = figure.add_subplot()
        axes.axhline(0, color="#a0aec0", lw=1)
        for answer in answers:
            chosen = (found["quantity"] == quantity) & (found["answer"] == answer)
            _draw(axes, answer, {name: values[chosen] for name, values in found.items()})
        axes.set_xlabel(plain(quantity))
        axes.set_ylabel("mean difference")
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        yield f"Against {quantity}", as_data_url(figure)


def _draw(axes: Any, answer: str, rows: Columns) -> None:
    middle = (rows["lower"].astype(float) + rows["upper"].astype(float)) / 2
    axes.errorbar(
        middle, rows["mean_difference"].astype(float), rows["standard_error"].astype(float), fmt="o-", ms=3, lw=1,
        label=plain(answer),
    )  # fmt: skip
