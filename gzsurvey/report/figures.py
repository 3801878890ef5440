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
_BINS = 12
_WIDE = 100
"""Largest over smallest value above which a quantity is drawn on a logarithmic axis."""
_PANELS = 4
_MAP_GALAXIES = 20
"""Galaxies of a cell of a map, on average."""
_MOST_CELLS = 120
"""Along a side of a map."""
_FEWEST = 5
"""Galaxies below which a bin of a trend, or a cell of a map, is not shown."""


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
    _as_sky(axes, dec[region.rows])
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
    """Draw fractions against each quantity: medians in bins, and where 68 % of galaxies lie; None without any.

    One line of panels for each measure, with at most `_PANELS` quantities side by side.
    """
    usable = [name for name in quantities if _varies(view.numbers(name))]
    if not usable or not measures:
        return None
    groups = [usable[i : i + _PANELS] for i in range(0, len(usable), _PANELS)]
    lines, columns = len(groups) * len(measures), min(len(usable), _PANELS)
    figure = new_figure(2.8 * columns + 0.6, 2.2 * lines + 0.3)
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    pairs = [(group, measure) for group in groups for measure in measures]
    for panel_row, (group, measure) in zip(panels, pairs, strict=True):
        values = view.reliable(measure)
        for axes, name in zip(panel_row, group, strict=False):
            _draw_trend(axes, view.numbers(name), values, GREY if name in view.layers else BLUE)
            axes.set_xlabel(plain(f"{name} ({view.unit(name)})" if view.unit(name) else name), fontsize=8)
        for axes in panel_row[len(group) :]:
            axes.set_axis_off()
        panel_row[0].set_ylabel(_two_lines(measure), fontsize=8)
    return as_data_url(figure)


def _draw_trend(axes: Any, quantity: NDArray[np.float64], values: NDArray[np.float64], colour: str) -> None:
    centre, low, median, high = binned(quantity, values)
    axes.fill_between(centre, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(centre, median, color=colour, marker="o", ms=3, lw=1.2)
    if np.nanmin(quantity) > 0 and np.nanmax(quantity) > _WIDE * np.nanmin(quantity):
        axes.set_xscale("log")
    axes.set_ylim(-0.02, 1.02)
    axes.tick_params(labelsize=7)


def binned(quantity: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Describe `values` in bins of equal numbers of galaxies.

    Parameters
    ----------
    quantity, values : float64, shape (N,)
        NaN where unknown.

    Returns
    -------
    centre, low, median, high : float64, shape (B,)
        Median of the quantity; 16th, 50th and 84th percentile of the values, for bins of 5 galaxies or more.
    """
    known = np.isfinite(quantity) & np.isfinite(values)
    x, y = quantity[known], values[known]
    order = np.argsort(x, kind="stable")
    parts = [part for part in np.array_split(order, _BINS) if len(part) >= _FEWEST]
    centre = np.array([np.median(x[part]) for part in parts])
    shares = np.array([np.percentile(y[part], (16, 50, 84)) for part in parts]).reshape(len(parts), 3)
    return centre, *shares.T


def sky_trends(view: SurveyView, measures: Sequence[Measure]) -> str | None:
    """Draw means of measures in cells of the sky, to see seams and depth; None where there is no map to draw."""
    ra, dec = view.column(c.RA.name), view.column(c.DEC.name)
    if not np.isfinite(ra).any():
        return None
    found = regions(view.column(c.HEALPIX.name), ra)
    shown = []
    for measure in measures:
        values = view.reliable(measure)
        maps = [_cells(region.ra, dec[region.rows], values[region.rows]) for region in found]
        means = np.concatenate([mean[np.isfinite(mean)] for _, _, mean in maps])
        if len(means):
            shown.append((measure, maps, np.percentile(means, (2, 98))))
    if not shown:
        return None
    figure = new_figure(3.4 * len(found) + 0.8, 2.6 * len(shown) + 0.2)
    panels = figure.subplots(len(shown), len(found), squeeze=False)
    for panel_row, (measure, maps, limits) in zip(panels, shown, strict=True):
        for axes, region, (ra_edges, dec_edges, mean) in zip(panel_row, found, maps, strict=True):
            drawn = axes.pcolormesh(ra_edges, dec_edges, mean.T, vmin=limits[0], vmax=limits[1], cmap="viridis")
            _as_sky(axes, dec[region.rows])
            axes.tick_params(labelsize=7)
        panel_row[0].set_ylabel(f"{_two_lines(measure)}\n\ndeclination (deg)", fontsize=8)
        figure.colorbar(drawn, ax=panel_row.tolist(), shrink=0.9).ax.tick_params(labelsize=7)
    for axes in panels[-1]:
        axes.set_xlabel("right ascension (deg)", fontsize=8)
    return as_data_url(figure)


def _cells(ra: NDArray[Any], dec: NDArray[Any], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return edges in RA and Dec, and means in cells of some `_MAP_GALAXIES` galaxies; NaN where there are few."""
    known = np.isfinite(values)
    width, height = np.ptp(ra) * _shrink(dec), np.ptp(dec)
    side = np.sqrt(width * height * _MAP_GALAXIES / max(known.sum(), 1))
    side = max(side, width / _MOST_CELLS, height / _MOST_CELLS, 1e-6)
    shape = [max(int(np.ceil(length / side)), 1) for length in (width, height)]
    galaxies, ra_edges, dec_edges = np.histogram2d(ra[known], dec[known], shape)
    total, *_ = np.histogram2d(ra[known], dec[known], (ra_edges, dec_edges), weights=values[known])
    mean = np.divide(total, galaxies, out=np.full_like(total, np.nan), where=galaxies >= _FEWEST)
    return ra_edges, dec_edges, mean


def _as_sky(axes: Any, dec: NDArray[Any]) -> None:
    """Let east be left, and a degree as long in both directions in the middle of `dec`."""
    axes.set_aspect(1 / _shrink(dec), adjustable="box")
    axes.invert_xaxis()
    axes.ticklabel_format(useOffset=False)


def _shrink(dec: NDArray[Any]) -> float:
    return max(float(np.cos(np.radians(np.median(dec)))), 0.05)


def _two_lines(measure: Measure) -> str:
    return plain(measure.title.replace(": ", ":\n"))


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
