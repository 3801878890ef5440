"""A store built from a SOURCE holds what a survey of the same SOURCE shows, whatever the look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from collections_of_pictures import recipe
from cutouts.mosaics import at, write_quarters
from PIL import Image

from gzsurvey import dataset
from gzsurvey.cutouts.open import open_source
from gzsurvey.cutouts.source import Cutout, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.images.prepare import frame_of, prepare_cutout
from gzsurvey.progress import Progress
from gzsurvey.recipes.preparation import Kind, Preparation, ScaleRule, Stretch


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "quiet", True)


@pytest.mark.parametrize("kind", ["flux", "gz_euclid", "percentile", "asinh", "low_surface_brightness"])
def test_a_store_holds_what_a_survey_shows(tmp_path: Path, kind: Kind) -> None:
    write_quarters(tmp_path / "tiles")
    places = [at(60, 80), at(150, 150), at(220, 90)]
    ra, dec = zip(*places, strict=True)
    pd.DataFrame({"id": range(3), "ra": ra, "dec": dec}).to_csv(tmp_path / "a.csv", index=False)
    preparation = Preparation(
        image_size=32, stretch=Stretch.model_validate({"kind": kind}), scale_rule=ScaleRule(kind="fixed", fov_arcsec=9)
    )
    source = {"name": "a", "images": f"mosaic:{tmp_path / 'tiles'}", "catalogue": "a.csv"}
    made = recipe(tmp_path, [source]).model_copy(update={"preparation": preparation})
    store = dataset.build(made, tmp_path / "store")
    spec = SourceSpec(f"mosaic:{tmp_path / 'tiles'}")
    rows = store.galaxies["id"].astype(int)
    requests = [Request(n, str(n), *places[n], frame_of(preparation, 9.0)) for n in rows]
    answers = dict(open_source(spec, preparation).fetch(requests))
    for image, row in zip(store.images(np.arange(len(store))), rows, strict=True):
        answer = answers[row]
        assert isinstance(answer, Cutout)
        np.testing.assert_array_equal(image, prepare_cutout(answer.pixels, preparation))
        assert image.dtype == preparation.input_type
    assert Image.open(dataset.contact_sheet(store, tmp_path / "sheet.png")).size[0] > 0
