"""Recipes of a study: the paper's experiment, which pretraining helps how much, as one file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from gzsurvey.recipes.base import Section, load, parse
from gzsurvey.recipes.training import FinetuneRecipe, PretrainRecipe
from gzsurvey.resources import RECIPES, find

Arm = Literal["pixels", "random", "direct", "contrastive", "supervised", "hybrid"]
Approach = Literal["contrastive", "supervised", "hybrid"]
VariantName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,29}$")]
Count = Annotated[int, Field(ge=4)] | Literal["all"]


class Cut(Section):
    """Two classes made of a number."""

    at: float
    below: str
    """Class of values up to `at`."""
    above: str


class LabelsRecipe(Section):
    """A table of labels and the images they belong to."""

    table: str
    """Relative to the study's `data`, or to the simulated sky."""
    images: str | None = None
    """Directory, zip, tar or parquet, relative as `table`; None: the study's store."""
    column: str = "label"
    id_column: str | None = None
    """None: the image's name is the id."""
    image_column: str = "image"
    classes: dict[str, tuple[str, ...]] = {}
    """Class: the labels that make it. Galaxies of other labels are left out. Empty: as they stand."""
    cut: Cut | None = None
    """Where the column holds a number."""
    crop: Annotated[float, Field(gt=0.1, le=1.0)] | None = None
    """Instead of the store's crop."""


class TaskRecipe(Section):
    """A downstream task: labels to learn from, galaxies to be tested on."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,29}$")]
    labels: LabelsRecipe
    test: LabelsRecipe | None = None
    """Another set to be tested on; None: a part of `labels`."""
    folds: Annotated[int, Field(ge=2, le=20)] | None = None
    """Stratified cross-validation, divided anew by each seed; None: the store's test split, or `test`."""
    balance: Literal["natural", "equal"] = "natural"
    """``equal``: as many galaxies of each class, so that accuracy by chance is known."""
    counts: Annotated[tuple[Count, ...], Field(min_length=1)]
    """Labels to learn and to validate with, nested; ``all``: every one that is not tested on."""

    @model_validator(mode="after")
    def _one_test_set(self) -> TaskRecipe:
        if self.test is not None and self.folds is not None:
            raise ValueError(f"task {self.name!r}: give 'test' or 'folds', not both")
        if self.test is None and self.folds is None and self.labels.images is not None:
            raise ValueError(f"task {self.name!r}: images of their own have no test split; give 'folds' or 'test'")
        return self


class DatasetOfStudy(Section):
    """What all arms are pretrained on."""

    recipe: str | None = None
    """A dataset recipe; None: the simulated sky's."""
    splits: dict[str, float] = {}
    hold_out: tuple[str, ...] = ()
    """Sources of the recipe whose galaxies train nothing, because a task tests on them."""


class VariantRecipe(Section):
    """One more pretrained arm, which differs in something from the others."""

    approach: Approach = "hybrid"
    changes: Annotated[dict[str, Any], Field(min_length=1)]
    """To `pretrain`: ``section.key: value``."""


class StudyRecipe(Section):
    """One study."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,29}$")]
    difficulty: Annotated[int, Field(ge=1)] = 1
    """Version of sky and tasks, raised with any change: figures of two versions are not compared."""
    data: str | None = None
    """Folder of real images; None: a simulated sky is drawn."""
    sky: dict[str, Any] = {}
    """Changes to the shipped recipe ``simulate``: ``section.key: value``."""
    dataset: DatasetOfStudy = DatasetOfStudy()
    tasks: Annotated[tuple[TaskRecipe, ...], Field(min_length=1)]
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)] = (
        "pixels", "random", "direct", "contrastive", "supervised", "hybrid",
    )  # fmt: skip
    pretrain: PretrainRecipe
    """Of all pretrained arms; its `approach` is replaced."""
    variants: dict[VariantName, VariantRecipe] = {}
    """More pretrained arms, by name: what another weight or length of pretraining does."""
    pretraining_seeds: Annotated[int, Field(ge=1)] = 1
    modes: Annotated[tuple[Literal["linear", "full"], ...], Field(min_length=1)] = ("linear", "full")
    """How pretrained arms learn a task; of several, validation chooses."""
    linear: FinetuneRecipe
    full: FinetuneRecipe
    """Finetuning of pretrained encoders."""
    direct: FinetuneRecipe
    """Training from random weights."""
    validation: Annotated[float, Field(gt=0.0, lt=0.8)] = 0.2
    """Share of each label subset that stops training and chooses between linear and full."""
    seeds: Annotated[int, Field(ge=1)] = 5
    """Label subsets, each with its own finetuning seed."""
    resamples: Annotated[int, Field(ge=100)] = 2000
    """Bootstrap resamples behind each interval."""
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _names_differ(self) -> StudyRecipe:
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError("tasks must have different names")
        if self.data is not None and self.dataset.recipe is None:
            raise ValueError("'data' is given, so 'dataset.recipe' must say how it becomes a store")
        return self

    @model_validator(mode="after")
    def _variants_can_be_trained(self) -> StudyRecipe:
        taken = sorted(set(self.variants) & set(get_args(Arm)))
        if taken:
            raise ValueError(f"variant {taken[0]!r} has the name of an arm")
        for name in self.variants:
            self.pretraining(name)
        return self

    def pretraining(self, arm: str) -> PretrainRecipe:
        """Return the recipe of a pretrained arm or variant."""
        variant = self.variants.get(arm)
        approach, changes = (arm, {}) if variant is None else (variant.approach, variant.changes)
        content = self.pretrain.model_dump(mode="json") | {"approach": approach}
        overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
        return parse(content, PretrainRecipe, f"variant {arm!r}", overrides)


def load_study_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> StudyRecipe:
    """Load a shipped study recipe or a YAML file.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such recipe, or a wrong key or value.
    """
    return load(find(RECIPES, name_or_path), StudyRecipe, overrides)
