"""``report.html``: one page about a run, with everything inside it."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gzsurvey import __version__
from gzsurvey.card import NumberHead, VotesHead
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.aside import written_aside
from gzsurvey.outputs.paths import RunPaths
from gzsurvey.report import figures
from gzsurvey.report.gallery import as_data_url, highest, labelled, try_to_fetch
from gzsurvey.report.survey_view import Measure, SurveyView
from gzsurvey.report.tally import Tally, tally

PER_CLASS = 8
"""Galaxies shown of each class."""
_TREND_ANSWERS = ("featured-or-disk", "features-or-disk", "featured", "features", "yes", "strong")
_TREND_WORDS = ("bar", "spiral")
"""In the labels of later questions that are shown too."""
_MOST_TRENDS = 4
_REASONS = 15
_NUMBER = re.compile(r"\d+(\.\d+)?")


def report(run_dir: Path) -> Path:
    """Write one self-contained page about a published run.

    Parameters
    ----------
    run_dir : Path
        A RUN; what is not finished is said to be so.

    Returns
    -------
    Path
        ``report.html``. It needs no other file and no network.

    Raises
    ------
    gzsurvey.errors.TableError
        There is no catalogue yet.
    """
    text = render(SurveyView(run_dir))
    path = RunPaths(run_dir).report
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return path


def render(view: SurveyView) -> str:
    """Return the page as HTML; everything that comes from data is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    quantities = [*view.kept, c.CUTOUT_WIDTH.name, *view.layers]
    measures, counted = trend_measures(view), tally(view)
    layers = [Measure(name, name) for name in view.layers]
    return environment.get_template("page.html.j2").render(
        version=__version__,
        view=view,
        record=view.record,
        card=view.card,
        finished=view.parameters.get("DATE", ""),
        campaigns=view.layout.campaigns,
        totals=totals(view, counted),
        statuses=counted.status_rows(),
        leading=counted.leading_rows(),
        sky=figures.sky_map(view),
        histograms=figures.fraction_histograms(view),
        trends=figures.trends(view, quantities, measures),
        sky_trends=figures.sky_trends(view, [*measures, *layers]),
        rates=figures.block_rates(view),
        galleries=galleries(view),
        reasons=reasons(view),
        failed=[entry for entry in view.entries.values() if entry.state == "failed"],
        quality=counted.quality_rows(),
        heads=heads(view),
    )


def totals(view: SurveyView, counted: Tally) -> dict[str, str]:
    """Return the run in numbers."""
    done = [entry for entry in view.entries.values() if entry.state == "done"]
    seconds = sum(entry.seconds for entry in done)
    rows = sum(entry.rows for entry in done)
    predicted = counted.predicted
    return {
        "targets": f"{view.record.rows:,}",
        "predicted": f"{predicted:,} ({predicted / view.record.rows:.1%})",
        "blocks finished": f"{len(done):,} of {view.record.n_blocks:,}",
        "work": f"{seconds:,.1f} s summed over blocks, {rows / seconds:,.1f} targets/s per worker"
        if seconds
        else "none",
        "model ran on": ", ".join(sorted({entry.provider for entry in done if entry.provider})) or "nothing yet",
    }


def trend_measures(view: SurveyView) -> list[Measure]:
    """Return the fractions that a referee looks for: featured galaxies, bars, spiral arms."""
    found = []
    for question in view.layout.tree.questions:
        answer = next((a for a in _TREND_ANSWERS if a in question.answers), None)
        wanted = not question.asked_after_any or any(word in question.label for word in _TREND_WORDS)
        if answer is not None and wanted:
            found.append(view.measure(question, answer))
    return found[:_MOST_TRENDS]


def galleries(view: SurveyView) -> dict[str, Any]:
    """Return pictures of the galaxies that are highest in each class, or why there are none."""
    measures = view.highlights()
    chosen = highest(view, measures, PER_CLASS)
    pictures, problem = try_to_fetch(view, itertools.chain.from_iterable(rows.tolist() for rows in chosen))
    urls = {row: as_data_url(picture) for row, picture in pictures.items()}
    classes = []
    for measure, rows in zip(measures, chosen, strict=True):
        shown = [
            (galaxy, f"{value:.2f}", urls.get(row))
            for row, (galaxy, value) in zip(rows.tolist(), labelled(view, rows, measure.column), strict=True)
        ]
        if shown:
            classes.append((measure.title, measure.column, shown))
    return {"classes": classes, "problem": problem}


def reasons(view: SurveyView) -> list[tuple[str, str, int]]:
    """Return status, reason and number of misses, the most frequent first; numbers in reasons become N."""
    misses = _misses(RunPaths(view.run).missing)
    counts = Counter((row["status"], _NUMBER.sub("N", row["reason"])) for row in misses)
    return [(status, reason, n) for (status, reason), n in counts.most_common(_REASONS)]


def _misses(path: Path) -> Iterator[dict[str, str]]:
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(line for line in file if not line.startswith("# "))


def heads(view: SurveyView) -> list[str]:
    """Return what the model predicts, in words."""
    said = []
    for head in view.card.heads:
        if isinstance(head, NumberHead):
            said.append(f"{head.task}: a number{f' in {head.unit}' if head.unit else ''}")
        elif not isinstance(head, VotesHead):
            said.append(f"{head.task}: {', '.join(head.classes)}")
        else:
            tree = head.tree
            said.append(
                f"votes: {tree.n_answers} answers to {len(tree.questions)} questions of {', '.join(tree.campaigns)}"
            )
    return said
