"""The made-up source keeps the contract, and is the same for the same target."""

from __future__ import annotations

import numpy as np
import pytest
from contracts.cutout_source import CutoutSourceContract

from gzsurvey.cutouts.open import check_source, open_source
from gzsurvey.cutouts.source import Cutout, CutoutSource, Request
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.images.frame import Frame
from gzsurvey.images.prepare import prepare_cutout
from gzsurvey.recipes.preparation import Preparation

PREPARATION = Preparation(image_size=48)


@pytest.fixture
def requests() -> list[Request]:
    return [Request(row, f"galaxy {row}", 10.0 * row, 0.0, Frame(48, 0.3)) for row in range(5)]


@pytest.fixture
def source() -> CutoutSource:
    spec = SourceSpec.parse("synthetic:")
    assert check_source(spec, PREPARATION) is None
    return open_source(spec, PREPARATION)


class TestSyntheticSource(CutoutSourceContract):
    pass


def test_galaxies_differ_and_can_be_seen(source: CutoutSource, requests: list[Request]) -> None:
    answers = [answer for _, answer in source.fetch(requests)]
    pictures = [prepare_cutout(answer.pixels, PREPARATION) for answer in answers if isinstance(answer, Cutout)]
    assert len({picture.tobytes() for picture in pictures}) == len(requests)
    for picture in pictures:
        assert picture[20:28, 20:28].mean() > 2 * np.median(picture[:6])
