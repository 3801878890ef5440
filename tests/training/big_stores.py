"""Stores of any number of galaxies, made in seconds: their files are holes, or random bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import zarr

from gzsurvey.dataset.store import StoreInfo, rows_per_chunk, write_info
from gzsurvey.recipes.preparation import Preparation
from gzsurvey.votes.tree import DecisionTree

PIECE = 100_000
NOT_BLACK = 4
"""The first chunks of images hold random bytes in any store, so that not all galaxies are equal."""
VOTED = 4096
"""The first of the galaxies have votes."""


def write_big_store(path: Path, galaxies: int, size: int, *, filled: bool = False) -> Path:
    """Write a store whose images, but for the first, are black and take no disk; random where `filled`."""
    tree = DecisionTree.load("gz_desi")
    per_chunk = rows_per_chunk(size)
    path.mkdir(parents=True)
    group = zarr.open_group(path / "store.zarr", mode="w", zarr_format=3)
    shapes = {"images": ((size, size, 3), "uint8", "0/0/0"), "votes": ((tree.n_answers,), "int32", "0")}
    for name, (shape, dtype, tail) in shapes.items():
        group.create_array(
            name, shape=(galaxies, *shape), dtype=dtype, chunks=(per_chunk, *shape), compressors=None, fill_value=0
        )
        for chunk in range(-(-galaxies // per_chunk)):
            file = path / "store.zarr" / name / "c" / str(chunk) / tail
            file.parent.mkdir(parents=True)
            with file.open("wb") as opened:
                opened.truncate(per_chunk * int(np.prod(shape)) * np.dtype(dtype).itemsize)
                if name == "images" and (filled or chunk < NOT_BLACK):
                    opened.write(np.random.default_rng(chunk).bytes(per_chunk * int(np.prod(shape))))
    asked = np.zeros((min(VOTED, galaxies), tree.n_answers), np.int32)
    asked[:, tree.questions[0].columns] = np.random.default_rng(0).multinomial(20, [0.3, 0.6, 0.1], len(asked))
    group["votes"][: len(asked)] = asked
    _write_table(path / "galaxies.parquet", galaxies)
    write_info(
        path,
        StoreInfo(
            simulated=True,
            preparation=Preparation(image_size=size),
            questions=tuple(tree.to_json()),
            galaxies=galaxies,
            credits=(),
            recipe_sha256="0" * 64,
            content_sha256=f"{galaxies:064d}",
        ),
    )
    return path


def _write_table(path: Path, galaxies: int) -> None:
    """As pandas would write it, but piece by piece and without a Python text per galaxy."""
    writer = None
    for start in range(0, galaxies, PIECE):
        numbers = np.arange(start, min(start + PIECE, galaxies))
        n = len(numbers)
        piece = pa.table(
            {
                "id": pc.binary_join_element_wise("g", pa.array(numbers).cast(pa.string()), ""),
                "source": pa.array(np.full(n, "holes")),
                "campaign": pa.array(np.full(n, "")),
                "ra": pa.array(numbers * (360.0 / galaxies)),
                "dec": pa.array(np.linspace(-60, 60, n)),
                "split": pa.array(np.where(numbers % 64 == 63, "validation", "train")),
                "assumed_votes": pa.array(np.zeros(n, np.bool_)),
                "image_sha256": pc.binary_join_element_wise("0" * 57, pa.array(numbers).cast(pa.string()), ""),
                "r50": pa.array(np.full(n, 3.0, np.float32)),
                "mag": pa.array(np.full(n, 16.0, np.float32)),
            }
        )
        writer = writer or pq.ParquetWriter(path, piece.schema)
        writer.write_table(piece)
    assert writer is not None
    writer.close()


class OneLayer(torch.nn.Module):
    """An encoder whose step takes less time than decoding a JPEG."""

    num_features = 16

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"architecture": "one_layer"}
        self.layer = torch.nn.Conv2d(3, self.num_features, 8, stride=8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(images)).mean(dim=(2, 3))
