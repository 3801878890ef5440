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
from gzsurvey.recipes.preparation import Preparation
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
