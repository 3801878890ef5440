"""Recipe of `evaluate`: who is judged on what, and how surely."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from gzsurvey.recipes.base import Section, load
from gzsurvey.recipes.training import MILD_VIEWS, AugmentationRecipe
from gzsurvey.resources import RECIPES, find

Count = Annotated[int, Field(ge=1)]
Inside = Annotated[float, Field(gt=0.0, lt=1.0)]


class EvaluationRecipe(Section):
    """One evaluation."""

    enough_votes: Annotated[int, Field(ge=2)] = 20
    """Volunteers who must have answered a question for a galaxy to be judged on it."""
    asked_of: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of a galaxy's volunteers that must have been asked the question."""
    confident: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.8
    """Volunteers are confident of a galaxy where their largest fraction is above this."""
    levels: Annotated[tuple[Inside, ...], Field(min_length=1)] = (0.5, 0.68, 0.9)
    """Of the credible and predictive intervals whose coverage is stated."""
    task: str | None = None
    """Which finetuned task the labels are of, or ``votes``; None: the checkpoint's only task, or else its votes."""
    label_column: str = "label"
    """Of classes, or of a number. Labels that do not exclude each other have a column for each class."""
    class_names: dict[str, str] = {}
    """Names for labels as they stand in the table, e.g. ``{"1": ring, "0": no_ring}``."""
    prevalence: Annotated[dict[str, Inside], Field(min_length=1)] | Literal["labels", "estimated"] = "labels"
    """Shares of the classes in the survey that purity is stated for: given by class; those of the labels
    at hand; or estimated from the predictions."""
    purity: Inside = 0.9
    """Of the sample whose threshold and completeness are stated."""
    outlier: Annotated[float, Field(gt=0.0)] = 3.0
    """A number is an outlier where its error exceeds this many robust standard deviations of all errors."""
    bins: Annotated[int, Field(ge=2, le=50)] = 6
    """Of equal numbers of galaxies, along size, magnitude and so on."""
    resamples: Annotated[int, Field(ge=20)] = 500
    """Of the bootstrap over galaxies that gives every interval."""
    level: Inside = 0.95
    """Probability inside the bootstrap's intervals."""
    gallery: Annotated[int, Field(ge=1, le=100)] = 12
    """Galaxies shown: the best, the worst, the most uncertain."""
    calibration: Literal["applied", "ignored"] = "applied"
    """``ignored``: predictions as the network gives them, to see what the calibration is worth."""
    augmentation: AugmentationRecipe = MILD_VIEWS
    """How views are drawn with ``--vary views``."""
    seed: Annotated[int, Field(ge=0)] = 69


def load_evaluation_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> EvaluationRecipe:
    """Load a shipped evaluation recipe or a YAML file.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such recipe, or a wrong key or value.
    """
    return load(find(RECIPES, name_or_path), EvaluationRecipe, overrides)
