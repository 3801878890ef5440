from __future__ import annotations

import pytest
import torch

from gzsurvey.model.byol import BYOL, negative_cosine, tau_at
from gzsurvey.model.encoder import create_encoder, embedding_size
from gzsurvey.recipes.training import ByolRecipe

SMALL = ByolRecipe(hidden=32, projection=16)


@pytest.fixture
def encoder(tiny: str) -> torch.nn.Module:
    return create_encoder(tiny)


@pytest.fixture
def byol(encoder: torch.nn.Module) -> BYOL:
    return BYOL(encoder, embedding_size(encoder), SMALL)


def target_parameters(byol: BYOL) -> list[torch.Tensor]:
    return [*byol.target_encoder.parameters(), *byol.target_projector.parameters()]


def test_target_is_a_separate_copy(encoder: torch.nn.Module, byol: BYOL) -> None:
    online = {p.data_ptr() for p in [*encoder.parameters(), *byol.projector.parameters()]}
    assert all(p.data_ptr() not in online and not p.requires_grad for p in target_parameters(byol))
    for ours, theirs in zip(encoder.parameters(), byol.target_encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_target_moves_by_the_stated_average(encoder: torch.nn.Module, byol: BYOL) -> None:
    online = [*encoder.parameters(), *byol.projector.parameters()]
    before = [p.clone() for p in target_parameters(byol)]
    with torch.no_grad():
        for p in online:
            p.add_(torch.randn_like(p))
    byol.update_target(encoder, 0.9)
    for new, old, o in zip(target_parameters(byol), before, online, strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * o, atol=1e-6)


def test_buffers_are_not_averaged(encoder: torch.nn.Module, byol: BYOL) -> None:
    before = [b.clone() for b in byol.target_encoder.buffers()]
    assert before
    encoder.train()(torch.rand(8, 3, 32, 32))
    byol.update_target(encoder, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, byol.target_encoder.buffers(), strict=True))


def test_target_in_training_uses_its_own_batch(byol: BYOL) -> None:
    byol.train()
    images = torch.rand(8, 3, 32, 32)
    alone = byol.target(images)
    doubled = byol.target(torch.cat([images, images * 0.1]))
    assert not torch.allclose(alone, doubled[:8], atol=1e-4)


def test_no_gradient_reaches_the_target(encoder: torch.nn.Module, byol: BYOL) -> None:
    views = torch.rand(6, 3, 32, 32), torch.rand(6, 3, 32, 32)
    projections = tuple(byol.projector(encoder(view)) for view in views)
    loss = byol.loss(projections, (byol.target(views[0]), byol.target(views[1])))
    loss.backward()
    assert all(p.grad is None for p in target_parameters(byol))
    for module in (encoder, byol.projector, byol.predictor):
        assert all(p.grad is not None for p in module.parameters())


def test_loss_is_symmetric_and_between_minus_one_and_one(byol: BYOL) -> None:
    byol.eval()
    p, q, t, u = torch.randn(4, 5, 16)
    loss = byol.loss((p, q), (t, u))
    assert loss.item() == pytest.approx(byol.loss((q, p), (u, t)).item(), abs=1e-6)
    assert -1 <= loss.item() <= 1
    assert negative_cosine(p, 3 * p).item() == pytest.approx(-1)
    assert negative_cosine(p, -p).item() == pytest.approx(1)


def test_cosine_tau_starts_at_the_base_and_ends_at_one() -> None:
    recipe = ByolRecipe(tau=0.996, tau_schedule="cosine")
    values = [tau_at(recipe, step, 100) for step in range(101)]
    assert values[0] == pytest.approx(0.996)
    assert values[50] == pytest.approx(0.998)
    assert values[100] == 1
    assert values == sorted(values)
    # It does not depend on what was asked before: no compounding.
    assert tau_at(recipe, 50, 100) == values[50]
    assert {tau_at(ByolRecipe(), step, 100) for step in (0, 50, 100)} == {0.99}
