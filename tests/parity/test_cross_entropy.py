"""Log-likelihoods in slices, in one piece, and from plain logits: equal values and equal gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.model.dit import DiT
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.objective.base import log_likelihoods
from unmask.objective.masked import nelbo

V, D, N = 23, 8, 37


def network(mask_id: int) -> DiT:
    model = build(DiTSettings(V, mask_id, 6, D, 1, 2, dropout=0.0))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.3)
    return model


def targets(mask_id: int) -> Tensor:
    ids = torch.tensor([k for k in range(V) if k != mask_id])
    return ids[torch.arange(N) * 7 % len(ids)]


def naive(model: DiT, hidden: Tensor, wanted: Tensor) -> Tensor:
    logits = model.logits(hidden).float()
    logits = torch.where(torch.arange(V) == model.mask_id, -torch.inf, logits)
    return -F.cross_entropy(logits, wanted, reduction="none")


def gradients(model: DiT, value: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 2, len(value))
    return list(torch.autograd.grad((value * weights).sum(), inputs))


@pytest.mark.parametrize("mask_id", [0, 11, V - 1])
@pytest.mark.parametrize("budget", [1, 5 * V, 10_000])
def test_slices_equal_the_naive_twin(mask_id: int, budget: int) -> None:
    model, wanted = network(mask_id), targets(mask_id)
    hidden = torch.randn(N, D, generator=torch.Generator().manual_seed(1), requires_grad=True)
    inputs = [hidden, model.head.weight, model.head.bias]
    slow = naive(model, hidden, wanted)
    fast = log_likelihoods(model, hidden, wanted, budget)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
    for a, b in zip(gradients(model, fast, inputs), gradients(model, slow, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(log_likelihoods(model, hidden, wanted, budget), slow, rtol=1e-5, atol=1e-6)


def test_control_a_counted_mask_is_noticed() -> None:
    model, wanted = network(4), targets(4)
    hidden = torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        counted = -F.cross_entropy(model.logits(hidden), wanted, reduction="none")
    assert float((counted - log_likelihoods(model, hidden, wanted)).abs().min().detach()) > 1e-4


def test_large_logits_do_not_overflow() -> None:
    model, wanted = network(4), targets(4)
    with torch.no_grad():
        model.head.weight.mul_(2000)
    hidden = torch.randn(N, D, generator=torch.Generator().manual_seed(1), requires_grad=True)
    fast, slow = log_likelihoods(model, hidden, wanted), naive(model, hidden, wanted)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-3)
    assert all(part.isfinite().all() for part in gradients(model, fast, [hidden]))


@pytest.mark.parametrize("budget", [V, 10_000])
def test_no_picked_token_is_a_loss_of_zero(budget: int) -> None:
    """A batch without a masked token has a value and gradients, of zero."""
    model = network(4)
    hidden = torch.zeros(0, D, requires_grad=True)
    result = log_likelihoods(model, hidden, torch.zeros(0, dtype=torch.int64), budget)
    assert result.shape == (0,)
    x = torch.zeros(2, 6, dtype=torch.int64)
    nats = nelbo(model, x, torch.zeros_like(x, dtype=torch.bool), torch.ones(2))
    nats.sum().backward()
    assert nats.tolist() == [0, 0]
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_nelbo_equals_the_full_logit_twin() -> None:
    model = network(4).eval()
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(5, V, (3, 6), generator=generator)
    hide = torch.rand(3, 6, generator=generator) < 0.5
    weight = torch.tensor([1.0, 2.5, 0.3])
    params = list(model.parameters())
    logits = model(torch.where(hide, 4, x))
    logits = torch.where(torch.arange(V) == 4, -torch.inf, logits)
    slow = (F.cross_entropy(logits.transpose(1, 2), x, reduction="none") * hide).sum(-1) * weight
    fast = nelbo(model, x, hide, weight)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    a = torch.autograd.grad(fast.sum(), params)
    b = torch.autograd.grad(slow.sum(), params)
    for actual, expected in zip(a, b, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
