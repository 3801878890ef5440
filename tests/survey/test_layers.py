"""Sampled layers: from a survey's description to a column of the catalogue."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from cutouts.mosaics import at, write_quarters, write_tile

from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import GZSurveyError
from gzsurvey.outputs.zarr import array_attributes
from gzsurvey.recipes.cluster import load_cluster
from gzsurvey.recipes.preparation import ScaleRule
from gzsurvey.survey import plan, publish, run
from survey import tiny

HERE = load_cluster("none")
DESCRIPTION = """
title: drawn
cutouts: "mosaic:{folder}/*_?.fits"
bands: [g, r, z]
layers:
  psfsize_r: {{files: "{folder}/maps/*", unit: arcsec, description: "FWHM of the PSF, band r"}}
credit: nobody
licence: CC0
tried: here
"""


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    write_quarters(tmp_path / "sky")
    write_tile(tmp_path / "sky/maps/psf.fits", np.linspace(1, 2, 150 * 300, dtype=np.float32).reshape(150, 300))
    (tmp_path / "drawn.yaml").write_text(DESCRIPTION.format(folder=tmp_path / "sky"))
    return tmp_path / "drawn.yaml"


def test_a_layer_becomes_a_column(survey: Path, tmp_path: Path) -> None:
    places = {1: (60, 70), 2: (150, 120), 3: (100, 240), 4: (5000, 50)}
    lines = [f"{n},{ra:.8f},{dec:.8f}" for n, (ra, dec) in ((n, at(*place)) for n, place in places.items())]
    (tmp_path / "targets.csv").write_text("\n".join(["id,ra,dec", *lines]))
    model = tiny.write_model(tmp_path / "model.onnx", ScaleRule(kind="fixed", fov_arcsec=8))
    job = tiny.job(model, tmp_path / "targets.csv", str(survey))
    plan(job, tmp_path / "run", HERE)
    run(tmp_path / "run", HERE)
    publish(tmp_path / "run")
    with fits.open(tmp_path / "run/catalogue.fits") as file:
        header = file[1].header
        values = dict(zip(file[1].data["id"], file[1].data["psfsize_r"], strict=True))
    card = next(key[5:] for key, value in header.items() if key.startswith("TTYPE") and value == "psfsize_r")
    assert (header[f"TUNIT{card}"], header[f"TCOMM{card}"]) == ("arcsec", "FWHM of the PSF, band r")
    assert values[1] == pytest.approx(1 + (70 * 300 + 60) / (150 * 300 - 1))
    assert values[2] == pytest.approx(1 + (120 * 300 + 150) / (150 * 300 - 1))
    assert np.isnan([values[3], values[4]]).all()
    assert array_attributes(tmp_path / "run/predictions.zarr")["psfsize_r"]["role"] == "layer"


def test_layers_that_cannot_be_read_are_refused(survey: Path, tmp_path: Path) -> None:
    text = survey.read_text()
    model = tiny.write_model(tmp_path / "model.onnx")
    cases = {
        "maps/*": ("nowhere/*", "matches"),
        "psfsize_r:": ("missing_fraction:", "missing_fraction"),
        "mosaic:": ("hips:", "beside a mosaic"),
    }
    for old, (new, message) in cases.items():
        survey.write_text(text.replace(old, new))
        with pytest.raises(GZSurveyError, match=message):
            plan(tiny.job(model, tiny.write_targets(tmp_path / "t.csv", 3), str(survey)), tmp_path / "run", HERE)


def test_two_sources_must_mean_the_same(survey: Path, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(survey.read_text().replace("arcsec", "pix"))
    job = tiny.job(tiny.write_model(tmp_path / "model.onnx"), tiny.write_targets(tmp_path / "t.csv", 3), str(survey))
    both = (*job.sources, SourceSpec.parse(str(tmp_path / "other.yaml")))
    with pytest.raises(GZSurveyError, match="another unit or meaning"):
        plan(type(job)(job.model, job.targets, both, recipe=job.recipe), tmp_path / "run", HERE)
