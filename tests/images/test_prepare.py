"""One function for flux and ready images."""

from __future__ import annotations

import numpy as np
import pytest

from gzsurvey.images.frame import Frame
from gzsurvey.images.prepare import frame_of, prepare_cutout, prepare_picture
from gzsurvey.images.stretch import to_rgb
from gzsurvey.recipes.preparation import Preparation


def test_flux_on_its_frame_is_only_stretched() -> None:
    flux = np.random.default_rng(1).normal(0, 0.1, (3, 32, 32)).astype(np.float32)
    preparation = Preparation(image_size=32)
    np.testing.assert_array_equal(prepare_cutout(flux, preparation), to_rgb(flux, preparation))


def test_flux_on_a_larger_frame_is_resized() -> None:
    flux = np.random.default_rng(1).normal(0, 0.1, (3, 64, 64)).astype(np.float32)
    assert prepare_cutout(flux, Preparation(image_size=32)).shape == (32, 32, 3)


def test_ready_images_keep_their_centre() -> None:
    picture = np.zeros((100, 100, 3), dtype=np.uint8)
    picture[20:80, 20:80] = 200
    kept = prepare_picture(picture, Preparation(image_size=30, crop=0.6))
    assert kept.shape == (30, 30, 3)
    assert kept[2:-2, 2:-2].min() >= 198
    assert prepare_cutout(picture, Preparation(image_size=30))[0].max() == 0


def test_wide_images_are_cut_square() -> None:
    picture = np.zeros((40, 120, 3), dtype=np.uint8)
    picture[:, 40:80] = 90
    assert prepare_picture(picture, Preparation(image_size=20))[2:-2, 2:-2].min() >= 88


def test_fine_patterns_do_not_alias() -> None:
    rows, columns = np.indices((424, 424))
    checks = np.repeat((((rows + columns) % 2) * 255).astype(np.uint8)[..., None], 3, axis=2)
    small = prepare_picture(checks, Preparation(image_size=64))[2:-2, 2:-2]
    assert small.std() < 3
    assert abs(small.mean() - 127.5) < 2


def test_the_crop_narrows_the_frame() -> None:
    assert frame_of(Preparation(image_size=50, crop=0.5), 40.0) == Frame(50, 0.4)


def test_anything_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"float \(C, H, W\) or uint8 \(H, W, 3\)"):
        prepare_cutout(np.zeros((8, 8), dtype=np.float32), Preparation(image_size=16))
