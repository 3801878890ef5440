"""A SOURCE is read as the contract writes it, and a typo is one clear line."""

from __future__ import annotations

import pickle

import pytest

from gzsurvey.cutouts.spec import KINDS, SourceSpec
from gzsurvey.errors import SourceError


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
