"""Real images of three surveys, through `mosaic:`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from gzsurvey.cutouts.index_file import pixel_scale_arcsec
from gzsurvey.cutouts.mosaic import MosaicSource
from gzsurvey.cutouts.open import check_source, open_source
from gzsurvey.cutouts.source import Cutout, Miss, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.errors import SourceError
from gzsurvey.images.frame import Frame, field_of_view
from gzsurvey.images.prepare import frame_of, prepare_cutout
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.status import Status

PREPARATION = Preparation(image_size=64)
Answers = dict[int, Cutout | Miss]


def opened(text: str, bands: str, zeropoints: str | None, cache: Path) -> tuple[MosaicSource, float]:
    spec = SourceSpec.parse(text, bands, zeropoints)
    index = check_source(spec, PREPARATION, cache)
    assert index is not None
    source = open_source(spec, PREPARATION, index)
    assert isinstance(source, MosaicSource)
    return source, pixel_scale_arcsec(index)


def fetched(source: MosaicSource, detections: Table, scale_arcsec: float) -> Answers:
    """Answers by detection id."""
    fields = field_of_view(PREPARATION.scale_rule, np.asarray(detections["r50_pix"]) * scale_arcsec)
    requests = [
        Request(int(d["id"]), str(d["id"]), float(d["ra"]), float(d["dec"]), frame_of(PREPARATION, float(fov)))
        for d, fov in zip(detections, fields, strict=True)
    ]
    answers = dict(source.fetch(requests))
    assert len(answers) == len(detections)
    return answers


def axis_ratio(answer: Cutout | Miss) -> float:
    """Minor over major axis from second moments of the central third of the picture."""
    assert isinstance(answer, Cutout)
    light = np.nansum(answer.pixels, axis=0)[16:48, 16:48]
    light = np.clip(light - np.median(light), 0, None)
    rows, columns = (part - (part * light).sum() / light.sum() for part in np.indices(light.shape))
    moments = np.array([[(light * a * b).sum() for a in (rows, columns)] for b in (rows, columns)])
    low, high = np.linalg.eigvalsh(moments)
    return float(np.sqrt(low / high))


@pytest.mark.slow
def test_kids_viking(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "survey_field_kids_viking"
    detections = Table.read(folder / "detections_r.fits")
    by_pattern, scale = opened(f"mosaic:{folder}/kids_viking_{{band}}.fits", "g,r,Z", "0,0,30", tmp_path)
    assert scale == pytest.approx(0.339, abs=1e-3)
    answers = fetched(by_pattern, detections, scale)
    statuses = Counter(a.status if isinstance(a, Miss) else Status.PREDICTED for a in answers.values())
    assert set(statuses) == {Status.PREDICTED, Status.MISSING_PIXELS}
    assert statuses[Status.PREDICTED] > 1800
    assert by_pattern.files_opened == 3
    assert axis_ratio(answers[353]) < 0.4 < 0.6 < axis_ratio(answers[388])
    for number in (353, 388):
        answer = answers[number]
        assert isinstance(answer, Cutout)
        picture = prepare_cutout(answer.pixels, PREPARATION)
        assert picture[24:40, 24:40].mean() > 2 * np.median(picture)
    by_folder, _ = opened(f"mosaic:{folder}", "g,r,Z", "0,0,30", tmp_path)
    for row, answer in fetched(by_folder, detections[:200], scale).items():
        other = answers[row]
        assert type(answer) is type(other)
        if isinstance(answer, Cutout) and isinstance(other, Cutout):
            np.testing.assert_array_equal(answer.pixels, other.pixels)


@pytest.mark.slow
def test_vista_frames_overlap(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "survey_field_vista_frames"
    source, scale = opened(f"mosaic:{folder}/image_*.fits", "H,H,H", None, tmp_path)
    assert scale == pytest.approx(0.341, abs=1e-3)
    answers = fetched(source, Table.read(folder / "detections_swarp_med.fits"), 0.3)
    assert source.files_opened == 2
    cutouts = [answer for answer in answers.values() if isinstance(answer, Cutout)]
    assert {answer.image_id for answer in cutouts} == {"image_1", "image_2"}
    assert len(cutouts) > 1600
    assert {a.status for a in answers.values() if isinstance(a, Miss)} == {Status.MISSING_PIXELS}
    for cutout in cutouts[::20]:
        np.testing.assert_array_equal(cutout.pixels[0], cutout.pixels[2])
        assert np.nanstd(cutout.pixels) > 0


@pytest.mark.slow
def test_vista_positions_agree_between_frames(shared_data: Path, tmp_path: Path) -> None:
    """ZPN: a star lies at the centre of its cutout, whichever frame it comes from."""
    folder = shared_data / "survey_field_vista_frames"
    detections = Table.read(folder / "detections_swarp_med.fits")
    stars = detections[(detections["snr"] > 100) & (detections["r50_pix"] < 2.5) & (detections["flag"] == 0)][:60]
    for name in ("image_1", "image_2"):
        source, _ = opened(f"mosaic:{folder}/{name}.fits", "H,H,H", None, tmp_path)
        requests = [Request(n, "", float(s["ra"]), float(s["dec"]), Frame(21, 0.3)) for n, s in enumerate(stars)]
        offsets = []
        for _, answer in source.fetch(requests):
            if isinstance(answer, Cutout) and answer.missing_fraction == 0:
                light = np.clip(answer.pixels[0] - np.median(answer.pixels[0]), 0, None)[5:16, 5:16]
                offsets.append([(light * part).sum() / light.sum() - 5 for part in np.indices(light.shape)])
        assert len(offsets) > 20
        assert np.abs(np.median(offsets, axis=0)).max() < 0.3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::astropy.wcs.FITSFixedWarning")
def test_sdss_coarse_pixels(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "survey_field_sdss_ngc6976"
    source, scale = opened(f"mosaic:{folder}/reprojected_sdss_{{band}}.fits.bz2", "g,r,i", None, tmp_path)
    assert scale == pytest.approx(1.188, abs=1e-3)
    detections = Table.read(folder / "detections_r.fits")
    answers = fetched(source, detections, scale)
    cutouts = [answer for answer in answers.values() if isinstance(answer, Cutout)]
    assert len(cutouts) > 600
    pictures = [prepare_cutout(answer.pixels, PREPARATION) for answer in cutouts]
    assert 8 < np.median([np.median(picture) for picture in pictures]) < 60
    assert np.mean([(picture == 255).any() for picture in pictures]) < 0.1

    with fits.open(folder / "reprojected_sdss_r.fits.bz2") as hdus:
        native, wcs = hdus[0].data, WCS(hdus[0].header)
    bright = detections[np.argsort(detections["flux"])[-40:]]
    requests = [Request(n, "", float(d["ra"]), float(d["dec"]), Frame(31, 1.188)) for n, d in enumerate(bright)]
    columns, rows = wcs.all_world2pix(bright["ra"], bright["dec"], 0)
    ratios = []
    for n, answer in source.fetch(requests):
        if isinstance(answer, Cutout) and answer.missing_fraction == 0:
            r0, c0 = round(float(rows[n])) - 15, round(float(columns[n])) - 15
            ratios.append(answer.pixels[1].sum() * (1.188 / 0.262) ** 2 / native[r0 : r0 + 31, c0 : c0 + 31].sum())
    assert len(ratios) > 10
    assert np.median(ratios) == pytest.approx(1, abs=0.02)


def test_headers_that_contradict_names_are_refused(shared_data: Path) -> None:
    folder = shared_data / "survey_field_sdss_ngc6976"
    spec = SourceSpec.parse(f"mosaic:{folder}", "g,r,i")
    with pytest.raises(SourceError, match=r"reprojected_sdss_i.fits.bz2: its header says band 'g', its name 'i'"):
        check_source(spec, PREPARATION)


def test_the_stack_without_band_is_left_out(shared_data: Path, tmp_path: Path) -> None:
    spec = SourceSpec.parse(f"mosaic:{shared_data / 'survey_field_vista_frames'}", "H,H,H")
    assert check_source(spec, PREPARATION, tmp_path) is not None
