"""Recipes of `pretrain` and `finetune`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, model_validator

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
    """``auto``: bfloat16 on a GPU, float32 on a CPU. Losses are always float32; ``float16``
    scales them so that small gradients survive."""
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


class FinetuneRecipe(Section):
    """One finetuning."""

    task: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,29}$")] = "task"
    """Name of the task: its output is ``TASK_probability``."""
    kind: Literal["classes"] = "classes"
    mode: Literal["auto", "linear", "last_blocks", "full"] = "auto"
    """``linear``: the encoder stays as it is. ``last_blocks``: its last parts learn too.
    ``full``: everything learns. ``auto``: by the number of labels."""
    encoder: EncoderRecipe = EncoderRecipe()
    """For CHECKPOINT ``none``."""
    image_size: Annotated[int, Field(ge=16, le=1024)] | None = None
    """For a start without a checkpoint of ours; None: the store's, or 64."""
    label_column: str = "label"
    class_names: dict[str, str] = {}
    """Names for labels as they stand in the table, e.g. ``{"1": ring, "0": no_ring}``."""
    validation: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of the labels kept for validation, class by class."""
    class_weights: Literal["none", "balanced"] = "none"
    """``balanced``: rare classes count as much as frequent ones."""
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
