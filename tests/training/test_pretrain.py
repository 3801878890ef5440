from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gzsurvey.dataset.store import Store
from gzsurvey.errors import OutputBusy, OutputConflict, TrainingError
from gzsurvey.lock import alone_in
from gzsurvey.model.checkpoint import find_checkpoint, load_network, read_tensors
from gzsurvey.outliers import embedding_distance
from gzsurvey.recipes.training import PretrainRecipe, load_pretrain_recipe
from gzsurvey.training import job
from gzsurvey.training.pretrain import Pretraining, choose_galaxies, pretrain

BASE = {
    "encoder": {"name": "test_resnet"},
    "batch_size": 16,
    "steps": 8,
    "byol": {"hidden": 32, "projection": 16},
}


def recipe(**changes: object) -> PretrainRecipe:
    return PretrainRecipe.model_validate(BASE | changes)


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_times(records: list[dict[str, float]]) -> list[dict[str, float]]:
    """All that must be the same whenever it is measured."""
    assert all(record["images_per_second"] > 0 and 0 <= record["waiting"] <= 1 for record in records)
    timed = ("images_per_second", "waiting")
    return [{name: value for name, value in record.items() if name not in timed} for record in records]


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ask for a stop as Ctrl-C does, while the given step runs."""
    descend, seen = job.descend, []

    def counted(*arguments: object) -> bool:
        seen.append(1)
        if len(seen) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return descend(*arguments)

    monkeypatch.setattr(job, "descend", counted)


@pytest.mark.parametrize("approach", ["hybrid", "supervised", "contrastive"])
def test_each_approach_leaves_a_checkpoint_that_knows_itself(store_path: Path, tmp_path: Path, approach: str) -> None:
    out = pretrain(recipe(approach=approach), store_path, tmp_path / "out", "cpu")
    network, info = load_network(find_checkpoint(str(out)))
    store = Store(store_path)
    assert [head.output for head in info.heads] == ([] if approach == "contrastive" else ["concentration"])
    assert info.approach == approach
    assert info.preparation == store.info.preparation
    assert info.simulated
    assert info.credits == store.info.credits
    assert len(info.thumbnails) == (64 if approach != "supervised" else min(64, len(info.training_cells["voted"])))
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
    last = log(out)[-1]
    assert ("contrastive" in last) == (approach != "supervised")
    assert ("validation_votes" in last) == (approach != "contrastive")
    assert info.embedding_reference is not None
    with torch.inference_mode():
        images = torch.from_numpy(store.images(store.rows("validation"))).permute(0, 3, 1, 2) / 255
        distance, score = embedding_distance(network(images)["embedding"].numpy(), info.embedding_reference)
    assert 0.3 < np.median(distance) < 3
    assert 0.3 < np.median(score) < 0.7


def test_only_the_train_split_trains(store_path: Path) -> None:
    store = Store(store_path)
    votes = np.asarray(store.votes[:]).sum(axis=1)
    train, validation = set(store.rows("train")), set(store.rows("validation"))
    for approach in ("hybrid", "supervised", "contrastive"):
        chosen = choose_galaxies(store, recipe(approach=approach))
        assert set(chosen.training) <= train
        assert set(chosen.validation) <= validation
        assert (votes[chosen.validation] > 0).all()
        if approach == "supervised":
            assert (votes[chosen.training] > 0).all()
        else:
            assert set(chosen.training) == train


def test_stopped_and_resumed_equals_straight_bit_for_bit(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = pretrain(recipe(steps=10), store_path, tmp_path / "straight", "cpu")
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            pretrain(recipe(steps=10), store_path, tmp_path / "stopped", "cpu")
    assert (tmp_path / "stopped" / "best.json").read_text() != (straight / "best.json").read_text()
    stopped = pretrain(recipe(steps=10), store_path, tmp_path / "stopped", "cpu")
    for name in ("last-training", "last", "best"):
        ours, theirs = (read_tensors(out / f"{name}.safetensors") for out in (stopped, straight))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert without_times(log(stopped)) == without_times(log(straight))
    assert (stopped / "best.json").read_text() == (straight / "best.json").read_text()


@pytest.mark.slow
def test_a_stratified_training_resumes_as_exactly(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strata = recipe(steps=6, sampling="stratified", labelled_share=0.25)
    straight = pretrain(strata, store_path, tmp_path / "straight", "cpu")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            pretrain(strata, store_path, tmp_path / "stopped", "cpu")
    stopped = pretrain(strata, store_path, tmp_path / "stopped", "cpu")
    ours, theirs = (read_tensors(out / "last-training.safetensors") for out in (stopped, straight))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert {record["labelled"] for record in log(stopped)} == {0.25}


def test_strata_need_both_kinds_of_galaxies(make_store: Callable[..., Path], tmp_path: Path) -> None:
    for approach in ("supervised", "contrastive"):
        with pytest.raises(ValueError, match=rf"stratified.*{approach}.*natural"):
            recipe(approach=approach, sampling="stratified")
    with pytest.raises(TrainingError, match="every galaxy of the store has votes"):
        pretrain(recipe(sampling="stratified"), make_store("voted", n=32, voted=1.0), tmp_path / "out", "cpu")


def test_a_finished_out_is_left_alone_and_another_recipe_refused(
    store_path: Path, tmp_path: Path, make_store: Callable[..., Path]
) -> None:
    out = pretrain(recipe(steps=2), store_path, tmp_path / "out", "cpu")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert pretrain(recipe(steps=2), store_path, out, "cpu") == out
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(OutputConflict, match=r"recipe\.hybrid\.weight was 1\.0, now 3\.0"):
        pretrain(recipe(steps=2, hybrid={"weight": 3.0}), store_path, out, "cpu")
    with pytest.raises(OutputConflict, match="dataset_sha256"):
        pretrain(recipe(steps=2), make_store("other", n=32, seed=5), out, "cpu")


def test_of_two_that_train_into_one_out_the_second_is_refused(store_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with alone_in(out), pytest.raises(OutputBusy, match=f"out: process {os.getpid()} on .* is working on it now"):
        pretrain(recipe(), store_path, out, "cpu")
    pretrain(recipe(), store_path, out, "cpu")
    with alone_in(out):
        pretrain(recipe(), store_path, out, "cpu")  # finished: nothing to be done


def test_bad_batches_are_skipped_counted_and_at_last_refused(store_path: Path, tmp_path: Path) -> None:
    training = Pretraining(recipe(guard={"bad_batches": 2}), Store(store_path), tmp_path, torch.device("cpu"))
    weights = {name: tensor.clone() for name, tensor in training.model.network.state_dict().items()}
    forward = training.model.forward

    def broken(*arguments: object) -> object:
        losses = forward(*arguments)
        return replace(losses, contrastive=losses.contrastive * float("nan"))

    from gzsurvey.training.data import batches

    some = list(batches(training.store, training.order, range(5)))
    training.model.forward = broken
    training.step(some[0])
    training.step(some[1])
    assert (training.progress.skipped, training.progress.skipped_in_row) == (2, 2)
    assert "2 bad batches skipped" in training._note()
    assert all(torch.equal(tensor, weights[n]) for n, tensor in training.model.network.state_dict().items())
    training.model.forward = forward
    training.step(some[2])
    assert (training.progress.skipped, training.progress.skipped_in_row) == (2, 0)
    training.model.forward = broken
    training.step(some[3])
    training.step(some[4])
    with pytest.raises(TrainingError, match=r"3 batches in a row.*learning_rate"):
        training.step(some[0])


@pytest.mark.parametrize(("projector", "sign"), [(True, "closest_views"), (False, "least_dimensions")])
def test_a_run_that_collapses_is_caught(store_path: Path, tmp_path: Path, projector: bool, sign: str) -> None:
    """Without predictor, and with gradient through the target, galaxies become one, or one line."""
    guard = {} if projector else {"closest_views": 1.0}
    options = {"approach": "contrastive", "steps": 80, "optimiser": {"learning_rate": 0.01}, "guard": guard}
    training = Pretraining(recipe(**options), Store(store_path), tmp_path, torch.device("cpu"))
    byol, encoder = training.model.byol, training.model.network.encoder
    byol.predictor = torch.nn.Identity()
    if not projector:
        byol.projector = torch.nn.Identity()
    byol.target, byol.update_target = lambda images: byol.projector(encoder(images)), lambda encoder, tau: None
    with pytest.raises(TrainingError, match=f"collapsed.*{sign}"):
        training.run()


def test_it_learns(make_store: Callable[..., Path], tmp_path: Path) -> None:
    out = pretrain(recipe(steps=36), make_store("blobs", n=160), tmp_path / "out", "cpu")
    records = log(out)
    assert records[-1]["contrastive"] < records[0]["contrastive"] - 0.1
    assert min(r["validation_votes"] for r in records) < records[0]["validation_votes"] - 0.5


def test_patience_ends_training(store_path: Path, tmp_path: Path) -> None:
    options = {"approach": "supervised", "steps": None, "epochs": 50, "patience": 2}
    out = pretrain(recipe(**options, optimiser={"learning_rate": 0.3}), store_path, tmp_path / "out", "cpu")
    losses = [record["validation_votes"] for record in log(out)]
    assert len(losses) < 50
    assert len(losses) - 1 - int(np.argmin(losses)) == 2


def test_no_votes_at_all(make_store: Callable[..., Path], tmp_path: Path) -> None:
    unlabelled = make_store("unlabelled", n=32, voted=0.0)
    with pytest.raises(TrainingError, match="--approach contrastive"):
        pretrain(recipe(), unlabelled, tmp_path / "hybrid", "cpu")
    pretrain(recipe(approach="contrastive", steps=1), unlabelled, tmp_path / "contrastive", "cpu")


def test_a_second_request_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)  # a shell lets what it starts in the background ignore it
    with job.interruptible() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_training_in_a_thread_is_possible(store_path: Path, tmp_path: Path) -> None:
    thread = threading.Thread(target=pretrain, args=(recipe(steps=1), store_path, tmp_path / "out", "cpu"))
    thread.start()
    thread.join()
    assert (tmp_path / "out" / "best.safetensors").is_file()


def test_shipped_recipe_is_the_papers() -> None:
    loaded = load_pretrain_recipe("pretrain", ["byol.tau=0.996"])
    assert (loaded.encoder.name, loaded.batch_size, loaded.hybrid.weight) == ("efficientnet_b0", 512, 1.0)
    assert loaded.byol.tau == 0.996
    assert loaded.augmentation.area == (0.30, 0.85)


def test_no_gpu_is_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    with pytest.raises(TrainingError, match="no GPU"):
        job.choose_device("cuda")
    assert job.choose_device("auto").type == "cpu"


def test_schedules() -> None:
    options = load_pretrain_recipe("pretrain").optimiser.model_copy(update={"schedule": "cosine", "warmup_steps": 10})
    rates = [job.learning_rate(options, step, 100) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4, rel=0.01)
    assert max(rates) == pytest.approx(1e-3, rel=0.03)
    assert rates[100] == pytest.approx(0, abs=1e-12)
