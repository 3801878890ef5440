"""From a torch network to one self-contained ONNX graph.

Letters: N galaxies, S pixels on a side of the model's input.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gzsurvey.recipes.preparation import Preparation

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT = "image"
OPSET = 20
"""Understood by ONNX Runtime from 1.17 on; what torch's exporter writes without conversion."""
LARGEST_PIXEL = 255.0
"""Of a picture; a network takes it for 1."""


class PixelsToOutputs(nn.Module):
    """The network with everything around it that belongs into the file.

    Parameters
    ----------
    network : nn.Module
        Takes float32 images (N, 3, S, S) in 0..1, or flux, and returns a mapping of outputs.
    outputs : sequence of str
        Which outputs, in the order of the file.
    """

    def __init__(self, network: nn.Module, outputs: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.outputs = tuple(outputs)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Scale the pixels of pictures, run the network.

        Parameters
        ----------
        image : uint8, or float32 flux, shape (N, 3, S, S)
            Prepared.

        Returns
        -------
        tuple of float32, shape (N, ...)
            In the order of `outputs`.
        """
        pixels = image.to(torch.float32) / LARGEST_PIXEL if image.dtype == torch.uint8 else image
        results = self.network(pixels)
        return tuple(results[name] for name in self.outputs)


def to_onnx(model: PixelsToOutputs, preparation: Preparation) -> ModelProto:
    """Trace `model` into ONNX, batch normalisation folded and batch left open.

    Parameters
    ----------
    model : PixelsToOutputs
        In evaluation mode, on the CPU.
    preparation : Preparation
        Says S, and whether images are pictures or flux.

    Returns
    -------
    onnx.ModelProto
        With its weights, without metadata: torch would leave the paths of this machine's
        sources in it.
    """
    # Of two, because a batch of one is traced as a constant.
    size, pixel = preparation.image_size, getattr(torch, preparation.input_type)
    example = torch.zeros((2, 3, size, size), dtype=pixel)
    with _quiet():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(model.outputs),
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    proto: ModelProto = program.model_proto
    del proto.graph.value_info[:]
    _forget_origins(proto)
    return proto


def _forget_origins(message: Any) -> None:
    """Remove every ``metadata_props`` and ``doc_string`` of a message and of all inside it."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in value if isinstance(value, Sequence) or hasattr(value, "add") else [value]:
                _forget_origins(inner)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own warnings, which no user of gzsurvey can act on, to itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
