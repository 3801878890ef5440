"""One galaxy of one simulated mosaic, through every source that can show it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from loopback import Services, Sky, serving
from numpy.typing import NDArray
from skies import GALAXIES, SCALE, assert_same_galaxy, position

from gzsurvey.cutouts.open import open_source
from gzsurvey.cutouts.source import Cutout, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.images.frame import Frame
from gzsurvey.images.prepare import prepare_cutout
from gzsurvey.recipes.preparation import Preparation, Stretch
from gzsurvey.recipes.remote import Politeness

POLITE = Politeness(requests_per_s=500, cache_mb=0)


@pytest.fixture(scope="module")
def services(made: tuple[Path, Sky]) -> Iterator[Services]:
    folder, sky = made
    header = sky.wcs.to_header()
    header["BUNIT"], header["FILTER"] = "nanomaggy", "r"
    fits.writeto(folder / "mosaic.fits", sky.planes["r"], header)
    with serving(Services(sky, folder)) as running:
        yield running


@pytest.mark.parametrize("scale", [0.2, SCALE, 0.35])
def test_sources_agree(services: Services, scale: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    request = Request(0, "galaxy", *position(*GALAXIES[0]), Frame(64, scale))

    def plane(text: str) -> NDArray[np.float32]:
        spec = SourceSpec(text, ("r",) * 3, (22.5,) * 3, pixel_scale_arcsec=SCALE)
        source = open_source(spec, Preparation(image_size=64), politeness=POLITE)
        ((_, answer),) = source.fetch([request])
        assert isinstance(answer, Cutout), answer
        return answer.pixels[0].astype(np.float32)

    mosaic = plane(f"mosaic:{services.folder}/mosaic.fits")
    for text in (
        f"hips:{services.folder}/equatorial/r",
        f"hips:{services.url}/hips/equatorial/r",
        f"hips2fits:SIM/P/r@{services.url}/hips2fits",
        f"legacy:ls-dr10@{services.url}/viewer",
    ):
        assert_same_galaxy(plane(text), mosaic)


TOTAL = 0.7 * 2 * np.pi * 9 * 4.5
"""Nanomaggies of the first galaxy in r."""


@pytest.mark.parametrize(
    "text",
    ["mosaic:{folder}/mosaic.fits", "hips:{folder}/equatorial/r", "hips2fits:SIM/P/r@{url}/hips2fits",
     "legacy:ls-dr10@{url}/viewer"],
)  # fmt: skip
def test_total_flux_adds_up_in_pixels_of_any_scale(
    services: Services, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a model of flux asks for it; surface brightness times the pixels' area adds up to the same."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    where = text.format(folder=services.folder, url=services.url)
    spec = SourceSpec(where, ("r",) * 3, (22.5,) * 3, pixel_scale_arcsec=SCALE)
    for scale, size in ((0.1, 200), (SCALE, 76), (0.4, 50)):
        sums = {}
        for stretch in (Stretch(kind="flux", flux_per="pixel"), Stretch(kind="flux")):
            preparation = Preparation(image_size=size, stretch=stretch)
            source = open_source(spec, preparation, politeness=POLITE)
            ((_, answer),) = source.fetch([Request(0, "galaxy", *position(*GALAXIES[0]), Frame(size, scale))])
            assert isinstance(answer, Cutout), answer
            steps = (np.arange(size) - (size - 1) / 2) * scale
            aperture = np.hypot(steps, steps[:, None]) < 8
            sums[stretch.flux_per] = float(prepare_cutout(answer.pixels, preparation)[aperture, 0].sum())
        assert sums["pixel"] == pytest.approx(TOTAL, rel=0.01)
        assert sums["reference_pixel"] * (scale / 0.262) ** 2 == pytest.approx(sums["pixel"], rel=1e-4)
