"""Recipes of `pretrain` and `finetune`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gzsurvey.recipes.base import Section, load
from gzsurvey.resources import RECIPES, find

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Blur = Annotated[float, Field(gt=0.0, le=20.0)]


class EncoderRecipe(Section):
    """The network that turns an image into an embedding."""

    name: str = "efficientnet_b0"
    """A timm name, a local folder in the hub's layout, or ``hf_hub:OWNER/NAME``."""
    pretrained: Literal["no", "timm"] = "no"
    """``timm``: start from the weights timm publishes for this name (a download)."""
    drop_path: Share = 0.0
    """Stochastic depth: share of residual branches left out, where the encoder has any."""


class OptimiserRecipe(Section):
    """How gradients become steps."""

    kind: Literal["adam", "adamw"] = "adam"
    learning_rate: Positive = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises from 0."""
    clip_norm: Positive | None = None
    """Longest gradient; None: not clipped."""


class ByolRecipe(Section):
    """Bootstrap your own latent: two views of a galaxy predict each other."""

    hidden: Count = 1024
    projection: Count = 256
    tau: Annotated[float, Field(ge=0.0, le=1.0)] = 0.99
    """Share of the target network that stays at each step."""
    tau_schedule: Literal["constant", "cosine"] = "constant"
    """``cosine``: from `tau` at the first step to 1 at the last."""


class HybridRecipe(Section):
    """How the loss of votes joins the contrastive loss."""

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    normalisation: Literal["scale_free", "fixed", "distance"] = "scale_free"
    """``scale_free``: the vote loss is brought to the size of the contrastive loss (-1 to 1)
    at each step. ``distance``: to the size of 2 + 2 x contrastive loss (0 to 4), which does not
    pass through 0 on the way. ``fixed``: the vote loss times `weight`."""
    dropout: Share = 0.2
    """Share of the embedding hidden from the vote head in training."""


class AugmentationRecipe(Section):
    """How a view of a galaxy is drawn; see `gzsurvey.training.augment`."""

    rotation_deg: Annotated[float, Field(ge=0.0, le=180.0)] = 180.0
    """Rotations are drawn from minus to plus this."""
    area: tuple[Share, Share] = (0.30, 0.85)
    """Share of the image's area that is kept."""
    aspect: tuple[Positive, Positive] = (0.8, 1.2)
    """Width over height of what is kept."""
    flip: Share = 0.5
    """Probability of each of the two flips."""
    jitter: Share = 0.8
    """Probability that colours are changed at all."""
    brightness: Share = 0.4
    contrast: Share = 0.4
    saturation: Share = 0.4
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    """Share of the colour circle."""
    greyscale: Share = 0.3
    """Probability that a view has no colour."""
    blur: Share = 0.0
    """Probability that a view is blurred by a Gaussian."""
    blur_sigma: tuple[Blur, Blur] = (0.1, 2.0)
    """Its standard deviation, pixels of the view, is drawn between these."""

    @model_validator(mode="after")
    def _ranges_rise(self) -> AugmentationRecipe:
        for name in ("area", "aspect", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high:
                raise ValueError(f"{name!r} must be two rising numbers above 0")
        return self


MILD_VIEWS = AugmentationRecipe(area=(0.7, 1.0), aspect=(0.9, 1.1), jitter=0.0, greyscale=0.0)
"""For finetuning: a class may depend on colour and on what lies at the edge."""


class GuardRecipe(Section):
    """When training is given up."""

    bad_batches: Count = 10
    """Batches in a row whose loss is not finite."""
    least_spread: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.005
    """Embeddings of different galaxies spread at least this much, else they have collapsed."""
    least_dimensions: Annotated[float, Field(ge=1.0)] = 1.2
    """They differ along at least this many directions, else they have collapsed onto a line."""
    closest_views: Share = 0.998
    """Mean cosine between views above which they agree because nothing is told apart any more."""


class PretrainRecipe(Section):
    """One pretraining."""

    approach: Literal["hybrid", "supervised", "contrastive"] = "hybrid"
    encoder: EncoderRecipe = EncoderRecipe()
    batch_size: Annotated[int, Field(ge=2)] = 512
    """Galaxies per step, over all processes and micro-batches together."""
    accumulate: Count = 1
    """Micro-batches, one after the other, of which a step is made: less memory. The gradient is
    that of the whole batch, but batch norm uses the statistics of each micro-batch."""
    sampling: Literal["natural", "stratified"] = "natural"
    """``natural``: galaxies come as the store has them. ``stratified``, for ``hybrid``: every
    batch holds `labelled_share` of galaxies with votes."""
    labelled_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    """Of each batch, where `sampling` is ``stratified``."""
    epochs: Count = 400
    steps: Count | None = None
    """Stop after this many steps, whatever `epochs` says."""
    patience: Count | None = 8
    """Stop after this many epochs without gain on validation votes; None: never."""
    optimiser: OptimiserRecipe = OptimiserRecipe()
    byol: ByolRecipe = ByolRecipe()
    hybrid: HybridRecipe = HybridRecipe()
    augmentation: AugmentationRecipe = AugmentationRecipe()
    guard: GuardRecipe = GuardRecipe()
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """``auto``: bfloat16 on a GPU, float32 on a CPU, where bfloat16 is faster with some encoders and
    slower with others. Losses are always float32; ``float16`` scales them so that small gradients survive."""
    compile: Literal["none", "online"] = "none"
    """``online``: torch compiles the online encoder, which takes minutes before the first step."""
    checkpoint_minutes: Positive = 10.0
    """Save at least this often, besides at the end of each epoch."""
    trackers: tuple[Literal["tensorboard"], ...] = ()
    """Also write the log for these: ``OUT/tensorboard``, with the extra ``tensorboard``."""
    seed: Annotated[int, Field(ge=0)] = 69

    @model_validator(mode="after")
    def _strata_need_both_kinds(self) -> PretrainRecipe:
        if self.sampling == "stratified" and self.approach != "hybrid":
            raise ValueError(f"'sampling: stratified' mixes galaxies with and without votes, which approach "
                             f"{self.approach!r} does not do; use 'natural'")  # fmt: skip
        return self


class FinetuneTask(Section):
    """What is learnt from which columns of the table of labels."""

    task: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,29}$")] = "task"
    """Name of the task; its output is ``TASK_probability``, of a number ``TASK``, of votes ``concentration``."""
    kind: Literal["classes", "labels", "number", "votes"] = "classes"
    """``classes``: each galaxy has one. ``labels``: it may have several, or none. ``number``: mean and
    standard deviation. ``votes``: volunteers' answers to a question tree."""
    label_column: str = "label"
    """Of ``classes`` and ``number``."""
    label_columns: tuple[str, ...] = ()
    """Of ``labels``: one column of 0 and 1 for each; empty where not known."""
    campaign: str | None = None
    """Of ``votes``: a shipped campaign or union, or a YAML file, whose question tree the columns follow."""
    class_names: dict[str, str] = {}
    """Names for classes as they stand in the table, e.g. ``{"1": ring, "0": no_ring}``."""
    class_weights: Literal["none", "balanced"] = "none"
    """Of ``classes``; ``balanced``: rare ones count as much as frequent ones."""
    unit: str = ""
    """Of a ``number``, as the VOUnit standard writes it."""
    loss_weight: Positive = 1.0
    """Weight of this task's loss beside those of other tasks."""

    @property
    def output(self) -> str:
        """Name of the network's output."""
        return {"number": self.task, "votes": "concentration"}.get(self.kind, f"{self.task}_probability")

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> FinetuneTask:
        needed = {"labels": "label_columns", "votes": "campaign"}.get(self.kind)
        if needed is not None and not getattr(self, needed):
            raise ValueError(f"task {self.task!r} of kind {self.kind!r} needs {needed!r}")
        owners = {
            "label_columns": "labels", "campaign": "votes", "class_names": "classes", "unit": "number",
        }  # fmt: skip
        for key, kind in owners.items():
            if getattr(self, key) and kind != self.kind:
                raise ValueError(f"{key!r} belongs to kind {kind!r}; task {self.task!r} is of kind {self.kind!r}")
        if self.class_weights != "none" and self.kind != "classes":
            raise ValueError(f"'class_weights' belongs to kind 'classes'; task {self.task!r} is of kind {self.kind!r}")
        if self.kind == "number" and self.task in ("embedding", "concentration"):
            raise ValueError(f"'task' {self.task!r} is the name of another output; choose another")
        return self

    @field_validator("label_columns")
    @classmethod
    def _columns_differ(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) < len(values):
            raise ValueError("'label_columns' must differ from each other")
        return values

    @field_validator("unit")
    @classmethod
    def _is_a_unit(cls, value: str) -> str:
        from astropy.units import Unit

        try:
            Unit(value, format="vounit")
        except ValueError:
            raise ValueError("'unit' is none of the VOUnit standard (arcsec, mag, km/s, solMass/yr, ...)") from None
        return value


