"""What a run keeps of embeddings: all features, or coordinates along the model's principal components.

Letters: N rows, D features of the embedding, K principal components of the training galaxies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import EMBEDDING, Card, EmbeddingReference
from gzsurvey.errors import CardMismatch
from gzsurvey.outliers import distance_of_coordinates, embedding_distance, principal_coordinates
from gzsurvey.outputs.zarr import ArraySpec
from gzsurvey.recipes.survey import KeptOfEmbedding

HALF_LARGEST = float(np.finfo(np.float16).max)
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Loss:
    """How much of the embeddings of some galaxies is lost by keeping their coordinates alone."""

    galaxies: int
    variance_left_out: float
    """Share of their variance about the mean of the training galaxies."""
    median_cosine: float
    """Of embeddings, and of what their kept coordinates give."""
    least_cosine: float

    def __str__(self) -> str:
        return (
            f"embeddings are kept along principal components: of {self.galaxies} galaxies of this survey "
            f"these leave out {self.variance_left_out:.2%} of the variance, cosines with the full embeddings are "
            f"{self.median_cosine:.4f} in the median and {self.least_cosine:.4f} at least"
        )


@dataclass(frozen=True)
class KeptEmbedding:
    """Turns embeddings into what a run keeps of them.

    Raises
    ------
    gzsurvey.errors.CardMismatch
        Components are wanted, and the card has none.
    """

    card: Card
    kept: KeptOfEmbedding = "features"

    def __post_init__(self) -> None:
        if self.kept == "components" and self.card.embedding_reference is None:
            raise CardMismatch(
                self.card.name, "has no 'embedding_reference', whose components are to be kept; use embedding=features"
            )

    @property
    def width(self) -> int:
        """Numbers kept of one galaxy: D, or K coordinates and the length of what they leave out."""
        return self.card.embedding_size if self.kept == "features" else len(self._reference.scales)

    @property
    def spec(self) -> ArraySpec:
        """The array of ``predictions.zarr``."""
        about: dict[str, Any] = {"ucd": "src.morph.param;meta.modelled"}
        if self.kept == "features":
            about["long_name"] = "Embedding of the galaxy's picture"
            return ArraySpec(EMBEDDING, "float16", "output", (("feature", self.width),), about)
        about["long_name"] = (
            "Embedding of the galaxy's picture along the principal components of the training galaxies "
            "('embedding_reference' in the model's card), then the length of what these leave out"
        )
        about["training_variance_left_out"] = self._training_loss
        return ArraySpec(EMBEDDING, "float16", "output", (("component", self.width),), about)

    def of(self, embedding: Floats) -> NDArray[np.float16]:
        """Return what is kept of embeddings, (N, D) to float16 (N, `width`); NaN stays NaN."""
        kept = embedding if self.kept == "features" else principal_coordinates(embedding, self._reference)
        return np.clip(kept, -HALF_LARGEST, HALF_LARGEST).astype(np.float16)

    def distance(self, kept: Floats) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return distance and score of `gzsurvey.outliers.embedding_distance` of what is kept, (N, `width`)."""
        if self.card.embedding_reference is None:
            unknown = np.full(len(kept), np.nan, dtype=np.float32)
            return unknown, unknown
        measure = embedding_distance if self.kept == "features" else distance_of_coordinates
        return measure(kept, self.card.embedding_reference)

    def loss(self, embedding: Floats) -> Loss | None:
        """Return what is lost of embeddings, (N, D); None where all features are kept, or there is no galaxy."""
        if self.kept == "features" or not len(embedding):
            return None
        full, mean = np.asarray(embedding, dtype=np.float64), np.asarray(self._reference.mean)
        coordinates = self.of(full)[:, :-1].astype(np.float64)
        again = mean + coordinates @ np.asarray(self._reference.components)
        lengths = np.linalg.norm(full, axis=1) * np.linalg.norm(again, axis=1)
        cosines = np.sum(full * again, axis=1) / lengths
        left_out = np.sum((full - again) ** 2) / np.sum((full - mean) ** 2)
        return Loss(len(full), float(left_out), float(np.median(cosines)), float(cosines.min()))

    @cached_property
    def _training_loss(self) -> float:
        """Share of the variance of the training galaxies that the components leave out."""
        variances = np.square(self._reference.scales)
        return float(variances[-1] / variances.sum())

    @property
    def _reference(self) -> EmbeddingReference:
        assert self.card.embedding_reference is not None
        return self.card.embedding_reference
