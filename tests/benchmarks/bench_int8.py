"""What 8-bit integers lose, by how ranges of activations are set and which layers are quantised.

Of networks pretrained on a STORE, as `gzsurvey export --precision int8 --dataset STORE` quantises and compares them,
but without new calibration of votes::

    python tests/benchmarks/bench_int8.py STORE PRETRAINED [PRETRAINED ...]

Prints one Markdown table per network.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from bench_pretrain import machine
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod

from gzsurvey.dataset.store import Store
from gzsurvey.export.agreement import LIMITS
from gzsurvey.export.graph import INPUT, PixelsToOutputs, to_onnx
from gzsurvey.export.pictures import stored_pictures
from gzsurvey.export.precision import RANGES, products, quantised
from gzsurvey.inference.provider import open_session
from gzsurvey.model.checkpoint import find_checkpoint, load_network
from gzsurvey.recipes.cluster import cores
from gzsurvey.votes.fractions import expected_fractions
from gzsurvey.votes.tree import DecisionTree

WAYS: Mapping[str, Mapping[str, Any]] = {
    "extremes of all images": {},
    "as `export` sets them": RANGES,
    **{
        f"{share} %": {"calibrate_method": CalibrationMethod.Percentile, "extra_options": {"CalibPercentile": share}}
        for share in (99.999, 99.99, 99.9, 99.0)
    },
    "entropy": {"calibrate_method": CalibrationMethod.Entropy},
}
"""To set ranges: options of ONNX Runtime's quantiser, which holds every activation of every image for the last five."""


def outputs(proto: Any, images: NDArray[np.uint8], tree: DecisionTree) -> tuple[NDArray[Any], NDArray[Any]]:
    session = open_session(proto.SerializeToString(), "cpu", cores())
    parts = [
        session.run(["embedding", "concentration"], {INPUT: images[i : i + 16]}) for i in range(0, len(images), 16)
    ]
    embedding, concentration = (np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))
    return embedding / np.linalg.norm(embedding, axis=1, keepdims=True), expected_fractions(concentration, tree)


def layers_of(proto: Any) -> dict[str, list[Any]]:
    """Return the products of an encoder, and those that are no grouped convolutions if there are such."""
    every = products(proto)
    whole = [node for node in every if not any(a.name == "group" and a.i > 1 for a in node.attribute)]
    return {"all": every} | ({} if len(whole) == len(every) else {"all but grouped convolutions": whole})


def rows(checkpoint: str, store: Store, ranged: int) -> Iterator[str]:
    network, info = load_network(find_checkpoint(checkpoint))
    tree = next(head for head in info.heads if head.kind == "votes").tree
    proto = to_onnx(PixelsToOutputs(network, ("embedding", "concentration")).eval().cpu(), info.preparation)
    pictures, limit = stored_pictures(store), LIMITS["int8"]
    exact = outputs(proto, pictures.compared, tree)
    layers = layers_of(proto)
    yield f"\n{info.encoder}, {len(layers['all'])} products"
    yield f"{len(pictures.ranged[:ranged])} training galaxies for ranges, {len(pictures.compared)} others compared\n"
    yield "| ranges | layers | vote fractions: mean | largest | 1 - cosine of embeddings: mean | largest | kept | s |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, ranges in WAYS.items():
        for which, nodes in layers.items():
            started = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                lower = quantised(proto, pictures.ranged[:ranged], nodes, ranges)
            seconds, found = time.perf_counter() - started, outputs(lower, pictures.compared, tree)
            changes = np.abs(found[1] - exact[1]), 1 - (found[0] * exact[0]).sum(axis=1)
            kept = all(change.mean() <= limit.mean and change.max() <= limit.largest for change in changes)
            shown = " | ".join(f"{change.mean():.2g} | {change.max():.2g}" for change in changes)
            yield f"| {name} | {which} | {shown} | {'yes' if kept else 'no'} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--ranged", type=int, default=512)
    given = parser.parse_args()
    store = Store(given.store)
    print(machine())
    for checkpoint in given.checkpoints:
        for line in rows(checkpoint, store, given.ranged):
            print(line, flush=True)


if __name__ == "__main__":
    main()
