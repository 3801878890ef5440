"""Figures of the report, as PNG in ``data:`` URLs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gzsurvey.outputs import columns as c
from gzsurvey.report.regions import Region, regions
from gzsurvey.report.survey_view import Measure, SurveyView
from gzsurvey.votes.tree import Question

BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#718096"
_CYCLE = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#b7791f", "#c53030", "#4a5568")
_MOST_POINTS = 20_000
_BINS = 8
_WIDE = 100
"""Largest over smallest value above which a quantity is drawn on a logarithmic axis."""
_FEWEST = 5
"""Galaxies below which a bin of a trend is not shown."""


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Any:
    """Return an empty matplotlib figure of this size in inches, with no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def plain(text: str) -> str:
    """Return text that matplotlib shows as it is, without reading it as a formula."""
    return text.replace("$", r"\$")


def as_data_url(figure: Any) -> str:
    """Return a figure as a PNG in a ``data:`` URL."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def sky_map(view: SurveyView) -> str | None:
    """Draw where there are predictions and misses; None without positions."""
    ra, dec = view.column(c.RA.name), view.column(c.DEC.name)
    if not np.isfinite(ra).any():
        return None
    predicted = view.predicted
    found = regions(view.column(c.HEALPIX.name), ra)
    figure = new_figure(4.6 * max(len(found), 2), 4.0)
    for i, region in enumerate(found, 1):
        _draw_region(figure.add_subplot(1, len(found), i), region, dec, predicted)
    return as_data_url(figure)


def _draw_region(axes: Any, region: Region, dec: NDArray[Any], predicted: NDArray[np.bool_]) -> None:
    rng = np.random.default_rng(0)
    for label, colour, keep in (("predicted", BLUE, predicted), ("missing", ORANGE, ~predicted)):
        rows = region.rows[keep[region.rows]]
        shown = rows if len(rows) <= _MOST_POINTS else rng.choice(rows, _MOST_POINTS, replace=False)
        at = np.searchsorted(region.rows, shown)
        size = float(np.clip(3000 / max(len(region.rows), 1), 0.5, 12))
        axes.scatter(region.ra[at], dec[shown], s=size, c=colour, linewidths=0, label=f"{label}: {len(rows):,}")
    centre = np.radians(float(np.median(dec[region.rows])))
    axes.set_aspect(1 / max(float(np.cos(centre)), 0.05), adjustable="box")
    axes.invert_xaxis()
    axes.ticklabel_format(useOffset=False)
    axes.set_xlabel("right ascension (deg)")
    axes.set_ylabel("declination (deg)")
    axes.legend(fontsize=8, loc="upper right", markerscale=3)


def fraction_histograms(view: SurveyView) -> str | None:
    """Draw how the fractions of each question are distributed; None where no question is asked."""
    asked = [(question, _fractions(view, question)) for question in view.layout.tree.questions]
    shown = [(question, fractions) for question, fractions in asked if len(fractions)]
    if not shown:
        return None
    columns = 3
    lines = -(-len(shown) // columns)
    figure = new_figure(11, 2.2 * lines + 0.3, layout=None)
    figure.subplots_adjust(0.06, 0.45 / (2.2 * lines), 0.99, 1 - 0.3 / (2.2 * lines), 0.17, 0.4)
    for i, (question, fractions) in enumerate(shown, 1):
        axes = figure.add_subplot(lines, columns, i)
        most = 1
        for answer, values, colour in zip(question.answers, fractions.T, _CYCLE * 3, strict=False):
            counts, edges = np.histogram(values, bins=25, range=(0, 1))
            axes.stairs(counts, edges, color=colour, lw=1.4, label=plain(answer))
            most = max(most, int(counts.max()))
        axes.set_title(plain(f"{question.name} ({len(fractions):,})"), fontsize=9)
        axes.set_ylim(0, 1.5 * most)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=6, loc="upper center", ncols=3, frameon=False)
    figure.supxlabel("expected fraction of volunteers", fontsize=9)
    figure.supylabel("galaxies", fontsize=9)
    return as_data_url(figure)


def _fractions(view: SurveyView, question: Question) -> NDArray[np.float64]:
    """Return the fractions of galaxies that are asked, shape (n, answers)."""
    values = np.column_stack([view.reliable(view.measure(question, answer)) for answer in question.answers])
    known: NDArray[np.float64] = values[np.isfinite(values).all(axis=1)]
    return known


def trends(view: SurveyView, quantities: Sequence[str], measures: Sequence[Measure]) -> str | None:
    """Draw mean fractions in bins of each quantity, with standard errors; None where there is none."""
    usable = [name for name in quantities if _varies(view.numbers(name))]
    if not usable or not measures:
        return None
    columns = min(3, len(usable))
    lines = -(-len(usable) // columns)
    figure = new_figure(3.7 * columns, 3.0 * lines + 0.3)
    for i, name in enumerate(usable, 1):
        axes = figure.add_subplot(lines, columns, i)
        for measure, colour in zip(measures, _CYCLE, strict=False):
            x, y, error = binned(view.numbers(name), view.reliable(measure))
            axes.errorbar(x, y, error, color=colour, marker="o", ms=3, lw=1, capsize=2, label=plain(measure.title))
        known = view.numbers(name)
        if np.nanmin(known) > 0 and np.nanmax(known) > _WIDE * np.nanmin(known):
            axes.set_xscale("log")
        unit = view.unit(name)
        axes.set_xlabel(plain(f"{name} ({unit})" if unit else name))
        axes.set_ylim(-0.02, 1.02)
        if i == 1:
            axes.set_ylabel("mean fraction")
            axes.legend(fontsize=6)
    return as_data_url(figure)


def binned(
    quantity: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Average `values` in bins of equal numbers of galaxies.

    Parameters
    ----------
    quantity, values : float64, shape (N,)
        NaN where unknown.

    Returns
    -------
    centre, mean, error : float64, shape (B,)
        Median of the quantity, mean of the values and its standard error, for bins of 5 galaxies or more.
    """
    known = np.isfinite(quantity) & np.isfinite(values)
    order = np.argsort(quantity[known], kind="stable")
    parts = [part for part in np.array_split(order, _BINS) if len(part) >= _FEWEST]
    x, y = quantity[known], values[known]
    return (
        np.array([np.median(x[part]) for part in parts]),
        np.array([y[part].mean() for part in parts]),
        np.array([y[part].std(ddof=1) / np.sqrt(len(part)) for part in parts]),
    )


def block_rates(view: SurveyView) -> str | None:
    """Draw how fast each block was; None where nothing is finished."""
    done = [entry for entry in view.entries.values() if entry.state == "done" and entry.seconds > 0]
    if not done:
        return None
    figure = new_figure(7.5, 2.4)
    axes = figure.add_subplot()
    axes.plot([entry.block for entry in done], [entry.rows / entry.seconds for entry in done], "o", ms=4, color=BLUE)
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("block")
    axes.set_ylabel("targets per second")
    return as_data_url(figure)


def _varies(values: NDArray[np.float64]) -> bool:
    """Tell a measured quantity from a flag."""
    return len(np.unique(values[np.isfinite(values)])) > _BINS
