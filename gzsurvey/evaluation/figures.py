"""Figures of an evaluation, drawn from what ``evaluation.json`` says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.evaluation.intervals import Floats
from gzsurvey.report.figures import BLUE, GREY, ORANGE, new_figure, plain

Results = dict[str, Any]
_CYCLE = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#b7791f", "#c53030", "#4a5568", "#0987a0")
_MARKERS = "osD^vP*X"
_PANELS = 4
"""Side by side."""


@dataclass(frozen=True)
class Drawing:
    """A figure with what is said beside it."""

    name: str
    """Of its file."""
    title: str
    caption: str
    figure: Any
    """matplotlib Figure."""


def draw(results: Results) -> Iterator[Drawing]:
    """Yield all figures; `results` as they stand in ``evaluation.json``."""
    kinds: dict[str, Callable[[Results], Iterator[Drawing]]] = {
        "votes": _votes, "classes": _classes, "labels": _classes, "number": _number,
    }  # fmt: skip
    yield from kinds[results["kind"]](results)


def _votes(results: Results) -> Iterator[Drawing]:
    yield Drawing(
        "errors", "Errors, question by question",
        "Root mean square error of the fractions with its interval; the grey bar is the volunteers' own sampling "
        "noise, below which no error can be measured. "
        "How many of a galaxy's own volunteers do as well as the model. Accuracy "
        "of the leading answer on all galaxies and on those of which volunteers are confident; the grey tick is what "
        "the commonest answer would reach.",
        _errors(results),
    )  # fmt: skip
    firsts = _first_questions(results)
    asking = _asking(firsts)
    if asking is not None:
        yield Drawing(
            "volunteers", "The model beside asking n volunteers",
            "Error of the fractions of n of a galaxy's own volunteers against all of them (line), in closed form, and "
            "of the model (level line, with its interval). First question of each campaign.",
            asking,
        )  # fmt: skip
    yield Drawing(
        "reliability", "Reliability",
        "Volunteers' mean fraction in ten bins of the predicted one, with standard errors; one colour per answer. On "
        "the diagonal predictions mean what they say.",
        _reliability({name: {a: v["reliability"] for a, v in q["answers"].items()}
                      for name, q in results["questions"].items()}, "predicted fraction", "volunteers' mean fraction"),
    )  # fmt: skip
    yield Drawing(
        "coverage", "Coverage of intervals",
        "Share of answers inside central intervals of each level, one line per question, black: all together. Below "
        "the diagonal the model is surer than it should be.",
        _vote_coverage(results),
    )  # fmt: skip
    trends = _vote_trends(firsts)
    if trends is not None:
        yield Drawing(
            "trends", "Error along size, magnitude and so on",
            "Root mean square error in bins of equal numbers of galaxies, with intervals; dashed: the volunteers' own "
            "sampling noise there. First question of each campaign.",
            trends,
        )  # fmt: skip


def _classes(results: Results) -> Iterator[Drawing]:
    if results["kind"] == "classes":
        yield Drawing(
            "confusion", "Confusion", "Galaxies by label (lines) and most probable class (columns); shade: share of "
            "the line.", _confusion(results)
        )  # fmt: skip
    yield Drawing(
        "purity", "Purity and completeness against the threshold",
        "Of a sample cut at a published probability, at the stated prevalence. Dashed: the lowest threshold of the "
        "purity asked for.",
        _purity(results),
    )  # fmt: skip
    yield Drawing("roc", "ROC", "Share of the class that is chosen against the share of the others.", _roc(results))
    yield Drawing(
        "reliability", "Reliability",
        "Share of galaxies of the class, at the stated prevalence, in ten bins of the published probability, with "
        "standard errors.",
        _reliability({name: {name: one["reliability"]} for name, one in results["by_class"].items()},
                     "published probability", "share of the class"),
    )  # fmt: skip
    trends = _class_trends(results)
    if trends is not None:
        yield Drawing(
            "trends", "Purity and completeness along size, magnitude and so on",
            "At the threshold of all galaxies, in bins of equal numbers, with intervals; the prevalence is taken to be "
            "the same in all bins.",
            trends,
        )  # fmt: skip


def _number(results: Results) -> Iterator[Drawing]:
    yield Drawing(
        "numbers", "Labels against predictions",
        "Median and central 68 % of the labels in ten bins of the prediction.", _points(results)
    )  # fmt: skip
    figure = new_figure(4.2, 3.8)
    _coverage_panel(figure.add_subplot(), {results["task"]: results["coverage"]}, results["coverage"], "labels")
    yield Drawing(
        "coverage", "Coverage of intervals", "Share of labels inside central intervals of each level.", figure
    )
    if any(results["trends"].values()):
        yield Drawing(
            "trends", "Error along size, magnitude and so on",
            "Root mean square error in bins of equal numbers of galaxies, with intervals.",
            _trend_panels({results["task"]: results}, "rmse", None),
        )  # fmt: skip


def _first_questions(results: Results) -> Results:
    """Return the first measured question of each campaign."""
    firsts: Results = {}
    for name, question in results["questions"].items():
        if question["campaign"] not in {q["campaign"] for q in firsts.values()}:
            firsts[name] = question
    return firsts


def _column(items: Collection[Results], key: str) -> tuple[Floats, Floats]:
    """Return values (n,), and how far their intervals reach to either side (2, n)."""
    ends = ("value", "low", "high")
    value, low, high = np.array([[q[key][end] for q in items] for end in ends], dtype=np.float64)
    return value, np.abs(np.stack([value - low, high - value]))


def _errors(results: Results) -> Any:
    questions = results["questions"]
    names, y = list(questions), np.arange(len(questions))
    figure = new_figure(11, 1.3 + 0.24 * len(names))
    errors, volunteers, accuracy = figure.subplots(1, 3, sharey=True, width_ratios=(1.2, 1, 1))
    floor, _ = _column(questions.values(), "rmse_floor")
    errors.barh(y, np.nan_to_num(floor), color="#cbd5e0", height=0.7, label="volunteers' sampling noise")
    _dots(errors, questions, "rmse", y, BLUE, "o", "model")
    errors.set_xlim(left=0)
    errors.set_xlabel("root mean square error")
    errors.set_yticks(y, [plain(name) for name in names], fontsize=8)
    errors.set_ylim(len(names) - 0.4, -0.6)
    _dots(volunteers, questions, "volunteers", y, BLUE, "o", "own volunteers")
    volunteers.set_xlim(left=0)
    volunteers.set_xlabel("volunteers who do as well")
    commonest, _ = _column(questions.values(), "commonest")
    accuracy.plot(commonest, y, "|", color=GREY, ms=9, mew=2, label="commonest answer")
    _dots(accuracy, questions, "accuracy", y - 0.14, BLUE, "o", "all")
    _dots(accuracy, questions, "accuracy_confident", y + 0.14, ORANGE, "s", "confident")
    accuracy.set_xlim(right=1.03)
    accuracy.set_xlabel("accuracy")
    for axes in (errors, volunteers, accuracy):
        axes.grid(axis="x", alpha=0.3)
    figure.legend(handles=[*errors.get_legend_handles_labels()[0], *accuracy.get_legend_handles_labels()[0]],
                  labels=["volunteers' sampling noise", "model", "commonest answer", "accuracy, all", "confident"],
                  loc="outside upper center", ncols=5, fontsize=8, frameon=False)  # fmt: skip
    return figure


def _dots(axes: Any, items: Results, key: str, y: NDArray[Any], colour: str, marker: str, label: str) -> None:
    value, ends = _column(items.values(), key)
    axes.errorbar(value, y, xerr=ends, color=colour, marker=marker, ms=4, ls="", lw=1, label=label)


def _asking(firsts: Results) -> Any | None:
    usable = {name: q for name, q in firsts.items() if q["volunteers"]["value"] and q["rmse_floor"]["value"]}
    if not usable:
        return None
    figure, panels = _grid(len(usable), 2.6)
    for axes, (name, q) in zip(panels, usable.items(), strict=True):
        error, noise = q["rmse"]["value"] ** 2, q["rmse_floor"]["value"] ** 2
        one = q["volunteers"]["value"] * (error + noise)
        n = np.geomspace(1, one / noise, 200)
        axes.plot(n, np.sqrt(np.maximum(one / n - noise, 0)), color=GREY, label="n volunteers")
        axes.axhline(q["rmse"]["value"], color=BLUE, label="model")
        axes.axhspan(q["rmse"]["low"], q["rmse"]["high"], color=BLUE, alpha=0.2, lw=0)
        axes.axhline(q["rmse_floor"]["value"], color="#a0aec0", ls=":", label="sampling noise of all")
        axes.axvline(q["volunteers"]["value"], color=GREY, lw=0.8, ls="--")
        axes.set_xscale("log")
        axes.set_xticks([1, 3, 10, 30], ["1", "3", "10", "30"])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_title(plain(name), fontsize=8)
    _label(figure, "volunteers asked", "root mean square error", panels[0])
    return figure


def _reliability(panels: dict[str, dict[str, list[dict[str, float]]]], x: str, y: str) -> Any:
    figure, drawn = _grid(len(panels), 2.5)
    for axes, (name, lines) in zip(drawn, panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":")
        for number, (label, rows) in enumerate(lines.items()):
            values = [[row[key] for row in rows] for key in ("predicted", "observed", "error")]
            axes.errorbar(values[0], values[1], yerr=values[2], color=_CYCLE[number % len(_CYCLE)],
                          marker=_MARKERS[number % len(_MARKERS)], ms=3, lw=0.9, label=plain(label))  # fmt: skip
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_aspect("equal")
        axes.set_title(plain(name), fontsize=8)
        if len(lines) > 1:
            axes.legend(fontsize=6, loc="upper left", frameon=False, handlelength=1)
    _label(figure, x, y)
    return figure


def _vote_coverage(results: Results) -> Any:
    questions = results["questions"]
    truths = {n: q["truth"]["coverage"] for n, q in questions.items() if "coverage" in q.get("truth", {})}
    figure = new_figure(8.6 if truths else 4.4, 4.0)
    number = 2 if truths else 1
    observed = {name: q["coverage"] for name, q in questions.items()}
    _coverage_panel(
        figure.add_subplot(1, number, 1), observed, results["coverage"], "observed votes (predictive intervals)"
    )
    if truths:
        _coverage_panel(
            figure.add_subplot(1, number, 2), truths, results["truth_coverage"],
            "simulator's true fractions (credible intervals)",
        )  # fmt: skip
    return figure


def _coverage_panel(axes: Any, by_name: dict[str, Results], together: Results, title: str) -> None:
    levels = [float(level) for level in next(iter(by_name.values()))]
    lines = np.array([[value["value"] for value in one.values()] for one in by_name.values()], dtype=float)
    lines = lines[np.isfinite(lines).all(axis=1)]
    axes.plot([0, 1], [0, 1], color=GREY, ls=":", lw=0.8)
    axes.set_title(title, fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    axes.set_xlabel("nominal level")
    axes.set_ylabel("share inside")
    if not len(lines):
        axes.text(0.5, 0.5, "votes are assumed,\nnot counted", ha="center", va="center", color=GREY)
        return
    axes.plot(levels, lines.T, color=BLUE, lw=0.8, alpha=0.45)
    axes.plot(levels, [value["value"] for value in together.values()], color="black", marker="o", ms=3, lw=1.6)


def _vote_trends(firsts: Results) -> Any | None:
    if not any(rows for q in firsts.values() for rows in q["trends"].values()):
        return None
    return _trend_panels(firsts, "rmse", "rmse_floor")


def _trend_panels(items: Results, key: str, floor: str | None) -> Any:
    quantities = list(dict.fromkeys(name for q in items.values() for name, rows in q["trends"].items() if rows))
    figure = new_figure(4.6 * min(len(quantities), 2), 3.6 * -(-len(quantities) // 2) + 0.3)
    for place, quantity in enumerate(quantities, 1):
        axes = figure.add_subplot(-(-len(quantities) // 2), min(len(quantities), 2), place)
        for number, (name, item) in enumerate(items.items()):
            rows = item["trends"].get(quantity, [])
            if rows:
                colour = _CYCLE[number % len(_CYCLE)]
                value, ends = _column(rows, key)
                x = [row["median"] for row in rows]
                axes.errorbar(x, value, yerr=ends, color=colour, marker=_MARKERS[number % len(_MARKERS)],
                              ms=4, lw=1.1, capsize=2, label=plain(name))  # fmt: skip
                if floor is not None:
                    axes.plot(x, _column(rows, floor)[0], color=colour, ls="--", lw=0.9)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(plain(quantity))
        axes.set_ylabel("root mean square error")
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=7, frameon=False)
    return figure


def _confusion(results: Results) -> Any:
    counts = np.array(results["confusion"])
    names = [plain(name) for name in results["classes"]]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 1.9 + 0.62 * len(names)
    figure = new_figure(side + 0.8, side)
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), number in np.ndenumerate(counts):
        colour = "white" if share[row, column] > 0.55 else "black"
        axes.text(
            column, row, f"{number:,}\n{share[row, column]:.0%}", ha="center", va="center", color=colour, fontsize=7
        )
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xlabel("most probable class")
    axes.set_ylabel("label")
    return figure


def _purity(results: Results) -> Any:
    figure, panels = _grid(len(results["by_class"]), 2.8)
    for axes, (name, one) in zip(panels, results["by_class"].items(), strict=True):
        curve = one["curve"]
        for key, colour in (("purity", BLUE), ("completeness", ORANGE)):
            axes.plot(curve["threshold"], np.array(curve[key], dtype=float), color=colour, label=key)
        axes.axhline(results["purity_asked"], color=GREY, lw=0.8, ls=":", label="purity asked for")
        if one["cut"]["threshold"]["value"] is not None:
            axes.axvline(one["cut"]["threshold"]["value"], color=GREY, lw=0.9, ls="--")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_title(plain(f"{name}, prevalence {results['prevalence'][name]:.3g}"), fontsize=8)
    _label(figure, "threshold of the published probability", "", panels[0])
    return figure


def _roc(results: Results) -> Any:
    figure = new_figure(4.6, 4.4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":")
    for number, (name, one) in enumerate(results["by_class"].items()):
        curve = one["curve"]
        x, y = (np.array([0.0, *(v if v is not None else np.nan for v in curve[key]), 1.0])
                for key in ("contamination", "completeness"))  # fmt: skip
        axes.plot(x, y, color=_CYCLE[number % len(_CYCLE)], lw=1.3, label=plain(name))
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    axes.set_xlabel("share of the others that is chosen")
    axes.set_ylabel("share of the class that is chosen")
    axes.legend(fontsize=8, loc="lower right")
    return figure


def _class_trends(results: Results) -> Any | None:
    first = next(iter(results["by_class"].values()))
    quantities = [q for q in first["trends"] if any(one["trends"][q] for one in results["by_class"].values())]
    if not quantities:
        return None
    figure = new_figure(8.8, 3.2 * len(quantities) + 0.3)
    axes = figure.subplots(len(quantities), 2, squeeze=False)
    for line, quantity in zip(axes, quantities, strict=True):
        for panel, key in zip(line, ("purity", "completeness"), strict=True):
            for number, (name, one) in enumerate(results["by_class"].items()):
                rows = one["trends"][quantity]
                value, ends = _column([row["at_threshold"] for row in rows], key)
                style = {"color": _CYCLE[number % len(_CYCLE)], "marker": _MARKERS[number % len(_MARKERS)]}
                x = [row["median"] for row in rows]
                panel.errorbar(x, value, yerr=ends, ms=4, lw=1.1, capsize=2, label=plain(name), **style)
            panel.set_ylim(-0.02, 1.02)
            panel.set_xlabel(plain(quantity))
            panel.set_ylabel(key)
            panel.grid(alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    return figure


def _points(results: Results) -> Any:
    figure = new_figure(4.6, 4.2)
    axes = figure.add_subplot()
    rows = results["points"]
    x, y = (np.array([row[key] for row in rows]) for key in ("predicted", "observed"))
    ends = np.abs([y - [row["low"] for row in rows], [row["high"] for row in rows] - y])
    axes.axline((x[0], x[0]), slope=1, color=GREY, lw=0.8, ls=":")
    axes.errorbar(x, y, yerr=ends, color=BLUE, marker="o", ms=4, ls="", capsize=2)
    unit = f" ({results['unit']})" if results["unit"] else ""
    axes.set_xlabel(plain(f"predicted {results['task']}{unit}"))
    axes.set_ylabel("label")
    return figure


def _grid(number: int, side: float) -> tuple[Any, list[Any]]:
    """Return a figure with so many panels of about `side` inches, and room for labels and a legend around them.

    Places are computed: to find them out, as matplotlib can, takes a quarter of a minute for 65 panels.
    """
    columns = min(_PANELS, number)
    lines = -(-number // columns)
    width, height = side * columns + 0.9, side * lines + 0.9
    figure = new_figure(width, height, layout=None)
    figure.subplots_adjust(0.7 / width, 0.6 / height, 1 - 0.15 / width, 1 - 0.55 / height, 0.25, 0.3)
    return figure, [figure.add_subplot(lines, columns, place) for place in range(1, number + 1)]


def _label(figure: Any, x: str, y: str, legend_of: Any | None = None) -> None:
    """Label a grid of panels as a whole, with the legend of one of them above."""
    for axes in figure.axes:
        axes.tick_params(labelsize=7)
    width, height = figure.get_size_inches()
    figure.supxlabel(x, fontsize=9, y=0.12 / height)
    figure.supylabel(y, fontsize=9, x=0.12 / width)
    if legend_of is not None:
        handles, labels = legend_of.get_legend_handles_labels()
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 1.0)}
        figure.legend(handles, labels, ncols=3, fontsize=8, frameon=False, **place)
