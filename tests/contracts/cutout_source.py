"""What every source of pixels promises; a new source inherits `CutoutSourceContract`."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from gzsurvey.cutouts.source import Cutout, CutoutSource, Miss, Request
from gzsurvey.status import DESCRIPTIONS


class CutoutSourceContract:
    """Inherit and give two fixtures.

    ``source``: the source to try. ``requests``: a handful of requests that it can answer, with distinct
    rows; some may be misses, at least one must be a cutout.
    """

    @pytest.fixture
    def answers(self, source: CutoutSource, requests: Sequence[Request]) -> dict[int, Cutout | Miss]:
        return dict(source.fetch(requests))

    def test_every_request_is_answered_once(self, source: CutoutSource, requests: Sequence[Request]) -> None:
        rows = [row for row, _ in source.fetch(requests)]
        assert sorted(rows) == sorted(request.row for request in requests)

    def test_nothing_asked_nothing_answered(self, source: CutoutSource) -> None:
        assert list(source.fetch([])) == []

    def test_pixels_are_of_one_of_the_two_kinds(
        self, requests: Sequence[Request], answers: dict[int, Cutout | Miss]
    ) -> None:
        cutouts = [(r, a) for r in requests if isinstance(a := answers[r.row], Cutout)]
        assert cutouts
        for request, cutout in cutouts:
            if cutout.pixels.dtype == np.uint8:
                assert cutout.pixels.ndim == 3
                assert cutout.pixels.shape[2] == 3
            else:
                assert cutout.pixels.dtype == np.float32
                assert cutout.pixels.shape[1:] == (request.frame.size_px, request.frame.size_px)
            assert 0 <= cutout.missing_fraction <= 1
            assert np.isnan(cutout.masked_fraction) or 0 <= cutout.masked_fraction <= 1

    def test_misses_say_why(self, answers: dict[int, Cutout | Miss]) -> None:
        for answer in answers.values():
            if isinstance(answer, Miss):
                assert answer.status in DESCRIPTIONS
                assert answer.status != 0
                assert answer.reason
                assert "\n" not in answer.reason

    def test_answers_name_their_source(self, source: CutoutSource, answers: dict[int, Cutout | Miss]) -> None:
        assert {answer.image_set for answer in answers.values()} == {source.name}

    def test_company_does_not_matter(
        self, source: CutoutSource, requests: Sequence[Request], answers: dict[int, Cutout | Miss]
    ) -> None:
        for request in reversed(requests):
            ((row, alone),) = source.fetch([request])
            together = answers[row]
            assert type(alone) is type(together)
            if isinstance(alone, Cutout) and isinstance(together, Cutout):
                np.testing.assert_array_equal(alone.pixels, together.pixels)
            elif isinstance(alone, Miss) and isinstance(together, Miss):
                assert (alone.status, alone.reason) == (together.status, together.reason)

    def test_answers_cross_process_boundaries(self, answers: dict[int, Cutout | Miss]) -> None:
        for answer in answers.values():
            copy = pickle.loads(pickle.dumps(answer))
            assert type(copy) is type(answer)
            assert copy.image_id == answer.image_id
