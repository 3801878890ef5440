"""Checkpoints: safe weights with everything needed to use and to judge them.

::

    OUT/
    ├── best.safetensors   the network's weights, with its CheckpointInfo as metadata
    ├── best.json          the same CheckpointInfo, to be read by people
    ├── last.safetensors, last.json
    ├── last-training.safetensors    all that resuming needs (`gzsurvey.training.state`)
    └── previous-training.safetensors    the one before, for where the last one is damaged

Each file is written aside, flushed to disk and renamed, and none needs another to be used.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from gzsurvey.card import Calibration, Credit, EmbeddingReference, Head, TrainingRange
from gzsurvey.errors import RecipeError
from gzsurvey.model.encoder import create_encoder
from gzsurvey.model.network import Network
from gzsurvey.recipes.base import Section
from gzsurvey.recipes.preparation import Preparation

METADATA_KEY = "gzsurvey.checkpoint"
"""Key of the CheckpointInfo in the safetensors file's metadata."""


class CheckpointInfo(Section):
    """What a checkpoint's weights are, and on what they were trained."""

    format_version: Literal[1] = 1
    encoder: str
    """Name by which `gzsurvey.model.encoder.create_encoder` builds it."""
    embedding_size: int
    heads: tuple[Head, ...] = ()
    """Empty: a contrastive pretraining has none."""
    calibration: dict[str, Calibration] = {}
    """By output of a head; none: as the network gives it."""
    preparation: Preparation
    trained_by: Literal["pretrain", "finetune"]
    approach: str = ""
    """Of a pretraining: hybrid, supervised or contrastive; of a finetuning: its mode."""
    step: int = 0
    epoch: int = 0
    metrics: dict[str, float] = {}
    """Measured on validation galaxies."""
    most_voted_campaign: str | None = None
    """The campaign whose volunteers gave most of the training votes."""
    credits: tuple[Credit, ...] = ()
    simulated: bool = False
    dataset_sha256: str = ""
    recipe_sha256: str = ""
    embedding_reference: EmbeddingReference | None = None
    training_ranges: dict[str, TrainingRange] = {}
    training_cells: dict[str, tuple[int, ...]] | None = None
    """Order-18 NESTED cells: ``voted`` and ``seen``; None: unknown."""
    thumbnails: tuple[str, ...] = ()
    """Up to 64 training galaxies as the model sees them, base64 PNG."""
    versions: dict[str, str] = {}


def sha256_of(section: Section) -> str:
    """Hash a recipe by its content, whatever the spelling of its file."""
    return hashlib.sha256(json.dumps(section.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def save_checkpoint(folder: Path, name: str, network: Network, info: CheckpointInfo) -> Path:
    """Write ``NAME.safetensors``, then ``NAME.json``.

    Parameters
    ----------
    folder : Path
        OUT.
    name : str
        ``best`` or ``last``.
    network : Network
        Its weights are saved.
    info : CheckpointInfo
        Describes them.

    Returns
    -------
    Path
        The safetensors file.
    """
    content = info.model_dump_json()
    path = folder / f"{name}.safetensors"
    write_aside(path, save_tensors(network.state_dict(), {METADATA_KEY: content}))
    write_aside(folder / f"{name}.json", json.dumps(json.loads(content), indent=1).encode())
    return path


def save_tensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """Serialise tensors, wherever they lie in memory, with their metadata."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)


def write_aside(path: Path, content: bytes, previous: Path | None = None) -> None:
    """Write `content` beside `path`, flush it to disk, rename it.

    What `path` held before is kept as `previous`, if that is given.
    """
    aside = path.with_name(path.name + ".partial")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if previous is not None and path.is_file():
        path.replace(previous)
    aside.replace(path)


def find_checkpoint(text: str) -> Path:
    """Return the weights that a user means by CHECKPOINT.

    Parameters
    ----------
    text : str
        The OUT of `pretrain` or `finetune` (its best), or one file in it.

    Raises
    ------
    gzsurvey.errors.RecipeError
        There is no checkpoint; says what was looked for.
    """
    path = Path(text)
    if path.is_dir():
        found = next((path / f"{name}.safetensors" for name in ("best", "last")
                      if (path / f"{name}.safetensors").is_file()), None)  # fmt: skip
        if found is None:
            raise RecipeError(text, "holds no best.safetensors; is it the OUT of 'pretrain' or 'finetune'?")
        return found
    if path.suffix == ".json":
        path = path.with_suffix(".safetensors")
    if path.suffix != ".safetensors" or not path.is_file():
        raise RecipeError(text, "is no checkpoint: give the OUT of 'pretrain' or 'finetune', or one .safetensors in it")
    return path


def read_info(checkpoint: Path) -> CheckpointInfo:
    """Read what a checkpoint says of itself.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The file is damaged, of another version, or no checkpoint of gzsurvey.
    """
    metadata = _metadata(checkpoint)
    if METADATA_KEY not in metadata:
        raise RecipeError(str(checkpoint), "is no checkpoint of gzsurvey: its metadata lacks 'gzsurvey.checkpoint'")
    content = json.loads(metadata[METADATA_KEY])
    version = content.get("format_version")
    if version != 1:
        raise RecipeError(str(checkpoint), f"has checkpoint format {version}, this gzsurvey reads 1; upgrade gzsurvey")
    try:
        return CheckpointInfo.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(str(checkpoint), f"its description is damaged at {key!r}: {first['msg']}") from None


def load_network(checkpoint: Path) -> tuple[Network, CheckpointInfo]:
    """Build the network of a checkpoint, in evaluation mode, on the CPU.

    Parameters
    ----------
    checkpoint : Path
        As `find_checkpoint` returns it.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The file is damaged, of another version, or its weights do not fit its encoder.
    """
    info = read_info(checkpoint)
    network = Network(create_encoder(info.encoder, info.preparation), info.heads, calibration=info.calibration)
    load_weights(network, read_tensors(checkpoint), checkpoint)
    return network.eval(), info


def load_weights(module: torch.nn.Module, tensors: dict[str, torch.Tensor], origin: Path) -> None:
    """Put `tensors` into `module`; every name must fit.

    Raises
    ------
    gzsurvey.errors.RecipeError
        A name or shape differs.
    """
    shapes = [{name: list(tensor.shape) for name, tensor in part.items()} for part in (module.state_dict(), tensors)]
    for name in (*shapes[0], *shapes[1]):
        expected, found = (part.get(name, "absent") for part in shapes)
        if expected != found:
            problem = f"its weights do not fit its description: {name} is {found}, expected {expected}"
            raise RecipeError(str(origin), problem)
    module.load_state_dict(tensors)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file.

    Raises
    ------
    gzsurvey.errors.RecipeError
        The file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _metadata(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> RecipeError:
    return RecipeError(str(path), f"is damaged ({error}); expected a file as 'pretrain' or 'finetune' wrote it")
