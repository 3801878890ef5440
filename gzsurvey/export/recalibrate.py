"""Calibration of what an encoder says in a lower precision, on held-out galaxies of its training store.

Letters: N galaxies, S pixels on a side, D embedding.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gzsurvey.card import Precision
from gzsurvey.dataset.store import Store
from gzsurvey.export.graph import INPUT, PixelsToOutputs, to_onnx
from gzsurvey.export.pictures import SEED, Pictures
from gzsurvey.export.precision import lowered
from gzsurvey.inference.provider import open_session
from gzsurvey.model.checkpoint import CheckpointInfo
from gzsurvey.model.network import Network
from gzsurvey.progress import Progress
from gzsurvey.recipes.cluster import cores
from gzsurvey.training import describe
from gzsurvey.training.data import labelled_rows
from gzsurvey.training.validation import votes_calibration

REFERENCE_GALAXIES = 5_000
"""Training galaxies embedded in the lower precision, mostly by a CPU; 32 principal components need no more."""


class OnnxEncoder(nn.Module):
    """An encoder's ONNX graph in the place of the encoder.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        From uint8 images to ``embedding``.
    """

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, images: Tensor) -> Tensor:
        """Embed images between 0 and 1 (N, 3, S, S), made of bytes: (N, D)."""
        pixels = torch.round(images * 255.0).to(torch.uint8).numpy()
        return torch.from_numpy(self.session.run(["embedding"], {INPUT: np.ascontiguousarray(pixels)})[0])


def recalibrated(
    network: Network, info: CheckpointInfo, precision: Precision, pictures: Pictures, store: Store
) -> tuple[Network, CheckpointInfo]:
    """Fit calibration of votes, and where training galaxies lie, to the embeddings of a lower precision.

    Parameters
    ----------
    network, info
        A checkpoint.
    precision : {"fp16", "int8"}
        Of the encoder.
    pictures : Pictures
        As for the export.
    store : Store
        What the checkpoint was trained on.

    Returns
    -------
    Network, CheckpointInfo
        With the new calibration; tasks that were finetuned keep theirs, their labels are not in the store.
    """
    proto = to_onnx(PixelsToOutputs(network, ("embedding",)).eval().cpu(), info.preparation)
    stand_in = copy.copy(network)
    stand_in._modules = dict(network._modules)
    session = open_session(lowered(proto, precision, pictures.ranged).SerializeToString(), "auto", cores())
    stand_in.encoder = OnnxEncoder(session)
    cpu = torch.device("cpu")
    held_out = store.rows("validation")
    Progress.say(f"export: calibrating {precision} on {len(held_out):,} validation galaxies")
    calibration = info.calibration | votes_calibration(stand_in, store, labelled_rows(store, held_out), cpu, SEED)
    training = describe.some(store.rows("train"), REFERENCE_GALAXIES, SEED)
    embedded = [describe.embed(stand_in, describe.in_parts(store, rows), cpu) for rows in (training, held_out)]
    reference = describe.embedding_reference(embedded[0], embedded[1]) or info.embedding_reference
    changed = Network(network.encoder, info.heads, calibration=calibration)
    changed.heads = network.heads
    return changed.eval(), info.model_copy(update={"calibration": calibration, "embedding_reference": reference})
