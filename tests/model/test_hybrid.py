from __future__ import annotations

import pytest
import torch

from gzsurvey.card import VotesHead
from gzsurvey.model.dirichlet import answer_table
from gzsurvey.model.encoder import create_encoder
from gzsurvey.model.hybrid import (
    ContrastiveModel,
    HybridModel,
    SupervisedModel,
    combine,
    effective_dimensions,
    relative_spread,
    weighted_pulls,
)
from gzsurvey.model.network import Network
from gzsurvey.recipes.training import ByolRecipe, HybridRecipe
from gzsurvey.votes.tree import DecisionTree

TREE = DecisionTree.load("gz_desi")
HEAD = VotesHead(questions=tuple(TREE.to_json()))
SMALL = ByolRecipe(hidden=32, projection=16)


def combined(contrastive: torch.Tensor, supervised: torch.Tensor, recipe: HybridRecipe) -> torch.Tensor:
    terms = {"contrastive": contrastive, "supervised": supervised}
    return combine(terms, weighted_pulls(terms, recipe))


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, requires_grad=True)


@pytest.fixture
def hybrid(tiny: str) -> HybridModel:
    return HybridModel(Network(create_encoder(tiny), [HEAD]), answer_table(TREE), SMALL, HybridRecipe())


def batch(labelled: int, n: int = 8) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    votes = torch.zeros(n, TREE.n_answers, dtype=torch.int32)
    votes[:labelled, :3] = torch.tensor([5, 12, 1])
    return (torch.rand(n, 3, 32, 32), torch.rand(n, 3, 32, 32)), votes


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_scale_free_weighting_ignores_the_size_of_the_vote_loss(scale: float) -> None:
    """The gradient is grad L_c + w |L_c| grad ln L_s."""
    contrastive, supervised = scalar(-0.6), scalar(17.0)
    combined(contrastive, supervised * scale, HybridRecipe(weight=2.0)).backward()
    assert contrastive.grad == pytest.approx(1.0)
    assert supervised.grad == pytest.approx(2.0 * 0.6 / 17.0, rel=1e-5)


def test_scale_free_pull_ends_where_the_contrastive_loss_passes_zero_and_distance_does_not() -> None:
    for normalisation, slope in (("scale_free", 0.0), ("distance", 2.0 / 17.0)):
        contrastive, supervised = scalar(0.0), scalar(17.0)
        combined(contrastive, supervised, HybridRecipe(normalisation=normalisation)).backward()
        assert supervised.grad == pytest.approx(slope)


def test_fixed_weight() -> None:
    total = combined(scalar(-0.5), scalar(3.0), HybridRecipe(weight=0.1, normalisation="fixed"))
    assert total.item() == pytest.approx(-0.2)


@pytest.mark.parametrize("normalisation", ["scale_free", "fixed", "distance"])
def test_a_batch_without_labels_is_finite_and_only_contrastive(tiny: str, normalisation: str) -> None:
    recipe = HybridRecipe(normalisation=normalisation)
    model = HybridModel(Network(create_encoder(tiny), [HEAD]), answer_table(TREE), SMALL, recipe)
    losses = model(*batch(labelled=0))
    combine(losses.terms, model.pulls(losses.terms)).backward()
    assert losses.supervised is not None
    assert losses.supervised.item() == 0
    assert losses.labelled.item() == 0
    head = model.network.heads["concentration"]
    assert all((p.grad == 0).all() for p in head.parameters())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_votes_pull_on_the_first_view_only(hybrid: HybridModel) -> None:
    views, votes = batch(labelled=8)
    views = tuple(view.requires_grad_() for view in views)
    hybrid.eval()
    hybrid(views, votes).supervised.backward()
    assert views[0].grad.abs().sum() > 0
    assert views[1].grad is None or views[1].grad.abs().sum() == 0


def test_hybrid_supervised_and_contrastive_are_one_program(tiny: str, hybrid: HybridModel) -> None:
    views, votes = batch(labelled=4)
    hybrid.eval()
    both = hybrid(views, votes)
    supervised = SupervisedModel(hybrid.network, answer_table(TREE)).eval()(views, votes)
    contrastive = ContrastiveModel(hybrid.network, SMALL).eval()
    contrastive.byol = hybrid.byol
    assert supervised.supervised.item() == pytest.approx(both.supervised.item(), rel=1e-6)
    assert contrastive(views, votes).contrastive.item() == pytest.approx(both.contrastive.item(), rel=1e-6)
    assert both.labelled == supervised.labelled == 4


def test_unlabelled_galaxies_leave_the_supervised_loss_as_it_is(hybrid: HybridModel) -> None:
    views, votes = batch(labelled=4)
    hybrid.eval()
    whole = hybrid(views, votes)
    part = hybrid(tuple(view[:4] for view in views), votes[:4])
    assert whole.supervised.item() == pytest.approx(part.supervised.item(), rel=1e-5)


def test_spread() -> None:
    assert relative_spread(torch.ones(16, 8) * torch.rand(16, 1)).item() == pytest.approx(0, abs=1e-6)
    assert relative_spread(torch.eye(16)).item() > 0.9


def test_effective_dimensions() -> None:
    assert effective_dimensions(torch.eye(16)).item() == pytest.approx(15, rel=1e-4)
    line = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).repeat(8, 1)
    assert effective_dimensions(line).item() == pytest.approx(1, rel=1e-4)
    assert effective_dimensions(torch.ones(4, 8)).item() < 1
