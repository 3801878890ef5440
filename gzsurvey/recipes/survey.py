"""How a survey is classified: ``pipelines/survey.yaml``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from gzsurvey.recipes.base import Section, load
from gzsurvey.recipes.remote import Politeness
from gzsurvey.resources import RECIPES, find

KeptOfEmbedding = Literal["features", "components"]


class SurveyRecipe(Section):
    """What `classify` needs to know besides model, targets and source."""

    block_rows: Annotated[int, Field(ge=256, le=65_536, multiple_of=256)]
    """Largest block; small jobs take smaller ones."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"]
    """Galaxies given to the model at once; ``auto``: as many as a core's cache holds; on a GPU measured by `plan`."""
    provider: Literal["auto", "cpu", "cuda", "tensorrt"]
    """What the model runs on; ``auto``: a GPU where there is one. What was planned is what every worker must have."""
    missing_limit: Annotated[float, Field(ge=0, le=1)]
    """Share of missing pixels, in the worst band, above which a cutout is a miss (status 12)."""
    retries: Annotated[int, Field(ge=0, le=20)]
    """Times that a failed block is tried again in the same run."""
    fault_limit: Annotated[float, Field(gt=0, le=1)]
    """Share of a block's targets whose source may fail; above it, the block failed."""
    preview_targets: Annotated[int, Field(ge=0, le=1024)]
    """Random targets that `plan` looks at: picture, distance from training, speed."""
    check_rows: Annotated[int, Field(ge=0, le=100_000)]
    """Random rows kept as the model saw them, in ``checks/``."""
    sort_memory_mb: Annotated[int, Field(ge=128, le=1_000_000)] = 512
    """Memory in which `plan` sorts targets; what does not fit goes to the disk of RUN."""
    embedding: KeptOfEmbedding = "features"
    """What is kept of embeddings: all features, or coordinates along the principal components of the training
    galaxies, at most 33 numbers."""
    politeness: Politeness = Politeness()
    """How services on the network are asked."""


def load_survey_recipe(name_or_path: str = "survey", overrides: Iterable[str] = ()) -> SurveyRecipe:
    """Read a survey recipe.

    Parameters
    ----------
    name_or_path : str
        A shipped name or a YAML file.
    overrides : iterable of str
        ``key=value``, each replacing one value.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such recipe, or a mistake in it.
    """
    return load(find(RECIPES, name_or_path), SurveyRecipe, overrides)
