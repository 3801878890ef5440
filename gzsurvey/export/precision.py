"""Smaller numbers for the encoder of an ONNX graph: half precision, or 8-bit integers. Heads stay in float32.

Letters: N images, S pixels on a side.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.card import Precision
from gzsurvey.export.graph import INPUT

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_HEADS = ".heads."
"""In the names of weights that read an embedding."""
_PRODUCTS = ("Conv", "MatMul", "Gemm")
"""Where the arithmetic of a network is, and what integers make faster."""
_IMAGES_AT_A_TIME = 16
RANGES: Mapping[str, Any] = {"extra_options": {"CalibMovingAverage": True}}
"""Of activations: the extremes of each batch of images, averaged over batches. The extremes of all images would coarsen
the steps of all values for the sake of a few."""


def lowered(proto: ModelProto, precision: Precision, images: NDArray[np.uint8]) -> ModelProto:
    """Return a graph whose encoders compute in `precision`.

    Parameters
    ----------
    proto : onnx.ModelProto
        As `to_onnx` returns it, of a `Network` or an `Ensemble`; it is not changed.
    precision : {"fp32", "fp16", "int8"}
        ``fp16``: weights and activations in half precision, for GPUs. ``int8``: convolutions and matrix
        products in integers, 7 bits of a weight with a scale per channel, 8 of an activation.
    images : uint8, shape (N, 3, S, S)
        On which ranges of activations are measured for ``int8``.
    """
    change: dict[Precision, Callable[[], ModelProto]] = {
        "fp32": lambda: proto,
        "fp16": lambda: _half(proto),
        "int8": lambda: quantised(proto, images, products(proto)),
    }
    return change[precision]()


class _Encoder:
    """Which nodes of a graph lie between scaled pixels and embeddings."""

    def __init__(self, graph: GraphProto) -> None:
        weights = {tensor.name for tensor in graph.initializer}
        made_by = {name: node for node in graph.node for name in node.output}
        read = [node.input[0] for node in graph.node if any(_HEADS in name for name in node.input if name in weights)]
        self.embeddings = tuple(dict.fromkeys(["embedding", *read]))
        """Tensors that heads read, and the output."""
        self.pixels = _scaled_pixels(graph)
        """The tensor of pixels between 0 and 1."""
        inside: set[str] = set()
        waiting = list(self.embeddings)
        while waiting:
            name = waiting.pop()
            if name != self.pixels and name in made_by and name not in inside:
                inside.update(made_by[name].output)
                waiting.extend(made_by[name].input)
        self.nodes = [node for node in graph.node if node.output[0] in inside]


def _scaled_pixels(graph: GraphProto) -> str:
    """Return what the first two operations on pixels, a cast and a division, make of the input."""
    name = INPUT
    for kind in ("Cast", "Div"):
        name = next(node.output[0] for node in graph.node if node.op_type == kind and node.input[0] == name)
    return name


def _half(proto: ModelProto) -> ModelProto:
    """Halve the weights of encoders; pixels become halves where they enter, embeddings floats where they leave."""
    from onnx import ModelProto, TensorProto, helper

    changed = ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    encoder = _Encoder(graph)
    halves = {name: f"{name}_half" for name in (encoder.pixels, *encoder.embeddings)}
    halves |= _halve_weights(graph, encoder.nodes)
    for node in encoder.nodes:
        node.input[:] = [halves.get(name, name) for name in node.input]
        node.output[:] = [halves.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    casts = {
        encoder.pixels: (encoder.pixels, halves[encoder.pixels], TensorProto.FLOAT16),
        **{halves[name]: (halves[name], name, TensorProto.FLOAT) for name in encoder.embeddings},
    }
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        for given, cast, to in (casts[name] for name in node.output if name in casts):
            nodes.append(helper.make_node("Cast", [given], [cast], f"cast_{given}", to=to))
    del graph.node[:]
    graph.node.extend(nodes)
    return changed


def _halve_weights(graph: GraphProto, nodes: list[NodeProto]) -> dict[str, str]:
    """Add a half of every float32 weight that `nodes` read, remove what nobody reads then; return the new names."""
    from onnx import TensorProto, numpy_helper

    read, own = {name for node in nodes for name in node.input}, {node.output[0] for node in nodes}
    still = {name for node in graph.node if node.output[0] not in own for name in node.input}
    names, kept = {}, []
    for tensor in graph.initializer:
        if tensor.name in read and tensor.data_type == TensorProto.FLOAT:
            names[tensor.name] = f"{tensor.name}_half"
            half = numpy_helper.to_array(tensor).astype(np.float16)
            kept.append(numpy_helper.from_array(half, names[tensor.name]))
        if tensor.name not in names or tensor.name in still:
            kept.append(tensor)
    kept = [type(tensor).FromString(tensor.SerializeToString()) for tensor in kept]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return names


def products(proto: ModelProto) -> list[NodeProto]:
    """Return the convolutions and matrix products of a graph's encoders."""
    return [node for node in _Encoder(proto.graph).nodes if node.op_type in _PRODUCTS]


def quantised(
    proto: ModelProto, images: NDArray[np.uint8], nodes: Iterable[NodeProto], ranges: Mapping[str, Any] = RANGES
) -> ModelProto:
    """Return a graph that computes some products in 8-bit integers.

    Parameters
    ----------
    proto : onnx.ModelProto
        In float32; it is not changed.
    images : uint8, shape (N, 3, S, S)
        On which ranges of activations are measured.
    nodes : iterable of onnx.NodeProto
        Some of `products`.
    ranges : mapping
        Options of `onnxruntime.quantization.quantize_static` that say how ranges are set.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder, _without_advice():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            onnx.ModelProto.FromString(proto.SerializeToString()),
            path,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Two products of 8 bits each overflow the 16 bits that processors without VNNI add them in.
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[node.name for node in nodes],
            **ranges,
        )
        return onnx.load(path)


class _Images:
    """Hands out images a few at a time, as ONNX Runtime's quantisation asks for them."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._parts: Iterator[NDArray[np.uint8]] = iter(
            images[start : start + _IMAGES_AT_A_TIME] for start in range(0, len(images), _IMAGES_AT_A_TIME)
        )

    def get_next(self) -> dict[str, Any] | None:
        part = next(self._parts, None)
        return None if part is None else {INPUT: part}


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence the advice to run a step that torch's exporter has done already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
