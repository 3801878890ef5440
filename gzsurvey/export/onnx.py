"""From a checkpoint to one ONNX file that cannot be misused: trace, compare, describe, keep."""

from __future__ import annotations

import datetime
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from gzsurvey.card import Calibration, Card, Precision
from gzsurvey.dataset.store import Store
from gzsurvey.errors import CardMismatch, ExportError, OutputConflict
from gzsurvey.export.agreement import measure
from gzsurvey.export.ensemble import Ensemble, describe_ensemble
from gzsurvey.export.graph import OPSET, PixelsToOutputs, to_onnx
from gzsurvey.export.model_card import model_card
from gzsurvey.export.pictures import Pictures, invented_flux, stored_pictures, travelling_pictures
from gzsurvey.export.precision import lowered
from gzsurvey.export.recalibrate import recalibrated
from gzsurvey.export.speed import compare_speed
from gzsurvey.inference.session import OnnxModel
from gzsurvey.model.checkpoint import CheckpointInfo, find_checkpoint, load_network
from gzsurvey.model.network import Network
from gzsurvey.progress import Progress

if TYPE_CHECKING:
    from onnx import ModelProto

logger = logging.getLogger(__name__)

Loaded = tuple[Network, CheckpointInfo]

_LARGEST_FILE = 2**31 - 1
_INHERITED = (
    "simulated", "preparation", "embedding_size", "heads", "embedding_reference", "training_ranges", "training_cells",
    "thumbnails", "dataset_sha256", "recipe_sha256", "credits",
)  # fmt: skip


def export(
    checkpoints: Sequence[str | Path],
    out: Path | str,
    campaign: str | None = None,
    precision: Precision = "fp32",
    dataset: Path | None = None,
) -> Card:
    """Write a checkpoint as one self-contained ONNX file, with its card inside and a page beside it.

    Parameters
    ----------
    checkpoints : sequence of str or Path
        CHECKPOINTs: the OUT of `pretrain` or `finetune`, or a file in it. Several become the members
        of an ensemble, whose outputs stand side by side.
    out : Path or str
        The ONNX file. The page has the same name with ``.md``. Repeating the same export
        finishes at once.
    campaign : str, optional
        Whose volunteers a catalogue imitates unless it is told otherwise; default: the one
        with most of the training votes.
    precision : {"fp32", "fp16", "int8"}
        In which numbers encoders compute. The file is refused where that changes its predictions by more
        than `gzsurvey.export.agreement.LIMITS`.
    dataset : Path, optional
        A STORE. Its training galaxies set the ranges of ``int8``, and the file is compared on validation galaxies.
        Where it is what a checkpoint was trained on, votes are calibrated anew in a lower precision.
        Default: the up to 64 galaxies that travel with the checkpoint, and no new calibration.

    Returns
    -------
    Card
        As it stands in the file. Its text says how far the file is from torch, and what the
        licences of its training sources forbid.

    Raises
    ------
    gzsurvey.errors.ExportError
        A checkpoint predicts nothing, members differ in what they predict, a model of flux is wanted in
        another precision than ``fp32``, or the file differs from torch; nothing is kept.
    gzsurvey.errors.OutputConflict
        `out` is there and was made from something else.
    gzsurvey.errors.RecipeError
        There is no such checkpoint.
    """
    out = Path(out)
    if out.suffix != ".onnx":
        raise ExportError(f"{out}: the name of a model file must end in .onnx")
    files = [find_checkpoint(str(checkpoint)) for checkpoint in checkpoints]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    repeated = next((str(name) for i, name in enumerate(checkpoints) if digests[i] in digests[:i]), None)
    if repeated is not None:
        raise ExportError(f"{repeated} stands twice; the members of an ensemble must differ")
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    if out.exists():
        return _finished(out, sha256, campaign, precision)
    if not out.parent.is_dir():
        raise ExportError(f"{out}: there is no directory {out.parent}")
    loaded = [load_network(file) for file in files]
    described = describe_ensemble([info for _, info in loaded], [str(name) for name in checkpoints])
    if precision != "fp32" and described.preparation.is_flux:
        raise ExportError("a model of flux is exported in fp32 only; leave the precision out")
    pictures, calibrated_in = _pictures(described, precision, dataset), "fp32"
    if precision != "fp32" and dataset is not None and _trained_all(Store(dataset), loaded):
        loaded = [recalibrated(*member, precision, pictures, Store(dataset)) for member in loaded]
        calibrated_in = precision
        described = described.model_copy(update={"embedding_reference": loaded[0][1].embedding_reference})
    card = _with(
        draft_card(described, out.stem, campaign),
        precision=precision,
        calibrated_in=calibrated_in,
        checkpoint_sha256=sha256,
        members=len(files),
        calibration=_calibrations([info for _, info in loaded]),
    )
    network = loaded[0][0] if len(files) == 1 else Ensemble([network for network, _ in loaded])
    return keep(network, card, pictures, out)


def _pictures(info: CheckpointInfo, precision: Precision, dataset: Path | None) -> Pictures:
    size = info.preparation.image_size
    if dataset is None and info.preparation.is_flux:
        return invented_flux(info.preparation)
    if dataset is None:
        return travelling_pictures(info.thumbnails, size, precision)
    store = Store(dataset)
    if store.image_shape[:2] != (size, size):
        raise ExportError(f"{dataset} holds images of {store.image_shape[0]} pixels, the model takes {size}")
    return stored_pictures(store)


