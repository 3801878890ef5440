"""A stream is predicted in order, in bounded memory, with preparation beside inference."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gzsurvey.inference.predict import predict, to_model_input
from gzsurvey.inference.session import OnnxModel


@pytest.fixture(scope="module")
def model(model_file: Path) -> OnnxModel:
    return OnnxModel(model_file, "cpu", batch_size=8)


def stream(images: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for row, image in enumerate(images):
        yield 1000 + row, image


def test_every_row_once_and_in_order(model: OnnxModel, images: np.ndarray) -> None:
    whole = model.run(images)
    parts = list(predict(model, stream(images)))
    np.testing.assert_array_equal(np.concatenate([p.rows for p in parts]), 1000 + np.arange(len(images)))
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([p.outputs[name] for p in parts]), values)


def test_nothing_in_nothing_out(model: OnnxModel) -> None:
    assert list(predict(model, iter(()))) == []


def meeting(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> OnnxModel:
    """Let no batch end before another has begun."""
    both, run_batch = threading.Barrier(2), model._run_batch

    def run(batch: np.ndarray) -> list[np.ndarray]:
        both.wait(timeout=20)
        return run_batch(batch)

    monkeypatch.setattr(model, "_run_batch", run)
    return model


def test_batches_are_predicted_side_by_side(
    model_file: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = OnnxModel(model_file, "cpu").run(images[:64])
    model = meeting(OnnxModel(model_file, "cpu", threads=2, batch_size=8), monkeypatch)
    parts = list(predict(model, stream(images[:64])))
    np.testing.assert_array_equal(np.concatenate([p.rows for p in parts]), 1000 + np.arange(64))
    whole = model.run(images[:64])
    for name, values in expected.items():
        np.testing.assert_array_equal(np.concatenate([p.outputs[name] for p in parts]), values)
        np.testing.assert_array_equal(whole[name], values)


@pytest.mark.parametrize("threads", [1, 3])
def test_reads_only_a_few_batches_ahead(model_file: Path, images: np.ndarray, threads: int) -> None:
    model = OnnxModel(model_file, "cpu", threads, batch_size=8)
    drawn = 0

    def endless() -> Iterator[tuple[int, np.ndarray]]:
        nonlocal drawn
        while True:
            drawn += 1
            yield drawn, images[drawn % len(images)]

    predictions = predict(model, endless())
    for taken in range(1, 20):
        next(predictions)
        assert drawn <= (taken + 2 * threads) * model.batch_size
    predictions.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("inference")]


def test_an_error_of_preparation_reaches_the_caller(model: OnnxModel, images: np.ndarray) -> None:
    def broken() -> Iterator[tuple[int, np.ndarray]]:
        yield from stream(images[:20])
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(predict(model, broken()))


def test_layout_puts_planes_first() -> None:
    pictures = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    layout = to_model_input(pictures)
    assert layout.flags.c_contiguous
    np.testing.assert_array_equal(layout[1, 2], pictures[1, :, :, 2])
