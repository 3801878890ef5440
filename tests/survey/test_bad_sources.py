"""Sources that can never work: one line when `gzsurvey plan` is asked, and no RUN."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

from gzsurvey.cli import cli
from survey import tiny

sys.path.append(str(Path(__file__).parents[1] / "cutouts"))
from loopback import Services, Sky, serving, tan_wcs
from mosaics import DEC, RA, SCALE, field, write_tile

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    plane = np.ones((32, 32), dtype=np.float32)
    with serving(Services(Sky({"r": plane}, tan_wcs(RA, DEC, SCALE, 32)))) as running:
        yield running


def refusal(folder: Path, cutouts: str) -> str:
    """The one line that `plan` says of a source."""
    (folder / "targets.csv").write_text(f"id,ra,dec,r50\n1,{RA},{DEC},2\n2,{RA + 0.001},{DEC},2\n")
    model = tiny.write_model(folder / "model.onnx")
    command = ["plan", "--model", str(model), "--targets", str(folder / "targets.csv"), "--cutouts", cutouts]
    quickly = ["--set", "politeness.backoff_s=0.01", "--set", "politeness.timeout_s=5", "--quiet"]
    said = CliRunner().invoke(cli, [*command, "--out", str(folder / "run"), *quickly])
    assert said.exit_code == 1, said.output
    assert not (folder / "run").exists()
    (line,) = said.stderr.strip().splitlines()
    return line


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_folder_without_fits(tmp_path: Path) -> None:
    (tmp_path / "mosaic").mkdir()
    (tmp_path / "mosaic/readme.txt").write_text("images follow")
    assert "no FITS file in this directory" in refusal(tmp_path, f"mosaic:{tmp_path}/mosaic")


def test_fits_without_wcs(tmp_path: Path) -> None:
    for band in "grz":
        header = fits.Header({"BUNIT": "nanomaggy"})
        fits.writeto(tmp_path / f"image_{band}.fits", np.ones((50, 50), dtype=np.float32), header)
    line = refusal(tmp_path, f"mosaic:{tmp_path}/image_*.fits")
    assert "image_g.fits: image 0 has no celestial WCS" in line


def test_bands_that_do_not_overlap(tmp_path: Path) -> None:
    for number, band in enumerate("grz"):
        write_tile(tmp_path / f"image_{band}.fits", field(), CRVAL1=RA + number)
    line = refusal(tmp_path, f"mosaic:{tmp_path}/image_{{band}}.fits")
    assert "bands 'g' and 'r' overlap nowhere" in line


@pytest.mark.parametrize(("factor", "says"), [(100, "1.6 across"), (0.01, "16,183.2 across")])
def test_a_pixel_scale_off_by_a_hundred(tmp_path: Path, factor: float, says: str) -> None:
    step = factor * SCALE / 3600
    for band in "grz":
        write_tile(tmp_path / f"image_{band}.fits", field(), CDELT1=-step, CDELT2=step)
    line = refusal(tmp_path, f"mosaic:{tmp_path}/image_{{band}}.fits")
    pixels = f"has pixels of {factor * SCALE:.3g} arcsec"
    assert f"{pixels}, of which most cutouts (of 42.4 arcsec) would show {says}" in line


def test_an_unknown_hips(tmp_path: Path, services: Services) -> None:
    (tmp_path / "sky.yaml").write_text(
        f"{{title: Sky, cutouts: 'hips2fits:SIM/P/void@{services.url}/hips2fits', bands: [r, r, r], zeropoints: 22.5, "
        f"pixel_scale_arcsec: {SCALE}, credit: c, licence: l, tried: here}}"
    )
    assert "No HiPS matches SIM/P/void" in refusal(tmp_path, str(tmp_path / "sky.yaml"))


@pytest.mark.parametrize("cutouts", [
    f"hips:{NOWHERE}/hips", f"hips2fits:CDS/P/colour@{NOWHERE}/hips2fits", f"legacy:ls-dr10@{NOWHERE}",
    f"sia:{NOWHERE}/sia", f"sdss:17@{NOWHERE}",
])  # fmt: skip
def test_an_unreachable_host(tmp_path: Path, cutouts: str) -> None:
    assert "the host cannot be reached" in refusal(tmp_path, cutouts)


@pytest.mark.parametrize(
    ("cutouts", "says"),
    [
        ("mosiac:tiles", "did you mean 'mosaic'?"),
        ("legacy-dr10-suoth", "did you mean 'legacy-dr10-south'?"),
        ("hips2fits:DSS2", "is no full HiPS id"),
        ("legacy:ls-dr10@htp://host", "must be a server's https:// address"),
    ],
)
def test_a_typo(tmp_path: Path, cutouts: str, says: str) -> None:
    assert says in refusal(tmp_path, cutouts)
