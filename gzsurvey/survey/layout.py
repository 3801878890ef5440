"""Which arrays a run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gzsurvey.card import EMBEDDING, Card, NumberHead, VotesHead
from gzsurvey.cutouts.spec import LayerSpec, SourceSpec
from gzsurvey.errors import SourceError, TableError
from gzsurvey.outputs.columns import ROW_COLUMNS, TARGET_ID, Column, layer_column
from gzsurvey.outputs.embedding import KeptEmbedding
from gzsurvey.outputs.zarr import ArraySpec, spec_of
from gzsurvey.recipes.survey import KeptOfEmbedding
from gzsurvey.sky.tables import ColumnInfo
from gzsurvey.sky.targets import TargetColumns

REASON = Column("reason", "A", ucd="meta.note", description="Why there is no prediction")
R50 = Column("r50", "E", 1, "arcsec", "phys.angSize;src", "Half-light radius that set the cutout's width")


def layer_columns(specs: Sequence[SourceSpec]) -> tuple[Column, ...]:
    """Return the columns of what the sources of a run sample at each target.

    Raises
    ------
    gzsurvey.errors.SourceError
        Two sources mean different things by one name.
    """
    layers: dict[str, LayerSpec] = {}
    for spec in specs:
        for layer in spec.layers:
            known = layers.setdefault(layer.name, layer)
            if (known.unit, known.description) != (layer.unit, layer.description):
                raise SourceError(
                    spec.text, f"its layer {layer.name!r} has another unit or meaning than an earlier source's"
                )
    return tuple(layer_column(layer.name, layer.unit, layer.description) for layer in layers.values())


def array_specs(
    card: Card, targets: TargetColumns, layers: Sequence[Column] = (), embedding: KeptOfEmbedding = "features"
) -> tuple[ArraySpec, ...]:
    """Return the arrays of ``predictions.zarr``, in order.

    Parameters
    ----------
    card : Card
        Says which outputs the model has.
    targets : TargetColumns
        Say which columns are kept, and whether ids are numbers.
    layers : sequence of Column
        What the sources sample at each target.
    embedding : {"features", "components"}
        What is kept of embeddings.

    Raises
    ------
    gzsurvey.errors.CardMismatch
        The card has no components.
    gzsurvey.errors.TableError
        A kept column has the name of another array.
    """
    specs = [replace(spec_of(TARGET_ID, "id", _dtype(targets.id_dtype)), name="id")]
    specs += [spec_of(column, "row") for column in (*ROW_COLUMNS, REASON)]
    specs += [spec_of(column, "layer") for column in layers]
    if targets.has_r50 and R50.name not in [info.name for info in targets.kept]:
        specs.append(spec_of(R50, "size"))
    specs.append(KeptEmbedding(card, embedding).spec)
    specs += [_output(card, name, width) for name, width in card.outputs.items() if name != EMBEDDING]
    taken = {spec.name.lower() for spec in specs}
    for info, dtype in zip(targets.kept, targets.kept_dtypes, strict=True):
        if info.name.lower() in taken:
            raise TableError("--keep", f"{info.name!r} is the name of a result; rename it in the targets")
        specs.append(_kept(info, dtype))
    return tuple(specs)


def group_attributes(card: Card, model_sha256: str, campaigns: Sequence[str]) -> dict[str, Any]:
    """Return what ``predictions.zarr`` says of itself; no dates, so that equal runs are equal files."""
    from gzsurvey import __version__

    return {
        "title": "Galaxy morphology by gzsurvey",
        "model": card.name,
        "model_sha256": model_sha256,
        "campaigns": list(card.votes.tree.campaigns) if card.votes else [],
        "default_campaigns": list(campaigns),
        "row_order": "HEALPix NESTED order 29, ties by id; row i is row i of the catalogue",
        "frame": "ICRS",
        "simulated_training": card.simulated,
        "gzsurvey_version": __version__,
    }


def _output(card: Card, name: str, width: int) -> ArraySpec:
    members = (("member", card.members),) if card.members > 1 else ()
    head = next(head for head in card.heads if head.output == name)
    if isinstance(head, VotesHead):
        about = {"long_name": "Dirichlet concentration of volunteers' votes", "ucd": "stat.fit.param;src.morph.type"}
        answers = [f"{q.name}_{answer}" for q in head.tree.questions for answer in q.answers]
        return ArraySpec(name, "float32", "output", (*members, ("answer", width)), about | {"answers": answers})
    if isinstance(head, NumberHead):
        about = {"long_name": f"Mean and standard deviation of {head.task}", "ucd": "src.morph.param;meta.modelled"}
        about |= {"units": head.unit} if head.unit else {}
        return ArraySpec(name, "float32", "output", (*members, (f"{head.task}_moment", width)), about)
    about = {"long_name": f"Probability of the classes of {head.task}", "ucd": "stat.probability;src.morph.type"}
    inner = (*members, (f"{head.task}_class", width))
    return ArraySpec(name, "float32", "output", inner, about | {"classes": list(head.classes)})


def _kept(info: ColumnInfo, dtype: np.dtype[Any]) -> ArraySpec:
    about: Mapping[str, Any] = {
        "units": info.unit, "ucd": info.ucd, "long_name": info.description, "null": info.null,
    }  # fmt: skip
    known = {key: value for key, value in about.items() if value not in ("", None)}
    return ArraySpec(info.name, _dtype(dtype), "kept", attributes=known)


def _dtype(dtype: np.dtype[Any]) -> str:
    return "str" if dtype.kind == "U" else str(dtype)
