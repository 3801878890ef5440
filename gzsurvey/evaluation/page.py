"""``evaluation.html``: one page about an evaluation, with everything inside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gzsurvey import __version__
from gzsurvey.evaluation.predict import Images
from gzsurvey.evaluation.table import shown
from gzsurvey.outputs.columns import column_word
from gzsurvey.report.gallery import as_data_url


@dataclass(frozen=True)
class Shown:
    """One figure of the page."""

    title: str
    caption: str
    png: Path


def render(results: Mapping[str, Any], figures: list[Shown], images: Images) -> str:
    """Return the page as HTML; everything that comes from data is escaped.

    Parameters
    ----------
    results : mapping
        As they stand in ``evaluation.json``.
    figures : list of Shown
        In their order.
    images : callable
        Gives the galaxies' images by row.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["shown"] = shown
    galleries = {
        kind: [(entry, as_data_url(images(np.array([entry["row"]]))[0])) for entry in entries]
        for kind, entries in results["galleries"].items()
    }
    return environment.get_template("page.html.j2").render(
        version=__version__,
        r=results,
        figures=[(figure, _inline(figure.png)) for figure in figures],
        galleries=galleries,
        cut=_cut(results) if results["kind"] == "votes" else None,
    )


def _inline(png: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(png.read_bytes()).decode("ascii")


def _cut(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a question that is asked after others, to show how a clean sample is cut."""
    for name, question in results["questions"].items():
        if question["asked_after_any"]:
            answer = next(iter(question["answers"]))
            words = {"column": column_word(question["label"]), "answer_column": column_word(answer)}
            return {"name": name, "after": question["asked_after_any"], "answer": answer, **words}
    return None
