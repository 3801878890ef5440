"""A SOURCE is read as the contract writes it, and a typo is one clear line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from gzsurvey.cutouts.headers import NANOMAGGY_ZEROPOINT
from gzsurvey.cutouts.spec import KINDS, SourceSpec
from gzsurvey.errors import RecipeError, SourceError
from gzsurvey.recipes.preparation import Stretch
from gzsurvey.resources import SURVEYS, shipped_names


def test_options_as_on_the_command_line() -> None:
    spec = SourceSpec.parse("mosaic:/tiles/*_{band}.fits", "g,r,Z", "0, MAGZPT,30")
    assert (spec.kind, spec.address) == ("mosaic", "/tiles/*_{band}.fits")
    assert spec.bands == ("g", "r", "Z")
    assert spec.zeropoints == (0.0, "MAGZPT", 30.0)
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_band_may_repeat() -> None:
    assert SourceSpec.parse("mosaic:x", ["H", "H", "H"]).bands == ("H", "H", "H")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mosiac:/tiles", "did you mean 'mosaic'"),
        ("/tiles", "images:PATH"),
        ("mosaic:", "says no path"),
        ("", "is no source of pixels"),
        ("legacy-dr10-suoth", "did you mean 'legacy-dr10-south'"),
        ("hips2fits:a/P/b@localhost", "must be a server's https:// address"),
        ("legacy:ls-dr9@https://me:secret@host", "a login belongs in ~/.netrc"),
    ],
)
def test_a_typo_is_explained(text: str, says: str) -> None:
    with pytest.raises(SourceError, match=says):
        SourceSpec.parse(text)


def test_what_is_no_source_lists_those_that_exist() -> None:
    with pytest.raises(SourceError) as caught:
        SourceSpec.parse("tiles")
    assert all(f"{kind}:" in str(caught.value) for kind in KINDS)


def test_three_bands_and_zero_points() -> None:
    with pytest.raises(SourceError, match="--bands must name 3 values, one per band of the model, got 2"):
        SourceSpec.parse("mosaic:x", "g,r")
    with pytest.raises(SourceError, match="--zeropoints must name 3"):
        SourceSpec.parse("mosaic:x", None, "22.5")


@pytest.mark.parametrize("name", shipped_names(SURVEYS))
def test_shipped_surveys_say_what_they_are(name: str) -> None:
    spec = SourceSpec.parse(name)
    assert (spec.survey, bool(spec.credit), bool(spec.licence)) == (name, True, True)
    assert spec.is_remote
    assert not spec.is_flux or spec.bands is not None
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_a_survey_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = (
        "{title: Mine, cutouts: 'mosaic:/tiles/*_{band}.fits', bands: [g, r, Z], "
        "zeropoints: {g: 0, r: 0, Z: 30, H: MAGZPT}, mask: '/tiles/mask_*.fits', "
        "mask_bits: 6, credit: me, licence: CC0, tried: here}"
    )
    path.write_text(text)
    spec = SourceSpec.parse(str(path))
    assert (spec.survey, spec.kind, spec.bands, spec.zeropoints) == ("mine", "mosaic", ("g", "r", "Z"), (0, 0, 30))
    assert (spec.mask, spec.mask_bits) == ("/tiles/mask_*.fits", 6)
    assert SourceSpec.parse(str(path), "H,H,H").zeropoints == ("MAGZPT",) * 3
    with pytest.raises(SourceError, match="says no zero point of band 'Y'; name some of g, r, Z, H"):
        SourceSpec.parse(str(path), "g,r,Y")
    path.write_text(text.replace("title", "titles"))
    with pytest.raises(RecipeError, match="did you mean 'title'"):
        SourceSpec.parse(str(path))


def test_the_look_of_galaxy_zoo_euclid_is_that_of_the_counts_of_the_described_survey() -> None:
    """Its pictures were made with 100 per count of VIS."""
    spec = SourceSpec.parse("euclid-q1")
    assert spec.zeropoints is not None
    zeropoint = spec.zeropoints[0]
    assert isinstance(zeropoint, float)
    stretch = Stretch(kind="gz_euclid")
    assert stretch.reference_scale_arcsec == spec.pixel_scale_arcsec
    assert stretch.scales[0] * 10 ** ((NANOMAGGY_ZEROPOINT - zeropoint) / 2.5) == pytest.approx(100, rel=1e-3)
