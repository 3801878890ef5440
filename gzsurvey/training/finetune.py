"""Finetuning: new tasks from a few labels, on a pretrained encoder or on none."""

from __future__ import annotations

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gzsurvey.dataset.store import Store
from gzsurvey.errors import RecipeError, TrainingError
from gzsurvey.model.checkpoint import CheckpointInfo, find_checkpoint, load_network
from gzsurvey.model.encoder import architecture, create_encoder, is_encoder
from gzsurvey.model.network import Network
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.recipes.training import FinetuneRecipe
from gzsurvey.training import describe, job
from gzsurvey.training.augment import refuse_meaningless
from gzsurvey.training.distributed import refuse_several_processes
from gzsurvey.training.fitting import Finetuning, Start
from gzsurvey.training.labels import read_labels
from gzsurvey.training.parts import Parts, split
from gzsurvey.training.pictures import IMAGES, Survey, collect, is_store, open_images
from gzsurvey.training.repeats import Learn, cross_validate, train_ensemble
from gzsurvey.training.tune import BEST_SO_FAR

logger = logging.getLogger(__name__)


def finetune(
    recipe: FinetuneRecipe,
    checkpoint: str,
    out: Path,
    labels: Path | None = None,
    images: Path | str | None = None,
    device: str = "auto",
) -> Path:
    """Teach a pretrained model new tasks.

    Repeating it on its own OUT goes on where it stopped, or returns at once.

    Parameters
    ----------
    recipe : FinetuneRecipe
        What is done.
    checkpoint : str
        The OUT of `pretrain` or `finetune`, one file in it, a timm name, ``hf_hub:OWNER/NAME``,
        a local folder in the hub's layout, or ``none``: direct training.
    out : Path
        OUT.
    labels : Path
        FITS, CSV, ECSV, VOTable or Parquet.
    images : Path or str
        A STORE, directory, zip, tar or parquet, or a cutout SOURCE (``mosaic:DIR``).
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    gzsurvey.errors.TableError
        The labels cannot be used; names rows or ids.
    gzsurvey.errors.RecipeError
        CHECKPOINT names nothing that can be started from, or IMAGES nothing that can be read.
    gzsurvey.errors.SourceError
        The cutout SOURCE cannot be used.
    gzsurvey.errors.OutputConflict
        OUT was made from other inputs.
    gzsurvey.errors.OutputBusy
        Another process finetunes in OUT.
    gzsurvey.errors.TrainingError
        The loss is not finite, or labels or images were not given.
    """
    refuse_several_processes("finetune")
    if labels is None or images is None:
        missing = "--labels" if labels is None else "--images"
        raise TrainingError(f"finetune ({recipe.title}) needs {missing}")
    chosen, origin = job.choose_device(device), open_images(images, recipe)
    description = {
        "recipe": recipe.model_dump(mode="json"),
        "checkpoint": _identity(checkpoint),
        "labels_sha256": hashlib.sha256(labels.read_bytes()).hexdigest(),
        "images": Store(origin).info.content_sha256 if is_store(origin) else origin.name,
    }
    table = read_labels(labels, recipe.tasks)
    preparation = make_start(checkpoint, recipe, origin).base.preparation
    refuse_meaningless(recipe.augmentation, preparation)

    def learn(place: Path, own: FinetuneRecipe, own_parts: Parts) -> None:
        Finetuning(own, make_start(checkpoint, own, origin), pictures, own_parts).run(place, chosen)

    repeat = partial(_unless_finished, description, learn)
    began = job.is_claimed(out)
    with job.claimed(out, description) as finished:
        if finished:
            logger.info("%s is finished", out)
            return out
        try:
            with job.released_if_refused(out, began):
                pictures = collect(table, origin, preparation, out)
                parts = split(pictures, recipe)
            cross_validate(recipe, pictures, out, repeat, chosen)
            train_ensemble(recipe, parts, out, repeat)
            learn(out, recipe, parts)
        finally:
            (out / IMAGES).unlink(missing_ok=True)
        _finish(out, description)
    return out


def _unless_finished(
    description: dict[str, Any], learn: Learn, place: Path, recipe: FinetuneRecipe, parts: Parts
) -> None:
    """Do one of several finetunings in a directory of its own, once."""
    own = description | {"recipe": recipe.model_dump(mode="json"), "part": "/".join(place.parts[-2:])}
    with job.claimed(place, own) as finished:
        if not finished:
            learn(place, recipe, parts)
            _finish(place, own)


def _finish(out: Path, description: dict[str, Any]) -> None:
    job.finish(out, description)
    (out / BEST_SO_FAR).unlink(missing_ok=True)


def make_start(checkpoint: str, recipe: FinetuneRecipe, images: Path | Survey) -> Start:
    """Return the network that CHECKPOINT names; what is random in it and its heads is drawn by the recipe's seed.

    Raises
    ------
    gzsurvey.errors.RecipeError
        It names nothing that can be started from.
    """
    torch.manual_seed(recipe.seed)
    preparation = (
        Store(images).info.preparation if is_store(images) else Preparation(image_size=recipe.image_size or 64)
    )
    if checkpoint == "none":
        encoder = create_encoder(recipe.encoder.name, preparation, drop_path=recipe.encoder.drop_path)
        return _start_without_card(Network(encoder, ()), preparation, images, pretrained=False)
    if is_encoder(checkpoint):
        network = Network(create_encoder(checkpoint, preparation, pretrained=True), ())
        return _start_without_card(network, preparation, images, pretrained=True)
    if Path(checkpoint).exists():
        return Start(*load_network(find_checkpoint(checkpoint)), pretrained=True)
    raise RecipeError(checkpoint, "is no OUT of 'pretrain', no timm name, no hf_hub:OWNER/NAME, and not 'none'")


def _identity(checkpoint: str) -> str:
    """Return what makes a CHECKPOINT the same when OUT is used again: its weights, or its name."""
    if checkpoint != "none" and Path(checkpoint).exists() and not is_encoder(checkpoint):
        return hashlib.sha256(find_checkpoint(checkpoint).read_bytes()).hexdigest()
    return checkpoint


def _start_without_card(
    network: Network, preparation: Preparation, images: Path | Survey, *, pretrained: bool
) -> Start:
    """Describe a network that no checkpoint of ours describes."""
    base = CheckpointInfo(
        encoder=architecture(network.encoder),
        embedding_size=network.embedding_size,
        preparation=preparation,
        trained_by="finetune",
        **(describe.provenance(Store(images)) if is_store(images) else {}),
    )
    return Start(network, base, pretrained)
