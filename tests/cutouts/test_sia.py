"""``sia:`` through pyvo, against a server that speaks SIA 1 and 2, DataLink and SODA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from contracts.cutout_source import CutoutSourceContract
from loopback import Services, Sky, serving
from skies import GALAXIES, SIDE, ask, get, simulated_sky

from gzsurvey.cutouts.open import check_source, open_source
from gzsurvey.cutouts.sia import SiaSource
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import AccessDenied, SourceError
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.remote import Politeness
from gzsurvey.status import Status

PREPARATION = Preparation(image_size=48)
QUICK = Politeness(requests_per_s=500, connections=4, tries=2, backoff_s=0.01, timeout_s=5, cache_mb=0)
NANOJANSKY = 10 ** ((31.4 - 22.5) / 2.5)
HALVES = {"west": slice(280, SIDE), "east": slice(0, 320)}
"""Columns of the sky's two images per band; they overlap."""


def archive_of(sky: Sky) -> dict[str, tuple[str, np.ndarray, object]]:
    images = {}
    for side, columns in HALVES.items():
        wcs = sky.wcs.deepcopy()
        wcs.wcs.crpix -= [columns.start, 0]
        for band, pixels in sky.planes.items():
            images[f"{side}-{band}"] = (band, pixels[:, columns] * np.float32(NANOJANSKY), wcs)
            images[f"{side}-{band}-weight"] = (band, np.ones_like(pixels[:, columns]), wcs)
    return images


@pytest.fixture(scope="module")
def running() -> Iterator[Services]:
    sky = simulated_sky()
    with serving(Services(sky, archive=archive_of(sky))) as services:  # type: ignore[arg-type]
        yield services


def open_sia(services: Services, what: str = "sia2", product: str | None = "science") -> SiaSource:
    source = open_source(spec_of(services, what, product), PREPARATION, politeness=QUICK)
    assert isinstance(source, SiaSource)
    return source


def spec_of(services: Services, what: str = "sia2", product: str | None = "science") -> SourceSpec:
    return SourceSpec(f"sia:{services.url}/archive/{what}", product=product)


class TestSia(CutoutSourceContract):
    @pytest.fixture
    def source(self, services: Services) -> SiaSource:
        return open_sia(services)

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        return [ask(300, 300, 0), ask(3000, 300, 1), ask(*GALAXIES[1], 2, 0.4), ask(5, 300, 3)]


@pytest.mark.parametrize("what", ["sia2", "flat", "sia1"])
def test_pixels_are_those_of_the_images(services: Services, what: str) -> None:
    if what == "sia1":
        weights = [name for name in services.archive if "weight" in name]
        kept = {name: services.archive.pop(name) for name in weights}
    source = open_sia(services, what)
    for column, row in ((276, 276), (157, 397)):
        answer = get(source, ask(column + 23.5, row + 23.5))
        assert isinstance(answer, Cutout), answer
        expected = [services.sky.planes[band][row : row + 48, column : column + 48] for band in "grz"]
        np.testing.assert_allclose(answer.pixels, expected, atol=3e-4)
    if what == "sia1":
        services.archive.update(kept)


def test_one_question_per_block_and_links_once(services: Services) -> None:
    source = open_sia(services)
    answers = dict(source.fetch([ask(x, 300, n) for n, x in enumerate(range(100, 500, 40))]))
    assert all(isinstance(answer, Cutout) for answer in answers.values())
    asked = Counter(seen.path.rpartition("/")[2] for seen in services.log)
    assert asked["sia2"] == 1
    assert asked["datalink"] == 6
    assert asked["soda"] >= 30


def test_an_edge_is_filled_from_the_next_image(services: Services) -> None:
    answer = get(open_sia(services), ask(310, 300))
    assert isinstance(answer, Cutout)
    assert answer.missing_fraction == 0


def test_a_list_that_the_archive_cuts_is_asked_for_in_parts(services: Services) -> None:
    services.longest_list = 8
    source = open_sia(services)
    answers = dict(source.fetch([ask(50, 300, 0), ask(550, 300, 1)]))
    assert all(isinstance(answer, Cutout) for answer in answers.values()), answers
    services.longest_list = 2
    with pytest.raises(SourceError, match="cuts its list of images at 2; name collection and product type"):
        get(source, ask(300, 300))


def test_misses_say_what_happened(services: Services) -> None:
    outside = get(open_sia(services), ask(3000, 300))
    assert isinstance(outside, Miss)
    assert outside.status == Status.NO_IMAGE
    services.archive["east-g"], east = ("u", *services.archive["east-g"][1:]), services.archive["east-g"]
    missing = get(open_sia(services), ask(60, 300))
    services.archive["east-g"] = east
    assert isinstance(missing, Miss)
    assert (missing.status, missing.reason) == (Status.BAND_MISSING, "no image of band g here, only of r, u, z")
    services.fault = lambda number, path, query: "500" if path.endswith("soda") else ""
    failed = get(open_sia(services), ask(300, 300))
    assert isinstance(failed, Miss)
    assert failed.status == Status.SOURCE_FAILED


def test_a_token_that_expires_half_way_stops_and_a_new_one_goes_on(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.token = "first"
    monkeypatch.setenv("GZSURVEY_TOKEN", "first")
    arriving = open_sia(services).fetch([ask(x, 300, n) for n, x in enumerate(range(100, 500, 20))])
    assert isinstance(next(arriving)[1], Cutout)
    services.token = "second"
    with pytest.raises(AccessDenied, match=r"the service refuses us .*GZSURVEY_TOKEN") as caught:
        list(arriving)
    assert "first" not in str(caught.value)
    monkeypatch.setenv("GZSURVEY_TOKEN", "second")
    assert isinstance(get(open_sia(services), ask(300, 300)), Cutout)


@pytest.mark.parametrize(
    ("what", "says"),
    [("datalink", "400|500|connection|silence|refuse|VOTable|404"), ("nothing.fits", "connection|404|500|VOTable")],
)
def test_what_is_no_sia_service_is_refused_at_plan_time(services: Services, what: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        check_source(spec_of(services, what), PREPARATION, politeness=QUICK)


def test_an_address_is_needed() -> None:
    with pytest.raises(SourceError, match="is no address"):
        SourceSpec("sia:cadc")


@pytest.mark.filterwarnings("ignore::pyvo.dal.exceptions.DALOverflowWarning")
def test_every_recorded_reply_is_read_as_a_list_of_images_or_refused_in_one_line(
    services: Services, shared_data: Path
) -> None:
    """Of whatever service: images, pages, tables of catalogues, errors."""
    recorded = shared_data / "recorded_service_responses"
    files = [path for path in sorted(recorded.rglob("*")) if path.is_file() and path.name != "README.md"]
    read, refused = [], {}
    for path in files:
        services.replies["/archive/sia2"] = path.read_bytes()
        try:
            assert check_source(spec_of(services), PREPARATION, politeness=QUICK) is None
        except SourceError as error:
            refused[path.name] = str(error)
        else:
            read.append(str(path.relative_to(recorded)))
    services.replies.clear()
    assert len(files) == 52
    assert [name for name, line in refused.items() if "\n" in line] == []
    assert {"pyvo/dal/sia/dataset.xml", "pyvo/dal/sia2/dataset.xml"} <= set(read)
