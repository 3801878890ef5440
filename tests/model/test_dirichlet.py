from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gzsurvey.model.dirichlet import VotesLayer, answer_table, dirichlet_multinomial_nll, votes_loss
from gzsurvey.votes.tree import DecisionTree

ONE = torch.tensor([[0, 1, 2]])


def random_case(seed: int, questions: int, galaxies: int) -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """Draw votes, concentrations and the table of a random tree; a third of questions is not asked."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 7, questions)
    table = np.full((questions, sizes.max()), sizes.sum())
    votes = np.zeros((galaxies, sizes.sum()), np.int32)
    start = 0
    for q, size in enumerate(sizes):
        table[q, :size] = np.arange(start, start + size)
        counts = rng.multinomial(rng.integers(1, 80), rng.dirichlet(np.ones(size)), galaxies)
        votes[:, start : start + size] = counts * (rng.random((galaxies, 1)) > 0.33)
        start += size
    return votes, rng.uniform(1, 101, votes.shape), torch.from_numpy(table)


@pytest.mark.parametrize(
    ("votes", "expected"), [((5, 3, 0), 2.2943424777), ((1, 0, 0), 0.4382549309), ((0, 0, 0), 0.0)]
)
def test_published_values(votes: tuple[int, ...], expected: float) -> None:
    a = torch.tensor([[10.0, 4.0, 1.5]], dtype=torch.float64)
    assert dirichlet_multinomial_nll(torch.tensor([votes]), a, ONE).item() == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), questions=st.integers(1, 12))
def test_agrees_with_scipy(seed: int, questions: int) -> None:
    votes, a, table = random_case(seed, questions, 4)
    ours = dirichlet_multinomial_nll(torch.from_numpy(votes), torch.from_numpy(a), table).numpy()
    for q, columns in enumerate(table.numpy()):
        columns = columns[columns < votes.shape[1]]
        for n in range(len(votes)):
            k = votes[n, columns]
            theirs = -scipy.stats.dirichlet_multinomial.logpmf(k, a[n, columns], k.sum())
            assert ours[n, q] == pytest.approx(theirs, abs=1e-8)


def test_gradient_is_the_derivative() -> None:
    votes, a, table = random_case(3, 5, 3)
    concentrations = torch.from_numpy(a).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda c: dirichlet_multinomial_nll(torch.from_numpy(votes), c, table), (concentrations,)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unasked_questions_are_exactly_nothing(dtype: torch.dtype) -> None:
    tree = DecisionTree.load("gz_evo_v0_1")
    table = answer_table(tree)
    a = (1 + 100 * torch.rand(16, tree.n_answers)).to(dtype).requires_grad_()
    nll = dirichlet_multinomial_nll(torch.zeros(16, tree.n_answers, dtype=torch.int32), a, table)
    assert nll.shape == (16, 65)
    assert (nll == 0).all()
    nll.sum().backward()
    assert a.grad is not None
    assert (a.grad == 0).all()


def test_an_unasked_campaign_and_unlabelled_galaxies_change_nothing() -> None:
    votes, a, table = random_case(1, 6, 8)
    votes[:, 0] += 1
    k, c = torch.from_numpy(votes), torch.from_numpy(a)
    alone, labelled = votes_loss(k, c, table)
    wide = torch.full((1, table.shape[1]), k.shape[1] + 3)
    wide[0, :3] = torch.arange(3) + k.shape[1]
    moved = torch.where(table == k.shape[1], k.shape[1] + 3, table)
    wider, _ = votes_loss(
        torch.nn.functional.pad(k, (0, 3)),
        torch.nn.functional.pad(c, (0, 3), value=7.0),
        torch.cat([moved, wide]),
    )
    longer, still = votes_loss(torch.cat([k, torch.zeros_like(k)]), torch.cat([c, c]), table)
    assert labelled == still == 8
    assert wider.item() == pytest.approx(alone.item(), rel=1e-12)
    assert longer.item() == pytest.approx(alone.item(), rel=1e-12)


def test_no_labels_is_zero_and_finite() -> None:
    a = torch.full((4, 3), 2.0, requires_grad=True)
    loss, labelled = votes_loss(torch.zeros(4, 3, dtype=torch.int32), a, ONE)
    loss.backward()
    assert (loss.item(), labelled.item()) == (0.0, 0)
    assert torch.equal(a.grad, torch.zeros(4, 3))


def test_autocast_does_not_reach_the_loss() -> None:
    votes, a, table = random_case(2, 9, 8)
    k, c = torch.from_numpy(votes), torch.from_numpy(a).float()
    plain = dirichlet_multinomial_nll(k, c, table)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(dirichlet_multinomial_nll(k, c, table), plain)
    exact = dirichlet_multinomial_nll(k, c.double(), table)
    assert torch.allclose(plain.double(), exact, atol=2e-3, rtol=1e-4)


def test_head_stays_in_its_range() -> None:
    layer = VotesLayer(8, 5).eval()
    with torch.no_grad():
        a = layer(1e4 * torch.randn(64, 8))
        layer.linear.weight.zero_()
        layer.linear.bias.zero_()
        start = layer(torch.randn(2, 8))
    assert a.min() >= 1
    assert a.max() <= 101
    assert (start == 51).all()


def test_table_covers_every_answer_once() -> None:
    tree = DecisionTree.load("gz_evo_v0_1")
    table = answer_table(tree)
    assert sorted(table[table < tree.n_answers].tolist()) == list(range(206))
    assert [int((row < 206).sum()) for row in table] == [len(q.answers) for q in tree.questions]
