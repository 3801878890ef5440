"""One step: micro-batches, precision, clipping, and what makes it fast."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from gzsurvey.dataset.store import Store
from gzsurvey.errors import TrainingError
from gzsurvey.recipes.training import PretrainRecipe
from gzsurvey.training import job, precision
from gzsurvey.training.data import Batch, batches
from gzsurvey.training.dropout import Seen, WholeBatchDropout
from gzsurvey.training.pretrain import Pretraining, pretrain
from gzsurvey.training.state import TrainingProgress, load_state, save_state

CPU = torch.device("cpu")
BASE = {
    "encoder": {"name": "test_resnet", "drop_path": 0.3},
    "batch_size": 16,
    "steps": 4,
    "byol": {"hidden": 32, "projection": 16},
}


def training(store: Store, out: Path, **changes: object) -> Pretraining:
    return Pretraining(PretrainRecipe.model_validate(BASE | changes), store, out, CPU)


def first_batch(made: Pretraining) -> Batch:
    (batch,) = batches(made.store, made.order, range(1))
    return batch


def gradient(made: Pretraining) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None])


def without_batch_statistics(made: Pretraining) -> Pretraining:
    for module in made.model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize("options", [{}, {"hybrid": {"normalisation": "distance"}}, {"approach": "supervised"}])
def test_micro_batches_have_the_gradient_of_the_whole_batch(
    store: Store, tmp_path: Path, options: dict[str, object]
) -> None:
    """Scale-free weighting, dropout and stochastic depth included; batch norm out of the way."""
    whole, cut = (without_batch_statistics(training(store, tmp_path, accumulate=n, **options)) for n in (1, 4))
    batch = first_batch(whole)
    batch.votes[:5] = 0  # one micro-batch is without labels
    whole.step(batch)
    cut.step(batch)
    assert (gradient(whole) - gradient(cut)).norm() < 1e-4 * gradient(whole).norm()
    for name, value in whole.progress.sums.items():
        assert cut.progress.sums[name] == pytest.approx(value, rel=1e-4), name


def test_dropout_of_a_part_is_that_of_its_whole_batch() -> None:
    x, seen = torch.ones(8, 50), Seen()
    for galaxies in (False, True):
        layer = WholeBatchDropout(0.4, seen, galaxies)
        seen.whole, seen.rows = None, slice(None)
        torch.manual_seed(1)
        whole = layer(x)
        parts = []
        for start in (0, 4):
            seen.whole, seen.rows = 8, slice(start, start + 4)
            torch.manual_seed(1)
            parts.append(layer(x[start : start + 4]))
        assert torch.equal(torch.cat(parts), whole)
        assert whole.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
        assert torch.equal(layer.eval()(x[:4]), x[:4])
        assert (whole == whole[:, :1]).all() == galaxies


def test_bfloat16_leaves_the_losses_in_float32_and_close(store: Store, tmp_path: Path) -> None:
    seen = {}
    for name in ("float32", "bfloat16"):
        made = training(store, tmp_path, precision=name)
        losses = made._pass(first_batch(made), first_batch(made).votes, slice(0, 16))
        assert losses.supervised is not None
        assert losses.contrastive is not None
        assert losses.supervised.dtype == losses.contrastive.dtype == torch.float32
        seen[name] = (losses.supervised.item(), losses.contrastive.item(), losses.embedding.dtype)
    assert seen["float32"][2] == torch.float32
    assert seen["bfloat16"][:2] != seen["float32"][:2]
    assert seen["bfloat16"][0] == pytest.approx(seen["float32"][0], rel=0.02)
    assert seen["bfloat16"][1] == pytest.approx(seen["float32"][1], abs=0.05)


@pytest.mark.filterwarnings("ignore:for .* which is a no-op")
def test_what_an_optimiser_remembers_lies_where_its_weights_lie(tmp_path: Path) -> None:
    """``meta`` stands for a GPU, whose fused Adam refuses counts of steps that stayed on the CPU."""
    here, there = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2, device="meta")
    optimiser, moved = torch.optim.Adam(here.parameters()), torch.optim.Adam(there.parameters())
    here(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    save_state(tmp_path, here, optimiser, TrainingProgress(step=1))
    assert load_state(tmp_path, there, moved).step == 1
    for weight in there.parameters():
        assert moved.state[weight].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert {value.device.type for value in moved.state[weight].values()} == {"meta"}


def test_float16_scales_the_loss_and_its_scale_is_resumed(store: Store, tmp_path: Path) -> None:
    made = training(store, tmp_path, precision="float16")
    made.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1)
    plain = training(store, tmp_path)
    made.step(first_batch(made))
    plain.step(first_batch(plain))
    assert made.progress.skipped == 0
    assert made.scaler.get_scale() == 2.0**11
    # The gradient that is left is no longer scaled.
    assert gradient(made).norm() == pytest.approx(gradient(plain).norm().item(), rel=0.1)
    made._save_last()
    again = training(store, tmp_path, precision="float16")
    assert again.scaler.get_scale() == 2.0**11
    made.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100)
    made.step(first_batch(made))
    assert made.progress.skipped == 1
    assert made.scaler.get_scale() == 2.0**99


def test_precision_auto() -> None:
    assert precision.autocast_type("auto", CPU) is torch.float32
    assert precision.autocast_type("auto", torch.device("cuda")) is torch.bfloat16
    assert precision.make_scaler(torch.float16, CPU).is_enabled()
    assert not precision.make_scaler(torch.bfloat16, CPU).is_enabled()


def test_clipping_bites(store: Store, tmp_path: Path) -> None:
    free, clipped = training(store, tmp_path), training(store, tmp_path, optimiser={"clip_norm": 0.01})
    for made in (free, clipped):
        made.step(first_batch(made))
    assert gradient(free).norm() > 0.1
    assert gradient(clipped).norm() == pytest.approx(0.01, rel=1e-3)


def test_the_optimiser_is_fused_and_filters_are_channels_last(store: Store, tmp_path: Path) -> None:
    made = training(store, tmp_path)
    assert made.optimiser.defaults["fused"]
    seen = []
    convolutions = [m for m in made.model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size != (1, 1)]
    for convolution in convolutions:
        convolution.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    made.step(first_batch(made))
    assert len(seen) == 2 * len(convolutions) > 0
    weights = [convolution.weight for convolution in convolutions]
    # Where a side is 1 both orders are the same; the others tell.
    told = [t for t in [*seen, *weights] if min(t.shape[1:]) > 1]
    assert told
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in told)


def test_compiling_without_a_compiler_is_one_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(TrainingError, match="compile 'online' needs the C\\+\\+ compiler 'no-such-compiler'"):
        training(store, tmp_path, compile="online")


@pytest.mark.long
def test_a_compiled_encoder_computes_the_same(store: Store, tmp_path: Path) -> None:
    plain, compiled = (
        training(store, tmp_path, compile=how, encoder={"name": "test_resnet"}) for how in ("none", "online")
    )
    assert plain.model.state_dict().keys() == compiled.model.state_dict().keys()
    for made in (plain, compiled):
        made.step(first_batch(made))
    assert (gradient(plain) - gradient(compiled)).norm() < 1e-3 * gradient(plain).norm()


class Killed(BaseException):
    """Ends a training as kill -9 does: nothing is saved on the way out."""


def kill_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    descend, seen = job.descend, []

    def counted(*arguments: object) -> bool:
        seen.append(1)
        if len(seen) > steps:
            raise Killed
        return descend(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(job, "descend", counted)


def test_a_killed_run_goes_on_from_where_time_saved_it_and_from_the_state_before_if_that_is_damaged(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five steps are an epoch; steps 1 to 4 are saved by time alone."""
    recipe = PretrainRecipe.model_validate(BASE | {"batch_size": 14, "steps": 6, "checkpoint_minutes": 1e-9})
    straight = training(store, tmp_path / "straight", batch_size=14, steps=6)
    for batch in batches(store, straight.order, range(6)):
        straight.step(batch)
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        kill_after(patch, 3)
        with pytest.raises(Killed):
            pretrain(recipe, store.path, out, "cpu")
    assert training(store, out, batch_size=14).progress.step == 3
    newest = out / "last-training.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1000])
    capsys.readouterr()
    pretrain(recipe, store.path, out, "cpu")
    assert "last-training.safetensors: is damaged" in (said := capsys.readouterr().err)
    assert said.count("training goes on from step 2 of previous-training.safetensors") == 1
    resumed = Pretraining(recipe, store, out, CPU)
    assert resumed.progress.step == 6
    ours, theirs = resumed.model.state_dict(), straight.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_time_saves_no_more_often_than_asked(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, saved = training(store, tmp_path), []
    monkeypatch.setattr(made, "_save_last", lambda: saved.append(made.progress.step))
    interruption = job.Interruption()
    made.step(first_batch(made))
    made._after_step(interruption)
    assert saved == []
    made._saved -= 600.0
    made._after_step(interruption)
    assert saved == [1]
