"""A tiny model, built with onnx alone, and jobs around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gzsurvey.card import Card, EmbeddingReference
from gzsurvey.cutouts.spec import SourceSpec
from gzsurvey.recipes.preparation import Preparation, ScaleRule, Stretch
from gzsurvey.recipes.survey import SurveyRecipe, load_survey_recipe
from gzsurvey.survey import Job

SIZE, FEATURES = 32, 6
QUESTIONS: tuple[dict[str, Any], ...] = (
    {
        "question": "smooth-or-featured", "suffix": "", "campaign": "small",
        "answers": ["smooth", "featured", "artifact"], "asked_after_any": [],
    },
    {
        "question": "bar", "suffix": "", "campaign": "small", "answers": ["yes", "no"],
        "asked_after_any": [["smooth-or-featured", "featured"]],
    },
)  # fmt: skip
RING = {"kind": "classes", "task": "ring", "classes": ["no", "yes"], "balance": {"no": 0.8, "yes": 0.2}}


def card(
    rule: ScaleRule | None = None,
    size: int = SIZE,
    features: int = FEATURES,
    stretch: Stretch | None = None,
    reference: EmbeddingReference | None = None,
) -> Card:
    preparation = Preparation(image_size=size, scale_rule=rule or ScaleRule(), stretch=stretch or Stretch())
    return Card.model_validate(
        {
            "name": "small",
            "created": "2026-01-01",
            "preparation": preparation.model_dump(),
            "input_type": preparation.input_type,
            "embedding_size": features,
            "heads": [{"kind": "votes", "questions": QUESTIONS}, RING],
            "default_campaign": "small",
            "embedding_reference": reference and reference.model_dump(),
        }
    )


def write_model(
    path: Path,
    rule: ScaleRule | None = None,
    gain: float = 1.0,
    size: int = SIZE,
    features: int = FEATURES,
    stretch: Stretch | None = None,
    reference: EmbeddingReference | None = None,
) -> Path:
    """Convolution, mean, two heads; `gain` NaN gives a model whose predictions are not finite."""
    described = card(rule, size, features, stretch, reference)
    pixels = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}[described.input_type]
    rng = np.random.default_rng(1)
    weights = {
        "scale": np.float32(255.0),
        "one": np.float32(1.0),
        "kernel": (gain * rng.normal(size=(features, 3, 5, 5))).astype(np.float32),
        "votes": rng.normal(size=(features, 5)).astype(np.float32),
        "classes": rng.normal(size=(features, 2)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
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
    outputs = {"embedding": features, "concentration": 5, "ring_probability": 2}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", pixels, ["batch", 3, size, size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", n]) for name, n in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    for key, value in described.to_metadata().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path.write_bytes(model.SerializeToString())
    assert onnx.load(path)
    return path


def recipe(**changes: Any) -> SurveyRecipe:
    return load_survey_recipe("survey", [f"{key}={value}" for key, value in changes.items()])


def job(model: Path, targets: Path | str, cutouts: str = "synthetic:", **changes: Any) -> Job:
    sources = tuple(SourceSpec.parse(text) for text in cutouts.split())
    changes.setdefault("recipe", recipe(preview_targets=4, check_rows=16))
    return Job(model, str(targets), sources, **changes)


def write_targets(path: Path, rows: int, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    ids = rng.permutation(rows * 3)[:rows] - rows
    ra, dec = rng.uniform(150, 151, rows), rng.uniform(-1, 1, rows)
    r50, mag = rng.uniform(0.5, 6, rows), rng.uniform(14, 19, rows)
    lines = [f"{i},{a:.7f},{d:.7f},{r:.3f},{m:.3f}" for i, a, d, r, m in zip(ids, ra, dec, r50, mag, strict=True)]
    path.write_text("\n".join(["id,ra,dec,r50,mag", *lines]) + "\n")
    return path
