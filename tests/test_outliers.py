"""Distance and score say how unlike the training galaxies a galaxy is."""

from __future__ import annotations

import numpy as np
import pytest

from gzsurvey.card import EmbeddingReference
from gzsurvey.outliers import embedding_distance, fit_reference


@pytest.fixture(scope="module")
def cloud() -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.normal(size=(3000, 5)) @ rng.normal(size=(5, 24)) + 0.01 * rng.normal(size=(3000, 24)) + 4.0


@pytest.fixture(scope="module")
def reference(cloud: np.ndarray) -> EmbeddingReference:
    return fit_reference(cloud[:2000], cloud[2000:])


def test_training_galaxies_lie_at_about_one_with_even_scores(cloud: np.ndarray, reference: EmbeddingReference) -> None:
    distance, score = embedding_distance(cloud[2000:], reference)
    assert distance.dtype == score.dtype == np.float32
    assert 0.8 < np.sqrt(np.mean(distance**2)) < 1.2
    np.testing.assert_allclose(np.quantile(score, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.02)


def test_definition_by_hand() -> None:
    reference = EmbeddingReference(mean=(1.0, 0.0), components=((1.0, 0.0),), scales=(2.0, 0.5), quantiles=(0.0, 10.0))
    distance, score = embedding_distance(np.array([[5.0, 2.0]]), reference)
    assert distance[0] == pytest.approx(np.sqrt((2.0**2 + 4.0**2) / 2))
    assert score[0] == pytest.approx(distance[0] / 10)


def test_off_the_plane_of_training_galaxies_is_far(cloud: np.ndarray, reference: EmbeddingReference) -> None:
    rng = np.random.default_rng(4)
    _, score = embedding_distance(cloud[2000:2100] + rng.normal(size=24), reference)
    assert score.min() == 1.0


def test_no_prediction_gives_nan(reference: EmbeddingReference) -> None:
    distance, score = embedding_distance(np.full((2, 24), np.nan), reference)
    assert np.isnan(distance).all()
    assert np.isnan(score).all()


def test_a_galaxy_is_measured_for_itself(cloud: np.ndarray, reference: EmbeddingReference) -> None:
    whole, _ = embedding_distance(cloud, reference)
    for start, stop in ((0, 1), (7, 20), (1500, 3000)):
        part, _ = embedding_distance(cloud[start:stop], reference)
        np.testing.assert_array_equal(part, whole[start:stop])


def test_too_few_or_equal_galaxies_give_no_reference(cloud: np.ndarray) -> None:
    with pytest.raises(ValueError, match="needs 20"):
        fit_reference(cloud[:10], cloud[10:100])
    with pytest.raises(ValueError, match="equal"):
        fit_reference(np.ones((50, 4)), np.ones((50, 4)))