class FinetuneRecipe(FinetuneTask):
    """One finetuning: its task, perhaps further ones learnt with it, and how."""

    also: tuple[FinetuneTask, ...] = ()
    """Further tasks, learnt at once from the same table; a galaxy may lack the labels of some."""
    mode: Literal["auto", "linear", "last_blocks", "full"] = "auto"
    """``linear``: the encoder stays as it is. ``last_blocks``: its last parts learn too.
    ``full``: everything learns. ``auto``: by the number of labels."""
    encoder: EncoderRecipe = EncoderRecipe()
    """For CHECKPOINT ``none``."""
    image_size: Annotated[int, Field(ge=16, le=1024)] | None = None
    """For a start without a checkpoint of ours; None: the store's, or 64."""
    bands: tuple[str, ...] | None = None
    """Of images from a cutout SOURCE, as ``classify --bands``."""
    zeropoints: tuple[float | str, ...] | None = None
    """Of images from a cutout SOURCE, as ``classify --zeropoints``."""
    size_column: str | None = None
    """Half-light radius, for images from a cutout SOURCE; None: found by its usual names."""
    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of the labels kept for validation."""
    split: Literal["stratified", "sky"] = "stratified"
    """``stratified``: class by class, a number by its size. ``sky``: whole cells of the sky, so that
    neighbours stay together."""
    sky_order: Annotated[int, Field(ge=0, le=12)] = 4
    """HEALPix order of these cells; 4: cells of 3.7 degrees, wider than clusters and most surveys' tiles."""
    label_limit: Annotated[int, Field(ge=4)] | None = None
    """Learn from, and validate on, so many of the labels, drawn class by class; None: all.
    Says what more labels are worth."""
    folds: Annotated[int, Field(ge=2, le=100)] | None = None
    """Cross-validation: as many more finetunings, each tested on another part of the labels."""
    seeds: Annotated[int, Field(ge=2, le=100)] | None = None
    """Members of an ensemble: as many more finetunings, each with a seed of its own."""
    views: Annotated[int, Field(ge=0, le=100)] = 4
    """``linear``: augmented copies of each training image, besides the image itself."""
    blocks: Count = 2
    """``last_blocks``: how many of the encoder's parts learn."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 0.75
    """``full``, ``last_blocks``: each earlier part learns this much slower."""
    dropout: Share = 0.5
    """Share of the embedding hidden from the head in training."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    epochs: Count = 100
    least_steps: Count = 20
    """An epoch is at least this many steps: few labels are visited several times between two validations."""
    patience: Count = 10
    """Stop after this many epochs without gain on validation."""
    optimiser: OptimiserRecipe = OptimiserRecipe(kind="adamw", learning_rate=1e-4, weight_decay=0.05)
    augmentation: AugmentationRecipe = MILD_VIEWS
    seed: Annotated[int, Field(ge=0)] = 69

    @property
    def tasks(self) -> tuple[FinetuneTask, ...]:
        """All tasks that are learnt at once."""
        return (self, *self.also)

    @property
    def title(self) -> str:
        """Names of all tasks, for people."""
        return ", ".join(task.task for task in self.tasks)

    @model_validator(mode="after")
    def _tasks_differ(self) -> FinetuneRecipe:
        for what, values in (("task", [t.task for t in self.tasks]), ("output", [t.output for t in self.tasks])):
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"two tasks have the {what} {twice!r}; each needs one of its own")
        return self


def load_pretrain_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> PretrainRecipe:
    """Load a shipped pretraining recipe or a YAML file.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such recipe, or a wrong key or value.
    """
    return load(find(RECIPES, name_or_path), PretrainRecipe, overrides)


def load_finetune_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> FinetuneRecipe:
    """Load a shipped finetuning recipe or a YAML file.

    Raises
    ------
    gzsurvey.errors.RecipeError
        No such recipe, or a wrong key or value.
    """
    return load(find(RECIPES, name_or_path), FinetuneRecipe, overrides)
