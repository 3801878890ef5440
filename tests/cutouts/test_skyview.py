"""``skyview:`` through the real client of astroquery, against a server on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from contracts.cutout_source import CutoutSourceContract
from loopback import Services
from skies import SCALE, ask, get

from gzsurvey.cutouts.open import check_source
from gzsurvey.cutouts.remote.client import Client
from gzsurvey.cutouts.skyview import SkyviewSource
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import AccessDenied, SourceError
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
