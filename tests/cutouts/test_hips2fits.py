"""``hips2fits:`` through the real client of astroquery, against a server on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from contracts.cutout_source import CutoutSourceContract
from loopback import Services, jpeg
from skies import GALAXIES, SCALE, ask, get, position

from gzsurvey.cutouts.hips2fits import Hips2fitsSource
from gzsurvey.cutouts.open import check_source
from gzsurvey.cutouts.remote.client import Client
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import SourceError
from gzsurvey.images.frame import Frame
from gzsurvey.images.prepare import prepare_cutout
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.remote import Politeness
from gzsurvey.status import Status

PREPARATION = Preparation(image_size=48)
QUICK = Politeness(
    requests_per_s=500, connections=4, tries=3, backoff_s=0.01, timeout_s=5, cache_mb=0
)  # fmt: skip
FLUX = "hips2fits:SIM/P/sky/{band}"


def spec_of(text: str, services: Services, **changes: object) -> SourceSpec:
    counts = {"zeropoints": (22.5, 22.5, 22.5), "pixel_scale_arcsec": SCALE} if "{band}" in text else {}
    return SourceSpec(f"{text}@{services.url}/hips2fits", **counts | changes)  # type: ignore[arg-type]


def open_hips(
    services: Services, folder: Path, text: str = FLUX, preparation: Preparation = PREPARATION, **changes: object
) -> Hips2fitsSource:
    spec = spec_of(text, services, **changes)
    return Hips2fitsSource(spec, preparation, Client(spec.text, spec.servers, QUICK, folder), 0.2)


class TestHips2fits(CutoutSourceContract):
    @pytest.fixture
    def source(self, services: Services, tmp_path: Path) -> Hips2fitsSource:
        return open_hips(services, tmp_path)

    @pytest.fixture
    def requests(self) -> Sequence[Request]:
        wide = Request(3, "wide", *position(*GALAXIES[1]), Frame(48, 0.4))
        return [ask(300, 300, 0), ask(3000, 300, 1), ask(20, 300, 2), wide]


def test_pixels_are_those_of_the_mosaic(services: Services, tmp_path: Path) -> None:
    answer = get(open_hips(services, tmp_path), ask(299.5, 299.5))
    assert isinstance(answer, Cutout)
    expected = np.stack([services.sky.planes[band][276:324, 276:324] for band in "grz"])
    np.testing.assert_allclose(answer.pixels, expected, atol=2e-4)
    assert {seen.query["hips"] for seen in services.log} == {f"SIM/P/sky/{band}" for band in "grz"}


def test_counts_become_nanomaggies_of_the_reference_pixel(services: Services, tmp_path: Path) -> None:
    nominal = get(open_hips(services, tmp_path), ask(299.5, 299.5))
    counts = open_hips(services, tmp_path, zeropoints=(25.0, 25.0, 25.0), pixel_scale_arcsec=2 * SCALE)
    scaled = get(counts, ask(299.5, 299.5))
    assert isinstance(nominal, Cutout)
    assert isinstance(scaled, Cutout)
    np.testing.assert_allclose(scaled.pixels, nominal.pixels * 10 ** (-0.4 * 2.5) / 4, rtol=1e-4, atol=1e-7)


def test_a_repeated_band_is_asked_for_once(services: Services, tmp_path: Path) -> None:
    answer = get(open_hips(services, tmp_path, bands=("r", "r", "z")), ask(300, 300))
    assert isinstance(answer, Cutout)
    assert len(services.log) == 2
    np.testing.assert_array_equal(answer.pixels[0], answer.pixels[1])


def test_misses_say_what_happened(services: Services, tmp_path: Path) -> None:
    source = open_hips(services, tmp_path)
    outside, edge = get(source, ask(3000, 300)), get(source, ask(-10, 300))
    assert isinstance(outside, Miss)
    assert (outside.status, outside.reason) == (Status.NO_IMAGE, "no data here")
    assert isinstance(edge, Miss)
    assert edge.status == Status.MISSING_PIXELS
    services.fault = lambda number, path, query: "size"
    wrong = get(source, ask(300, 300))
    assert isinstance(wrong, Miss)
    assert (wrong.status, wrong.reason) == (
        Status.UNREADABLE, "an image of 40 x 40 pixels, 48 x 48 were asked for (3 tries)"
    )  # fmt: skip


def test_a_colour_hips_gives_pictures_the_right_way_up(services: Services, tmp_path: Path) -> None:
    preparation = Preparation(image_size=48, crop=0.75)
    source = open_hips(services, tmp_path, "hips2fits:SIM/P/color", preparation)
    answer = get(source, ask(300, 312))
    assert isinstance(answer, Cutout)
    assert answer.pixels.shape == (64, 64, 3)
    model_sees = prepare_cutout(answer.pixels, preparation)
    assert model_sees.shape == (48, 48, 3)
    row, column = np.unravel_index(model_sees[:, :, 0].astype(int).argmax(), (48, 48))
    # The galaxy lies 12 pixels south of the target: below the middle of a picture.
    assert abs(row - (23.5 + 12)) < 3
    assert abs(column - 23.5) < 3


def test_a_grey_picture_is_refused(services: Services, tmp_path: Path) -> None:
    answer = get(open_hips(services, tmp_path, "hips2fits:SIM/P/grey"), ask(300, 300))
    assert isinstance(answer, Miss)
    assert "ask for flux" in answer.reason


def test_a_corrupt_picture_is_asked_for_again(services: Services, tmp_path: Path) -> None:
    services.fault = lambda number, path, query: "corrupt" if number == 0 else ""
    answer = get(open_hips(services, tmp_path, "hips2fits:SIM/P/color"), ask(300, 300))
    assert isinstance(answer, Cutout)
    assert len(services.log) == 2
    assert len(jpeg(answer.pixels.astype(np.uint8))) > 500


@pytest.mark.parametrize(
    ("text", "changes", "says"),
    [
        ("hips2fits:DSS2 red", {}, "is no full HiPS id"),
        (FLUX, {"pixel_scale_arcsec": None}, "pixel_scale_arcsec"),
        (FLUX, {"zeropoints": None}, "says no zero point of band 'g'; give it with --zeropoints"),
        ("hips2fits:SIM/P/nowhere", {}, "No HiPS matches SIM/P/nowhere"),
    ],
)
def test_what_can_never_work_is_refused_at_plan_time(
    services: Services,
    text: str,
    changes: dict[str, object],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SourceError, match=says):
        check_source(spec_of(text, services, **changes), PREPARATION, politeness=QUICK)


def test_an_unreachable_server_is_refused_at_plan_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(SourceError, match="the host cannot be reached"):
        check_source(SourceSpec("hips2fits:a/P/b@http://127.0.0.1:9/"), PREPARATION, politeness=QUICK)
