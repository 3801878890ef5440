"""A small ONNX model, built with onnx alone, and a card written by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gzsurvey.card import Card
from gzsurvey.recipes.preparation import Preparation

SIZE, FEATURES = 32, 6
QUESTIONS: tuple[dict[str, Any], ...] = (
    {
        "question": "smooth-or-featured",
        "suffix": "",
        "campaign": "small",
        "answers": ["smooth", "featured", "artifact"],
        "asked_after_any": [],
    },
    {
        "question": "bar",
        "suffix": "",
        "campaign": "small",
        "answers": ["yes", "no"],
        "asked_after_any": [["smooth-or-featured", "featured"]],
    },
)
CLASSES = {"kind": "classes", "task": "ring", "classes": ["no", "yes"], "balance": {"no": 0.8, "yes": 0.2}}


@pytest.fixture(scope="session")
def card() -> Card:
    return Card.model_validate(
        {
            "name": "small",
            "created": "2026-01-01",
            "preparation": Preparation(image_size=SIZE).model_dump(),
            "embedding_size": FEATURES,
            "heads": [{"kind": "votes", "questions": QUESTIONS}, CLASSES],
            "default_campaign": "small",
        }
    )


def build(metadata: dict[str, str], answers: int = 5, input_name: str = "image", size: Any = SIZE) -> bytes:
    """Convolution, mean, two heads: enough to see rows, shapes and types."""
    rng = np.random.default_rng(1)
    weights = {
        "scale": np.float32(255.0),
        "one": np.float32(1.0),
        "kernel": rng.normal(size=(FEATURES, 3, 5, 5)).astype(np.float32),
        "votes": rng.normal(size=(FEATURES, answers)).astype(np.float32),
        "classes": rng.normal(size=(FEATURES, 2)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", [input_name], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["real", "scale"], ["unit"]),
        helper.make_node("Conv", ["unit", "kernel"], ["maps"], strides=[3, 3]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "votes"], ["raw"]),
        helper.make_node("Softplus", ["raw"], ["positive"]),
        helper.make_node("Add", ["positive", "one"], ["concentration"]),
        helper.make_node("MatMul", ["embedding", "classes"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["ring_probability"], axis=1),
    ]
    outputs = {"embedding": FEATURES, "concentration": answers, "ring_probability": 2}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(input_name, TensorProto.UINT8, ["batch", 3, size, size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", n]) for name, n in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(scope="session")
def built() -> Callable[..., bytes]:
    return build


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory, card: Card) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    path.write_bytes(build(card.to_metadata()))
    return path


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (67, 3, SIZE, SIZE), dtype=np.uint8)
