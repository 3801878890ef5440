"""Blocks cover every row once, and sky order is HEALPix order."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gzsurvey.sky import blocks, healpix


@given(st.integers(1, 10**6), st.integers(1, 500))
def test_blocks_cover_every_row_once(targets: int, workers: int) -> None:
    length = blocks.block_length(targets, workers)
    assert length % 256 == 0
    assert 256 <= length <= 16_384
    found = list(blocks.blocks(targets, length))
    assert [b.start for b in found] == list(range(0, targets, length))
    assert sum(b.rows for b in found) == targets
    assert found[-1].stop == targets
    assert len(found) == blocks.count(targets, length)
    assert [blocks.block(b.number, targets, length) for b in found] == found
    assert length == 256 or len(found) >= 8 * workers


def test_big_jobs_get_big_blocks_and_small_jobs_enough_of_them() -> None:
    assert blocks.block_length(10**9, 100) == 16_384
    assert blocks.block_length(1928, 2) == 256
    assert blocks.block_length(20_000, 2) == 1024


def test_cells_are_nested_and_nan_has_none() -> None:
    ra, dec = np.array([45.0, np.nan, 225.0]), np.array([0.1, 1.0, -0.1])
    fine = healpix.cells(ra, dec)
    assert fine[1] == -1
    assert (fine[[0, 2]] >> 2 * 11).tolist() == healpix.cells(ra, dec, order=18)[[0, 2]].tolist()


def test_close_pairs_are_counted() -> None:
    step = 0.5 / 3600
    assert healpix.close_pairs(np.array([10, 10 + step, 50.0]), np.array([0.0, 0, 0]), 1.0) == 1
    assert healpix.close_pairs(np.array([0.0, 360 - step]), np.array([0.0, 0.0]), 1.0) == 1
