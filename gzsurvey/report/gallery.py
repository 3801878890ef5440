"""Galaxies as pictures: fetched again from the run's sources, prepared as the model saw them."""

from __future__ import annotations

import base64
import io
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.cutouts.source import Cutout
from gzsurvey.errors import GZSurveyError, TableError
from gzsurvey.images.prepare import prepare_cutout, shown
from gzsurvey.outputs import columns as c
from gzsurvey.outputs.aside import written_aside
from gzsurvey.report.figures import new_figure, plain
from gzsurvey.report.survey_view import Measure, SurveyView
from gzsurvey.status import Status
from gzsurvey.survey.sources import answers, open_sources, requests
from gzsurvey.survey.targets_file import read_block_targets

logger = logging.getLogger(__name__)
Pictures = dict[int, NDArray[np.uint8]]
_COLUMNS = 8


def highest(view: SurveyView, measures: Sequence[Measure], n: int) -> list[NDArray[np.int64]]:
    """Return for each measure the predicted rows with the highest values, the highest first, at most `n`.

    All rows of the catalogue are looked at, in one pass.
    """
    found = [(np.zeros(0, dtype=np.int64), np.zeros(0))] * len(measures)
    names = {name for measure in measures for name in measure.columns} | {c.STATUS.name}
    for rows, cells in view.chunks(sorted(names)):
        predicted = cells[c.STATUS.name] == Status.PREDICTED
        for i, measure in enumerate(measures):
            values = view.reliable(measure, cells)
            known = np.flatnonzero(np.isfinite(values) & predicted)
            known = known[np.argsort(-values[known], kind="stable")[:n]]
            candidates = np.append(found[i][0], rows[known]), np.append(found[i][1], values[known])
            order = np.argsort(-candidates[1], kind="stable")[:n]
            found[i] = candidates[0][order], candidates[1][order]
    return [rows for rows, _ in found]


def labelled(view: SurveyView, rows: NDArray[np.int64], column: str) -> list[tuple[str, float]]:
    """Return id and value of a column for some rows, in their order."""
    ascending = np.sort(rows)
    cells = view.cells(ascending, [view.id_name, column])
    place = np.searchsorted(ascending, rows)
    return list(zip(cells[view.id_name][place].astype(str).tolist(), cells[column][place].tolist(), strict=True))


def fetch_pictures(view: SurveyView, rows: Iterable[int]) -> Pictures:
    """Fetch galaxies again from the run's sources.

    Parameters
    ----------
    view : SurveyView
        The run.
    rows : iterable of int
        Rows of the catalogue.

    Returns
    -------
    dict of int to uint8 array, shape (S, S, 3)
        By row, north up; rows that the source no longer has are left out.

    Raises
    ------
    gzsurvey.errors.GZSurveyError, OSError
        The sources cannot be opened any more.
    """
    record, preparation = view.record, view.card.preparation
    sources = open_sources(view.run, record, preparation)
    by_block: dict[int, list[int]] = defaultdict(list)
    for row in sorted(set(map(int, rows))):
        by_block[row // record.block_rows].append(row % record.block_rows)
    pictures: Pictures = {}
    for block, inside in by_block.items():
        wanted = requests(read_block_targets(view.run, block), inside, preparation)
        for row, answer in answers(sources, wanted, record.recipe.missing_limit):
            if isinstance(answer, Cutout):
                prepared = prepare_cutout(answer.pixels, preparation)
                pictures[block * record.block_rows + row] = shown(prepared, preparation)
    return pictures


def try_to_fetch(view: SurveyView, rows: Iterable[int]) -> tuple[Pictures, str]:
    """Fetch galaxies as `fetch_pictures` does; where the sources are gone, return why."""
    try:
        pictures = fetch_pictures(view, rows)
    except (GZSurveyError, OSError) as error:
        logger.warning("no pictures for the report: %s", error)
        return {}, " ".join(str(error).split())
    return pictures, "" if pictures else "the sources no longer have the pixels of these galaxies"


def as_data_url(picture: NDArray[np.uint8]) -> str:
    """Return a picture as a PNG in a ``data:`` URL."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def contact_sheet(run_dir: Path, column: str, n: int, path: Path) -> Path:
    """Draw the galaxies with the highest values of a catalogue column, labelled with id and value.

    Parameters
    ----------
    run_dir : Path
        A published RUN whose sources still exist.
    column : str
        A numeric column, e.g. ``smooth_or_featured_featured_or_disk_fraction``. Fractions are
        ranked among galaxies of which at least half of the volunteers would be asked.
    n : int
        Galaxies, at most.
    path : Path
        The PNG.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    gzsurvey.errors.TableError
        There is no such column, it is no number, or no galaxy has a value.
    gzsurvey.errors.GZSurveyError
        The sources cannot be opened any more.
    """
    if n < 1:
        raise TableError(column, f"the number of galaxies must be at least 1, got {n}")
    view = SurveyView(run_dir)
    if view.column(column).dtype.kind not in "fiu":
        raise TableError(column, "holds text; a contact sheet ranks by a number")
    measure = view.measure_of(column)
    (rows,) = highest(view, [measure], n)
    if not len(rows):
        raise TableError(column, "no galaxy has a value in it")
    pictures = fetch_pictures(view, rows)
    labels = [f"{galaxy}\n{value:.3f}" for galaxy, value in labelled(view, rows, column)]
    _draw_sheet(measure.title, [pictures.get(int(row)) for row in rows], labels, path)
    return path


def _draw_sheet(title: str, pictures: list[NDArray[Any] | None], labels: list[str], path: Path) -> None:
    columns = min(_COLUMNS, len(pictures))
    lines = -(-len(pictures) // columns)
    figure = new_figure(1.35 * columns + 0.2, 1.65 * lines + 0.4)
    figure.suptitle(plain(f"highest {title}"), fontsize=10)
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True), 1):
        axes = figure.add_subplot(lines, columns, i)
        axes.set_axis_off()
        axes.set_title(plain(label), fontsize=6, pad=2)
        if picture is None:
            axes.text(0.5, 0.5, "no pixels", ha="center", va="center", fontsize=7)
        else:
            axes.imshow(picture, interpolation="nearest")
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=150)
