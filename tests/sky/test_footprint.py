"""Regions of the sky, against mocpy, and what is no region."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import Latitude, Longitude

from gzsurvey.errors import RecipeError
from gzsurvey.sky.footprint import parse_footprint

RNG = np.random.default_rng(0)
RA, DEC = RNG.uniform(0, 360, 200_000), np.degrees(np.arcsin(RNG.uniform(-1, 1, 200_000)))


@pytest.mark.parametrize(
    "text",
    [
        "circle(10,80,20)", "circle(0, 0, 5)", "box(0,0,30,20)", "BOX(350 85 10 20)",
        "polygon(350,-10,10,-10,10,10,350,10)", "polygon(20,20,60,20,40,25,60,50,20,50)",
    ],
)  # fmt: skip
def test_exact_tests_agree_with_the_moc(text: str) -> None:
    region = parse_footprint(text)
    inside = region.contains(RA, DEC)
    by_moc = region.moc().contains_lonlat(Longitude(RA, "deg"), Latitude(DEC, "deg"))
    assert inside.any()
    assert not (inside & ~by_moc).any()
    assert (inside != by_moc).mean() < 1e-4


def test_a_box_is_as_wide_on_the_sky_as_it_says() -> None:
    region = parse_footprint("box(30,60,2,1)")
    half = 1 / np.cos(np.radians(60))
    assert region.contains(np.array([30 + 0.99 * half, 30 + 1.01 * half]), np.array([60.0, 60.0])).tolist() == [
        True,
        False,
    ]
    assert region.contains(np.array([30.0, 30.0]), np.array([60.49, 60.51])).tolist() == [True, False]


def test_real_moc_files_are_read(shared_data: Path) -> None:
    for name in ("P-SDSS9-r.fits.gz", "polygon_moc.fits.gz"):
        region = parse_footprint(str(shared_data / "mocs" / name))
        assert region.contains(RA, DEC).mean() == pytest.approx(region.moc().sky_fraction, abs=0.003)


def test_a_moc_in_json_is_read(tmp_path: Path) -> None:
    moc = parse_footprint("circle(10,10,5)").moc()
    moc.save(tmp_path / "m.json", format="json")
    region = parse_footprint(str(tmp_path / "m.json"))
    assert region.contains(np.array([10.0, 50.0]), np.array([10.0, 10.0])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("circle(1,2)", "takes 3 numbers"), ("circle(1,95,1)", "not on the sky"), ("circle(1,2,0)", "above 0"),
        ("circle(1,x,1)", "no number"), ("circle(nan,1,1)", "not finite"), ("square(1,2,3)", "is no MOC file"),
        ("polygon(1,2,3,4)", "at least 3 corners"), ("polygon(0,0,120,0,240,0)", "half the sky"),
    ],
)  # fmt: skip
def test_what_is_no_region_is_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_footprint(text)


def test_a_file_that_is_no_moc_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.fits").write_text("no FITS")
    with pytest.raises(RecipeError, match="cannot be read as a MOC"):
        parse_footprint(str(tmp_path / "m.fits"))