def _trained_all(store: Store, loaded: Sequence[Loaded]) -> bool:
    """Tell whether `store` trained every member, so that its validation galaxies are held out of all; say if not."""
    known = all(info.dataset_sha256 == store.info.content_sha256 for _, info in loaded)
    if not known:
        Progress.say(
            f"export: {store.path} is not what the checkpoint was trained on, so calibration stays as it was fitted "
            f"in float32"
        )
    return known


def _calibrations(infos: Sequence[CheckpointInfo]) -> dict[str, tuple[Calibration | None, ...]]:
    """Return every member's calibration of each output that any of them calibrates."""
    outputs = dict.fromkeys(output for info in infos for output in info.calibration)
    return {output: tuple(info.calibration.get(output) for info in infos) for output in outputs}


def draft_card(info: CheckpointInfo, name: str, campaign: str | None = None) -> Card:
    """Turn what a checkpoint says of itself into a card, without what the export measures.

    Raises
    ------
    gzsurvey.errors.ExportError
        The checkpoint has no head, or `campaign` is not in its question tree.
    """
    if not info.heads:
        raise ExportError(
            f"this checkpoint ({info.trained_by}, {info.approach or 'no approach'}) has an encoder but predicts "
            f"nothing; run 'gzsurvey finetune' on it first"
        )
    known = next((head.tree.campaigns for head in info.heads if head.kind == "votes"), ())
    if campaign is not None and campaign not in known:
        raise ExportError(f"campaign {campaign!r} is not in the model's question tree ({', '.join(known) or 'none'})")
    return Card.model_validate(
        {field: getattr(info, field) for field in _INHERITED}
        | {
            "name": name,
            "input_type": info.preparation.input_type,
            "created": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "default_campaign": campaign or info.most_voted_campaign or (known[0] if known else None),
            "versions": {f"training: {package}": number for package, number in info.versions.items()},
        }
    )


def keep(network: nn.Module, card: Card, pictures: Pictures, out: Path) -> Card:
    """Write `network` as an ONNX file with `card`, if both say the same of some galaxies.

    Parameters
    ----------
    network : nn.Module
        Takes float32 images (N, 3, S, S) in 0..1 and returns a mapping of the card's outputs.
    card : Card
        What is known before the export, the precision among it.
    pictures : Pictures
        To measure ranges, and to compare ONNX Runtime and torch on.
    out : Path
        The ONNX file.

    Returns
    -------
    Card
        As it stands in the file.

    Raises
    ------
    gzsurvey.errors.ExportError
        They disagree, or the file is too large for one piece; nothing is kept.
    """
    model = PixelsToOutputs(network, tuple(card.outputs)).eval().cpu()
    exact = to_onnx(model, card.preparation)
    proto = lowered(exact, card.precision, pictures.ranged)
    page = out.with_suffix(".md")
    with _aside(out) as onnx_aside, _aside(page) as page_aside:
        _save(proto, card, onnx_aside)
        agreement = measure(model, _open(onnx_aside), pictures.compared)
        logger.info("%s agrees with torch on %d images", out.name, len(pictures.compared))
        found = {"torch_difference": agreement.absolute, "torch_loss": agreement.loss}
        card = _with(card, versions=card.versions | _versions(proto.ir_version), **found)
        _save(proto, card, onnx_aside)
        _open(onnx_aside)
        _write(page_aside, model_card(card, out.name).encode())
        page_aside.replace(page)
        onnx_aside.replace(out)
    if card.precision != "fp32":
        Progress.say(f"export: {compare_speed(exact, proto, card.precision, pictures.compared)}")
    return card


def _finished(out: Path, checkpoint_sha256: str, campaign: str | None, precision: Precision) -> Card:
    try:
        card = OnnxModel(out, "cpu").card
    except CardMismatch:
        raise OutputConflict(out, ["a file that 'gzsurvey export' did not write"]) from None
    differences = []
    if card.checkpoint_sha256 != checkpoint_sha256:
        differences.append(f"checkpoint {card.checkpoint_sha256[:12] or 'unknown'}, now {checkpoint_sha256[:12]}")
    if campaign not in (None, card.default_campaign):
        differences.append(f"campaign {card.default_campaign}, now {campaign}")
    if card.precision != precision:
        differences.append(f"precision {card.precision}, now {precision}")
    if differences:
        raise OutputConflict(out, differences)
    return card


def _with(card: Card, **changes: Any) -> Card:
    return Card.model_validate({name: getattr(card, name) for name in Card.model_fields} | changes)


def _versions(ir_version: int) -> dict[str, str]:
    packages = ("gzsurvey", "torch", "onnx", "onnxscript")
    return {f"export: {name}": version(name) for name in packages} | {"opset": str(OPSET), "ir": str(ir_version)}


def _save(proto: ModelProto, card: Card, path: Path) -> None:
    from onnx import helper

    helper.set_model_props(proto, card.to_metadata())
    if proto.ByteSize() > _LARGEST_FILE:
        raise ExportError(f"the model takes {proto.ByteSize() / 1e9:.1f} GB; one ONNX file holds at most 2 GB")
    _write(path, proto.SerializeToString(deterministic=True))


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _open(path: Path) -> OnnxModel:
    try:
        return OnnxModel(path, "cpu")
    except CardMismatch as problem:
        raise ExportError(f"the exported file is not what its card says, so nothing was kept: {problem}") from None


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    aside = path.with_name(f"{path.name}.partial")
    try:
        yield aside
    finally:
        aside.unlink(missing_ok=True)
