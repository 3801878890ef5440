"""``legacy:``: native pixels, and none of the viewer's silent caps and defaults believed."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from contracts.cutout_source import CutoutSourceContract
from loopback import Query, Services
from skies import GALAXIES, SCALE, ask, get

from gzsurvey.cutouts.legacy import LegacySource
from gzsurvey.cutouts.open import check_source
from gzsurvey.cutouts.remote.client import Client
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import SourceError
from gzsurvey.images.frame import Frame
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.remote import Politeness
from gzsurvey.status import Status

PREPARATION = Preparation(image_size=48)
QUICK = Politeness(requests_per_s=500, connections=4, tries=2, backoff_s=0.01, timeout_s=5, cache_mb=0)


def open_legacy(services: Services, folder: Path, layer: str = "ls-dr10", bands: str = "g,r,z") -> LegacySource:
    spec = SourceSpec(f"legacy:{layer}@{services.url}/viewer", tuple(bands.split(",")))
    return LegacySource(spec, PREPARATION, Client(spec.text, spec.servers, QUICK, folder), 0.2)


class TestLegacy(CutoutSourceContract):
    @pytest.fixture
    def source(self, services: Services, tmp_path: Path) -> LegacySource:
        return open_legacy(services, tmp_path)

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        return [ask(300, 300, 0), ask(3000, 300, 1), ask(15, 300, 2), ask(*GALAXIES[1], 3, 0.4)]


@pytest.mark.parametrize("size", [47, 48])
def test_native_pixels_come_through_unchanged(services: Services, tmp_path: Path, size: int) -> None:
    middle = 300 if size % 2 else 299.5
    answer = get(open_legacy(services, tmp_path), ask(middle, middle, size=size))
    assert isinstance(answer, Cutout)
    start = int(np.ceil(middle - size / 2))
    expected = [services.sky.planes[band][start : start + size, start : start + size] for band in "grz"]
    np.testing.assert_allclose(answer.pixels, expected, atol=3e-4)
    (seen,) = services.log
    assert seen.query["pixscale"] == "0.262"
    assert (seen.query["bands"], seen.query["layer"]) == ("grz", "ls-dr10")


def test_coarser_frames_keep_surface_brightness(services: Services, tmp_path: Path) -> None:
    source = open_legacy(services, tmp_path)
    fine, coarse = (
        get(source, ask(300, 300, scale=scale, size=size)) for scale, size in ((SCALE, 64), (2 * SCALE, 32))
    )
    assert isinstance(fine, Cutout)
    assert isinstance(coarse, Cutout)
    binned = fine.pixels.reshape(3, 32, 2, 32, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(coarse.pixels, binned, atol=0.02)


def test_a_field_the_service_would_cut_is_not_asked_for(services: Services, tmp_path: Path) -> None:
    answer = get(open_legacy(services, tmp_path), ask(300, 300, scale=20))
    assert isinstance(answer, Miss)
    assert answer.reason == "needs 3,670 native pixels on a side, and the service cuts at 3,000"
    assert not services.log


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bands": "?"}, "bands 'grz', 'gri' were asked for"),
        ({"size": "40"}, "an image of shape"),
        ({"pixscale": "0.5"}, "pixels of 0.500 arcsec, 0.262 were asked for"),
        ({"ra": "150.01"}, "another place"),
    ],
)
def test_what_the_service_replaces_silently_is_found(
    services: Services, tmp_path: Path, change: Query, says: str
) -> None:
    services.rewrite = lambda query: query | change
    services.sky.planes.setdefault("i", services.sky.planes["z"])
    answer = get(open_legacy(services, tmp_path, bands="g,r,i"), ask(300, 300))
    assert isinstance(answer, Miss)
    assert answer.status == Status.UNREADABLE
    assert says in answer.reason


def test_blank_sky_is_no_image(services: Services, tmp_path: Path) -> None:
    source = open_legacy(services, tmp_path)
    outside, edge = get(source, ask(3000, 300)), get(source, ask(5, 300))
    assert isinstance(outside, Miss)
    assert outside.status == Status.NO_IMAGE
    assert isinstance(edge, Miss)
    assert edge.status == Status.MISSING_PIXELS


@pytest.mark.parametrize(
    ("layer", "bands", "says"),
    [("sdss", "g,r,z", "is no layer of the Legacy Surveys"), ("ls-dr10", "g,r,H", "has no band 'H'")],
)
def test_layers_and_bands_are_checked(
    services: Services, tmp_path: Path, layer: str, bands: str, says: str
) -> None:  # fmt: skip
    with pytest.raises(SourceError, match=says):
        open_legacy(services, tmp_path, layer, bands)


def test_a_service_that_does_not_understand_is_refused_at_plan_time(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    services.rewrite = lambda query: query | {"bands": "?"}
    spec = SourceSpec(f"legacy:ls-dr9@{services.url}/viewer", ("g", "r", "i"))
    with pytest.raises(SourceError, match="bands 'grz', 'gri' were asked for"):
        check_source(spec, PREPARATION, politeness=QUICK)


@pytest.mark.parametrize(("name", "size"), [("decals_0.0043_+0.5414", 158), ("decals_359.9950_+0.7018", 505)])
def test_recorded_replies_of_the_real_service(
    services: Services, tmp_path: Path, shared_data: Path, name: str, size: int
) -> None:
    body = gzip.decompress((shared_data / "decals_fits_cutouts" / f"{name}.fits.gz").read_bytes())
    header, cube = fits.Header.fromstring(body), fits.HDUList.fromstring(body)[0].data
    services.replies["/viewer/cutout.fits"] = body
    answer = get(
        open_legacy(services, tmp_path), Request(0, name, header["CRVAL1"], header["CRVAL2"], Frame(size, 0.262))
    )
    assert isinstance(answer, Cutout)
    assert answer.missing_fraction == 0
    np.testing.assert_allclose(answer.pixels, cube[:, 2:-2, 2:-2], atol=2e-4 * np.abs(cube).max())


@pytest.mark.parametrize("reply", ["ukidss/error.html", "ukidss/image.fits", "image_cutouts/first/image.fits"])
def test_recorded_replies_of_other_services_are_not_taken_for_its_own(
    services: Services, tmp_path: Path, shared_data: Path, reply: str
) -> None:
    services.replies["/viewer/cutout.fits"] = (
        shared_data / "recorded_service_responses/astroquery" / reply
    ).read_bytes()
    answer = get(open_legacy(services, tmp_path), ask(300, 300))
    assert isinstance(answer, Miss)
    assert answer.status == Status.UNREADABLE
