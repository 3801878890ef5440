"""``checks/``: random rows as the model saw them, with its outputs, to verify a run without its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gzsurvey.outputs.paths import RunPaths
from gzsurvey.outputs.zarr import settle
from gzsurvey.sky.blocks import Block

Arrays = dict[str, NDArray[Any]]


def write(run: Path, block: Block, values: Arrays, images: dict[int, NDArray[Any]], outputs: Sequence[str]) -> None:
    """Keep some predicted rows of a block.

    Parameters
    ----------
    run : Path
        The RUN.
    block : Block
        The block.
    values : dict of str to array, shape (n, ...)
        Its arrays.
    images : dict of int to array, shape (S, S, 3)
        Prepared images by row in the block; other rows that are on file already stay as they are.
    outputs : sequence of str
        Names of the model's outputs.
    """
    path = _path(run, block.number)
    earlier = {int(row) - block.start: image for row, image in _pairs(path)}
    kept = {row: image for row, image in (earlier | images).items() if values["status"][row] == 0}
    if not kept:
        return
    rows = np.array(sorted(kept), dtype=np.int64)
    content: Arrays = {"row": rows + block.start, "id": values["id"][rows]}
    content["image"] = np.stack([kept[int(row)] for row in rows])
    content |= {name: values[name][rows] for name in outputs}
    aside = RunPaths(run).aside_of(block.number) / "checks.npz"
    aside.parent.mkdir(parents=True, exist_ok=True)
    with aside.open("wb") as file:
        np.savez_compressed(file, **content)  # type: ignore[arg-type]
    settle(aside, path)


def read(run: Path) -> Iterator[Arrays]:
    """Yield what is kept of each block: ``row``, ``id``, ``image`` (n, S, S, 3), one array per output."""
    for path in sorted(RunPaths(run).checks.glob("block-*.npz")):
        yield _load(path)


def _pairs(path: Path) -> Iterator[tuple[int, NDArray[Any]]]:
    if path.is_file():
        content = _load(path)
        yield from zip(content["row"].tolist(), content["image"], strict=True)


def _load(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _path(run: Path, block: int) -> Path:
    return RunPaths(run).checks / f"block-{block:06d}.npz"
