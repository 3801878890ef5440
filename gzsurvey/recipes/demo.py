"""The recipe of the demo: every stage of the chain, and what its catalogue must reach."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from gzsurvey.recipes.base import Section, load
from gzsurvey.recipes.training import FinetuneRecipe, PretrainRecipe
from gzsurvey.resources import RECIPES, find


class DemoChecks(Section):
    """What makes the demo exit 1 when it is not reached."""

    featured_auc: Annotated[float, Field(ge=0.5, le=1)]
    """Least ROC-AUC of featured galaxies against smooth ones."""
    embedding_spread: Annotated[float, Field(ge=0)]
    """Least spread of unit embeddings; 0 would be one point for all galaxies."""


class DemoSky(Section):
    """How large a sky is drawn; all else is as in the shipped recipe ``simulate``."""

    targets: Annotated[int, Field(ge=50)]
    training: Annotated[int, Field(ge=200)]


class DemoRecipe(Section):
    """What `demo` runs."""

    seed: Annotated[int, Field(ge=0)]
    """Replaces the seed of every stage."""
    image_size: Annotated[int, Field(ge=16, le=224)]
    sky: DemoSky
    pretrain: PretrainRecipe
    finetune: FinetuneRecipe
    checks: DemoChecks


def load_demo_recipe(name_or_path: str = "demo", overrides: Iterable[str] = ()) -> DemoRecipe:
    """Read a demo recipe.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such recipe, or a mistake in it.
    """
    return load(find(RECIPES, name_or_path), DemoRecipe, overrides)
