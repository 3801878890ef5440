from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from gzsurvey.dataset.store import Store
from gzsurvey.training.data import (
    Order,
    StratifiedOrder,
    Waiting,
    as_input,
    batches,
    labelled_rows,
    read_ahead,
    seed_of,
)


def test_an_epoch_visits_every_row_once_and_epochs_differ() -> None:
    order = Order(np.arange(100, 140), 8, seed=1)
    epochs = [np.concatenate([order.at(5 * e + i) for i in range(5)]) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(100, 140))
    assert not np.array_equal(epochs[0], epochs[1])


def test_the_order_is_a_function_of_seed_and_step() -> None:
    straight = Order(np.arange(50), 8, seed=1)
    steps = [straight.at(step) for step in range(20)]
    jumping = Order(np.arange(50), 8, seed=1)
    for step in (17, 3, 11, 0):
        assert np.array_equal(jumping.at(step), steps[step])
    assert not np.array_equal(Order(np.arange(50), 8, seed=2).at(0), steps[0])


def test_a_small_store_is_one_batch() -> None:
    order = Order(np.arange(5), 512, seed=0)
    assert (order.batch_size, order.steps_per_epoch) == (5, 1)


LABELLED, OTHERS = np.arange(100, 123), np.arange(1000, 1100)


@pytest.mark.parametrize(("share", "expected"), [(0.3, 5), (0.5, 8), (0.001, 1), (0.999, 15)])
def test_every_stratified_batch_holds_the_same_number_of_each(share: float, expected: int) -> None:
    order = StratifiedOrder(LABELLED, OTHERS, share, 16, seed=1)
    assert (order.batch_size, order.steps_per_epoch) == (16, 123 // 16)
    for step in range(60):
        rows = order.at(step)
        assert len(rows) == 16
        assert np.isin(rows, LABELLED).sum() == expected
        assert np.isin(rows, OTHERS).sum() == 16 - expected


def test_strata_are_visited_evenly_and_shuffled_again_when_they_run_out() -> None:
    order = StratifiedOrder(LABELLED, OTHERS, 0.5, 16, seed=1)
    seen = np.concatenate([order.at(step) for step in range(100)])
    for kind in (LABELLED, OTHERS):
        visits = np.array([(seen == row).sum() for row in kind])
        assert visits.sum() == 800
        assert visits.max() - visits.min() <= 1
    # 8 a step, 23 of them: the second round begins within the third step.
    rounds = [np.concatenate([np.sort(order.at(step)[np.isin(order.at(step), LABELLED)]) for step in steps])
              for steps in ((0, 1), (23, 24))]  # fmt: skip
    assert not np.array_equal(*rounds)
    mixed = [np.isin(order.at(step), LABELLED)[:8].sum() for step in range(100)]
    assert 3 < np.mean(mixed) < 5
    assert np.std(mixed) > 0.5


def test_the_stratified_order_is_a_function_of_seed_and_step() -> None:
    straight = StratifiedOrder(LABELLED, OTHERS, 0.3, 16, seed=1)
    steps = [straight.at(step) for step in range(40)]
    jumping = StratifiedOrder(LABELLED, OTHERS, 0.3, 16, seed=1)
    for step in (37, 3, 21, 0):
        assert np.array_equal(jumping.at(step), steps[step])
    assert not np.array_equal(StratifiedOrder(LABELLED, OTHERS, 0.3, 16, seed=2).at(0), steps[0])


def test_more_labelled_places_than_labelled_galaxies() -> None:
    rows = StratifiedOrder(LABELLED[:3], OTHERS, 0.5, 16, seed=0).at(7)
    assert sorted(np.bincount(rows[np.isin(rows, LABELLED)] - 100)) == [2, 3, 3]


def test_waiting_is_the_share_of_time_without_an_item() -> None:
    def slow() -> Iterator[int]:
        for item in range(6):
            time.sleep(0.03)
            yield item

    waiting = Waiting()
    for _ in waiting.watch(slow()):
        time.sleep(0.01)
    assert 0.6 < waiting.share < 0.9
    for _ in (busy := Waiting()).watch(range(5)):
        time.sleep(0.01)
    assert busy.share < 0.05
    waiting.restart()
    time.sleep(0.01)
    assert waiting.share == 0


def test_batches_are_the_stores_rows(store: Store) -> None:
    order = Order(store.rows("train"), 16, seed=3)
    seen = list(batches(store, order, range(2, 5)))
    assert [batch.step for batch in seen] == [2, 3, 4]
    for batch in seen:
        rows = order.at(batch.step)
        assert np.array_equal(batch.images.numpy(), store.images(rows))
        assert np.array_equal(batch.votes.numpy(), np.asarray(store.votes[:])[rows])


def test_network_input_is_the_image_over_255(store: Store) -> None:
    images = torch.from_numpy(store.images(np.arange(4)))
    made = as_input(images)
    assert made.shape == (4, 3, 32, 32)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal((made * 255).round().to(torch.uint8).permute(0, 2, 3, 1), images)


def test_labelled_rows(store: Store) -> None:
    votes = np.asarray(store.votes[:])
    rows = store.rows("train")
    assert np.array_equal(labelled_rows(store, rows, at_a_time=10), rows[votes[rows].sum(axis=1) > 0])


def test_reading_ahead_keeps_order_and_raises_the_sources_error() -> None:
    def numbers() -> Iterator[int]:
        yield from range(10)
        raise OSError("disk gone")

    ahead = read_ahead(numbers())
    assert [next(ahead) for _ in range(10)] == list(range(10))
    with pytest.raises(OSError, match="disk gone"):
        next(ahead)


def test_reading_ahead_stops_with_its_consumer() -> None:
    before = threading.active_count()
    endless = read_ahead(iter(int, 1))
    assert next(endless) == 0
    endless.close()
    assert threading.active_count() == before


def test_seeds_differ_by_step_and_use() -> None:
    seeds = {seed_of(69, step, use) for step in range(100) for use in range(3)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)
