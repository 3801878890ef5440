from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from outputs.catalogues import make_card
from outputs.runs import make_run
from pages import Page
from PIL import Image

from gzsurvey.card import Card, VotesHead
from gzsurvey.errors import RunIncomplete, TableError
from gzsurvey.report import contact_sheet, report, survey_view
from gzsurvey.report.figures import binned
from gzsurvey.report.gallery import highest
from gzsurvey.report.regions import regions
from gzsurvey.report.survey_view import SurveyView
from gzsurvey.sky.healpix import cells
from gzsurvey.survey import ledger
from gzsurvey.survey.publish import publish
from gzsurvey.votes.tree import DecisionTree

EVIL = '<script src="https://evil.example/x.js">alert(1)</script>'


def small_card(**changes: object) -> Card:
    head = VotesHead(questions=tuple(DecisionTree.load("gz_rings").to_json()))
    return make_card(heads=(head,), default_campaign="gz_rings", **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("report") / "run"
    make_run(run, n=300)
    publish(run)
    return run


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return report(run).read_text()


def test_the_page_needs_nothing_else(text: str) -> None:
    page = Page(text)
    assert page.loads
    assert all(url.startswith("data:image/png;base64,") for url in page.loads)
    assert "script" not in page.tags
    assert not re.search(r"url\(|@import|<link", text)
    assert "default-src 'none'" in text


def test_it_shows_what_happened(text: str) -> None:
    assert "The model was trained on simulated galaxies only" in text
    assert "too many missing pixels" in text
    assert "because, of &#34;it&#34; all" in text
    assert "305 → 300 targets" in text
    for heading in ("Where on the sky", "Distributions", "Trends", "Failures", "Throughput", "The model"):
        assert f"<h2>{heading}" in text


def test_it_shows_galaxies_of_each_class(text: str) -> None:
    for title in ("smooth-or-featured: featured-or-disk", "disk-edge-on: yes", "ring: Ring", "most unlike"):
        assert title in text
    assert len(re.findall(r'<figure><img alt="Galaxy', text)) > 30


def test_what_comes_from_data_is_escaped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, small_card(name=EVIL), n=20, source=f"images:{tmp_path}/{EVIL}")
    publish(run)
    page = Page(report(run).read_text())
    assert "script" not in page.tags
    assert all(url.startswith("data:") for url in page.loads)


def test_a_source_that_is_gone_is_said(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, small_card(), n=20, source="images:nowhere/at-all")
    publish(run)
    text = report(run).read_text()
    assert re.search(r'class="warn">No pictures: \S', text)
    assert "no pixels" in text


def test_an_unfinished_run_has_a_report_too(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, small_card(), n=300, skip={0, 1})
    failure = {"block": 1, "state": "failed", "rows": 0, "seconds": 0, "finished": "2026-01-01", "cause": "disk <full>"}
    ledger.write_entry(run, ledger.LedgerEntry.model_validate(failure))
    with pytest.raises(RunIncomplete):
        publish(run)
    text = report(run).read_text()
    assert "1 blocks failed" in text
    assert "disk &lt;full&gt;" in text
    assert "No block is finished" in text


def test_targets_without_positions_have_no_map(tmp_path: Path) -> None:
    n = 20
    nowhere = {"ra": np.full(n, np.nan), "dec": np.full(n, np.nan), "healpix_29": np.full(n, -1)}
    make_run(tmp_path / "run", small_card(), n=n, **nowhere)
    publish(tmp_path / "run")
    assert "The targets have no positions" in report(tmp_path / "run").read_text()


def test_without_a_catalogue_it_says_what_to_do(tmp_path: Path) -> None:
    make_run(tmp_path / "run", n=10)
    with pytest.raises(TableError, match="gzsurvey publish"):
        report(tmp_path / "run")


def test_the_highest_are_ranked_among_those_asked(run: Path) -> None:
    view = SurveyView(run)
    measure = view.measure_of("disk_edge_on_yes_fraction")
    assert measure.asked == "disk_edge_on_proportion_asked"
    (rows,) = highest(view, [measure], 5)
    values = view.column(measure.column)
    asked = view.column(measure.asked) >= 0.5
    assert asked[rows].all()
    assert values[rows].min() >= np.sort(values[asked])[-5]
    assert (np.diff(values[rows]) <= 0).all()


def test_a_contact_sheet_is_a_picture(run: Path, tmp_path: Path) -> None:
    path = contact_sheet(run, "smooth_or_featured_smooth_fraction", 10, tmp_path / "sheet.png")
    with Image.open(path) as picture:
        assert picture.width > picture.height > 100
        assert np.asarray(picture.convert("L")).std() > 20


def test_a_misspelt_column_gets_near_names(run: Path, tmp_path: Path) -> None:
    with pytest.raises(TableError, match="near: bar_strong_fraction"):
        contact_sheet(run, "bar_strng_fraction", 4, tmp_path / "sheet.png")
    with pytest.raises(TableError, match="holds text"):
        contact_sheet(run, "bar_leading", 4, tmp_path / "sheet.png")


def test_bins_hold_equal_numbers_and_skip_the_unknown() -> None:
    x = np.append(np.arange(120.0), np.nan)
    centre, low, median, high = binned(x, np.append(np.arange(120.0) / 120, 1.0))
    assert len(centre) == 12
    assert (np.diff(median) > 0).all()
    np.testing.assert_allclose(median[0], np.arange(10).mean() / 120)
    np.testing.assert_allclose([low[0], high[0]], np.percentile(np.arange(10) / 120, (16, 84)))


def test_a_long_catalogue_is_drawn_from_some_of_its_rows_and_counted_in_all(
    run: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_view, "SAMPLE", 150)
    monkeypatch.setattr(survey_view, "ROWS_AT_ONCE", 70)
    sampled = report(run).read_text()
    assert "drawn from 150 evenly chosen rows" in sampled
    assert "evenly chosen rows" not in text
    for heading in ("What happened to the targets", "Galaxies that are highest", "Leading answers", "that need care"):
        part = re.compile(rf"<h2>{heading}.*?<h2>|<h2>Predictions {heading}.*?<h2>", re.DOTALL)
        assert part.search(sampled)[0] == part.search(text)[0]


def test_regions_are_apart_and_cross_the_meridian() -> None:
    rng = np.random.default_rng(0)
    ra = np.concatenate([rng.uniform(-1, 1, 50) % 360, rng.uniform(100, 101, 30)])
    dec = rng.uniform(0, 1, 80)
    found = regions(cells(ra, dec), ra)
    assert [len(region.rows) for region in found] == [50, 30]
    assert np.ptp(found[0].ra) < 3
