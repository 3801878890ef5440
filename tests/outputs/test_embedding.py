"""What is kept of embeddings, and what is lost of them."""

from __future__ import annotations

import numpy as np
import pytest

from gzsurvey.card import Card
from gzsurvey.errors import CardMismatch
from gzsurvey.outliers import embedding_distance, fit_reference
from gzsurvey.outputs.embedding import HALF_LARGEST, KeptEmbedding
from outputs.catalogues import make_card

D, K = 40, 32
DEVIATIONS = 10.0 ** -np.linspace(0, 1.5, D)


def cloud(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))
    return 3.0 * turned[0] + rng.normal(size=(n, D)) * DEVIATIONS @ turned


@pytest.fixture(scope="module")
def card() -> Card:
    return make_card(embedding_size=D, embedding_reference=fit_reference(cloud(4000, 1), cloud(500, 2)))


def test_components_keep_distances_and_say_what_they_lose(card: Card) -> None:
    survey, kept = cloud(3000, 3), KeptEmbedding(card, "components")
    stored = kept.of(survey)
    assert stored.dtype == np.float16
    assert stored.shape == (3000, kept.width)
    assert kept.width < D
    full, score = embedding_distance(survey, card.embedding_reference)
    np.testing.assert_allclose(kept.distance(stored)[0], full, rtol=2e-3)
    np.testing.assert_allclose(kept.distance(stored)[1], score, atol=0.01)
    loss = kept.loss(survey)
    left_out = (DEVIATIONS[kept.width - 1 :] ** 2).sum() / (DEVIATIONS**2).sum()
    assert loss is not None
    assert loss.variance_left_out == pytest.approx(left_out, rel=0.1)
    assert kept.spec.attributes["training_variance_left_out"] == pytest.approx(left_out, rel=0.1)
    assert loss.least_cosine < loss.median_cosine < 1
    lengths = stored[:, -1].astype(float) ** 2
    variance = ((survey - np.asarray(card.embedding_reference.mean)) ** 2).sum()
    assert lengths.sum() / variance == pytest.approx(loss.variance_left_out, rel=0.01)


def test_the_same_galaxy_gives_the_same_bits_in_any_company(card: Card) -> None:
    kept, survey = KeptEmbedding(card, "components"), cloud(100, 4)
    alone = np.concatenate([kept.of(survey[i : i + 1]) for i in range(100)])
    np.testing.assert_array_equal(alone, kept.of(survey))


def test_all_features_lose_nothing_but_what_half_precision_holds(card: Card) -> None:
    kept = KeptEmbedding(card)
    assert kept.loss(cloud(10, 5)) is None
    assert kept.spec.inner == (("feature", D),)
    assert kept.of(np.full((1, D), 1e9))[0, 0] == HALF_LARGEST
    assert np.isnan(kept.of(np.full((1, D), np.nan))).all()


def test_a_card_without_components_is_refused() -> None:
    with pytest.raises(CardMismatch, match="embedding=features"):
        KeptEmbedding(make_card(embedding_reference=None), "components")
