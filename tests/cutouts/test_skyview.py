"""``skyview:`` through the real client of astroquery, against a server on this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import numpy as np
import pytest
from contracts.cutout_source import CutoutSourceContract
from loopback import Services, fits_bytes, tan_wcs
from skies import DEC, RA, SCALE, ask, get

from gzsurvey.cutouts.open import check_source
from gzsurvey.cutouts.remote.client import Client
from gzsurvey.cutouts.skyview import SkyviewSource
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import AccessDenied, SourceError
from gzsurvey.images.frame import Frame
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.remote import Politeness
from gzsurvey.status import Status

PREPARATION = Preparation(image_size=48)
QUICK = Politeness(requests_per_s=500, connections=4, tries=3, backoff_s=0.01, timeout_s=5, cache_mb=0)


def spec_of(services: Services, survey: str = "sky {band}", **changes: object) -> SourceSpec:
    counts: dict[str, object] = {"zeropoints": (22.5, 22.5, 22.5), "pixel_scale_arcsec": SCALE}
    return SourceSpec(f"skyview:{survey}@{services.url}/skyview/form", **counts | changes)  # type: ignore[arg-type]


@pytest.fixture
def source(services: Services, tmp_path: Path) -> SkyviewSource:
    spec = spec_of(services)
    return SkyviewSource(spec, PREPARATION, Client(spec.text, spec.servers, QUICK, tmp_path), 0.2)


class TestSkyview(CutoutSourceContract):
    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        return [ask(300, 300, 0), ask(3000, 300, 1), ask(20, 300, 2)]


def test_pixels_are_those_of_the_mosaic_to_the_last_digit_of_the_position(
    services: Services, source: SkyviewSource
) -> None:
    answer = get(source, ask(299.5, 299.5))
    assert isinstance(answer, Cutout)
    expected = np.stack([services.sky.planes[band][276:324, 276:324] for band in "grz"])
    np.testing.assert_allclose(answer.pixels, expected, atol=1e-3)
    asked = [seen.path.rpartition("/")[2] for seen in services.log]
    assert (asked.count("form"), asked.count("query"), asked.count("image")) == (1, 3, 3)
    assert all("gzsurvey/" in seen.headers["User-Agent"] for seen in services.log)


@pytest.mark.parametrize(
    ("fault", "step"), [("503", "query"), ("500", "image"), ("html", "query"), ("corrupt", "image"), ("size", "image")]
)
def test_faults_are_tried_again_at_either_step(
    services: Services, source: SkyviewSource, fault: str, step: str
) -> None:
    left = [fault]
    services.fault = lambda number, path, query: left.pop() if left and path.endswith(step) else ""
    assert isinstance(get(source, ask(299.5, 299.5)), Cutout)
    assert not left


def test_misses_and_refusals_are_told_apart(services: Services, source: SkyviewSource) -> None:
    outside = get(source, ask(3000, 300))
    assert isinstance(outside, Miss)
    assert (outside.status, outside.reason) == (Status.NO_IMAGE, "no data here")
    services.fault = lambda number, path, query: "401" if path.endswith("query") else ""
    with pytest.raises(AccessDenied):
        get(source, ask(299.5, 299.5))


@pytest.mark.parametrize(
    ("survey", "changes", "says"),
    [
        ("sky {band}", {"bands": ("g", "r", "i")}, "SkyView has no survey 'sky i'; did you mean 'sky"),
        ("sky r", {}, "is one survey for several bands"),
        ("sky {band}", {"zeropoints": None}, "says no zero point of band 'g'"),
        ("sky {band}", {"pixel_scale_arcsec": None}, "pixel_scale_arcsec"),
    ],
)
def test_what_can_never_work_is_refused_at_plan_time(
    services: Services,
    survey: str,
    changes: dict[str, object],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SourceError, match=says):
        check_source(spec_of(services, survey, **changes), PREPARATION, politeness=QUICK)


def test_an_unreachable_server_is_refused_at_plan_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = SourceSpec("skyview:a@http://127.0.0.1:9/", zeropoints=(0.0,) * 3, bands=("r",) * 3, pixel_scale_arcsec=1)
    with pytest.raises(SourceError, match="the host cannot be reached"):
        check_source(spec, PREPARATION, politeness=QUICK)


def test_recorded_pages_of_the_real_service(services: Services, source: SkyviewSource, shared_data: Path) -> None:
    """A page of results with the images of three surveys, and with the first alone; surveys by their names."""
    recorded = shared_data / "recorded_service_responses/astroquery/skyview"
    page = (recorded / "results.html").read_text()
    services.replies["/skyview/query"] = page.encode()
    several = get(source, ask(300, 300))
    assert isinstance(several, Miss)
    assert "a page without a link to one FITS file" in several.reason
    link, second, _ = re.findall(r"[\w/.]+\.fits", page)
    services.replies["/skyview/query"] = page[: page.rindex("<a", 0, page.index(second))].encode()
    wcs = tan_wcs(RA, DEC, SCALE, 48)
    place = urlsplit(urljoin(f"{services.url}/skyview/query", link)).path
    services.replies[place] = fits_bytes(np.ones((48, 48), dtype=np.float32), wcs.to_header())
    answer = get(source, Request(0, "t", RA, DEC, Frame(48, SCALE)))
    assert isinstance(answer, Cutout), answer
    np.testing.assert_allclose(answer.pixels, 1, rtol=1e-5)
    names = json.loads((recorded / "survey_dict.json").read_text())
    options = "".join(f"<option>{name}</option>" for group in names.values() for name in group)
    form = f'<html><form action="query"><select name="survey" id="All">{options}</select></form></html>'
    services.replies["/skyview/form"] = form.encode()
    counts = {"bands": ("r",) * 3}
    assert check_source(spec_of(services, "DSS2 Red", **counts), PREPARATION, politeness=QUICK) is None
    with pytest.raises(SourceError, match="SkyView has no survey 'DSS2 Rad'; did you mean 'DSS2 Red'"):
        check_source(spec_of(services, "DSS2 Rad", **counts), PREPARATION, politeness=QUICK)
