"""``sdss`` through the real client of astroquery, against a server on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from contracts.cutout_source import CutoutSourceContract
from loopback import Services
from skies import ask, get

from gzsurvey.cutouts.open import check_source
from gzsurvey.cutouts.remote.client import Client, UnfitReply
from gzsurvey.cutouts.sdss import SdssSource, _objects_of
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import AccessDenied, SourceError, SourceFault
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.remote import Politeness
from gzsurvey.status import Status

PREPARATION = Preparation(image_size=48)
QUICK = Politeness(requests_per_s=500, connections=4, tries=3, backoff_s=0.01, timeout_s=5, cache_mb=0)


@pytest.fixture
def source(services: Services, tmp_path: Path) -> SdssSource:
    spec = SourceSpec(f"sdss:17@{services.url}")
    return SdssSource(spec, PREPARATION, Client(spec.text, spec.servers, QUICK, tmp_path), 0.2)


class TestSdss(CutoutSourceContract):
    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        return [ask(300, 200, 0), ask(3000, 300, 1), ask(20, 300, 2), ask(200, 299, 3), ask(1, 1, 4)]


@pytest.mark.parametrize("row", [149.5, 299.5, 320.5, 500.5])
def test_pixels_are_those_of_the_frames_and_fields_are_joined(
    services: Services, source: SdssSource, row: float
) -> None:
    answer = get(source, ask(299.5, row))
    assert isinstance(answer, Cutout)
    rows = slice(int(row - 23.5), int(row + 24.5))
    expected = np.stack([services.sky.planes[band][rows, 276:324] for band in "grz"])
    np.testing.assert_allclose(answer.pixels, expected, atol=2e-4)
    assert answer.image_id == f"000094-1-{100 if row < 300 else 101:04d}"


def test_a_frame_is_fetched_once_for_all_its_targets(services: Services, source: SdssSource) -> None:
    requests = [ask(60 + 25 * n, 150 + 2 * n, n) for n in range(20)]
    assert all(isinstance(answer, Cutout) for _, answer in source.fetch(requests))
    frames = [seen.path for seen in services.log if "/frames/" in seen.path]
    assert sorted(path[-30:] for path in frames) == [f"frame-{band}-000094-1-0100.fits.bz2"[-30:] for band in "grz"]
    assert sum(seen.path.endswith("X_Results.aspx") for seen in services.log) == 1
    assert all("gzsurvey/" in seen.headers["User-Agent"] for seen in services.log)


def test_faults_are_tried_again_and_misses_say_why(services: Services, source: SdssSource) -> None:
    left = {"Results": ["503", "html"], "frame-r": ["corrupt", "cut"]}
    services.fault = lambda number, path, query: next(
        (faults.pop() for part, faults in left.items() if part in path and faults), ""
    )
    assert isinstance(get(source, ask(299.5, 149.5)), Cutout)
    assert not any(left.values())
    outside = get(source, ask(3000, 300))
    assert isinstance(outside, Miss)
    assert (outside.status, outside.reason) == (Status.NO_IMAGE, "outside the imaging")


def test_a_catalogue_server_that_is_down_makes_the_block_wait(services: Services, source: SdssSource) -> None:
    services.fault = lambda number, path, query: "500"
    with pytest.raises(SourceFault, match="does not say which frames show the targets"):
        get(source, ask(299.5, 149.5))
    services.fault = lambda number, path, query: "401"
    with pytest.raises(AccessDenied):
        get(source, ask(299.5, 149.5))


@pytest.mark.parametrize(
    ("text", "bands", "says"),
    [("sdss", "g,r,Y", "has no band 'Y'"), ("sdss:new", "g,r,i", "is no data release; write e.g. sdss:17")],
)
def test_what_can_never_work_is_refused_at_plan_time(text: str, bands: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        check_source(SourceSpec.parse(text, bands), PREPARATION, politeness=QUICK)


def test_an_unreachable_server_is_refused_at_plan_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SourceError, match="the host cannot be reached"):
        check_source(SourceSpec("sdss:17@http://127.0.0.1:9"), PREPARATION, politeness=QUICK)


def test_a_recorded_list_of_the_real_service(shared_data: Path) -> None:
    body = (shared_data / "recorded_service_responses/astroquery/sdss/xid_im.txt").read_bytes()
    objects = _objects_of(body)
    assert len(objects) == body.count(b"\n") - 2
    assert (objects[0].field.run, objects[0].field.camcol, objects[0].field.field) == (1904, 3, 163)
    spectra = (shared_data / "recorded_service_responses/astroquery/sdss/xid_sp.txt").read_bytes()
    with pytest.raises(UnfitReply, match="no list of objects"):
        _objects_of(spectra.replace(b"run", b"ran"))
