"""With the exact posterior the bound is -log p(x) for every schedule; in discrete time it is finite."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unmask.denoiser import clean_log_probs
from unmask.objective.base import log_likelihoods
from unmask.objective.masked import hide_by_step, nelbo, stratified
from unmask.process import SCHEDULES, Linear, MaskedDiffusion, make_schedule
from unmask.testing import TableDenoiser, random_language

V, L = 3, 4
JOINT = random_language(V, L, seed=3)
MODEL = TableDenoiser(JOINT)
TRUTH = -JOINT.flatten().log()  # (N,) nats of every sequence
EVERYTHING = torch.ones(L, dtype=torch.bool)
Number = Callable[[Tensor], Tensor]


def pattern_costs(model: TableDenoiser, maskable: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every sequence under every hidden subset: (N, patterns), and the subsets' sizes (patterns,)."""
    x = model.sequences()
    subsets = torch.cartesian_prod(*[torch.tensor([False, True])] * model.max_length)
    subsets = subsets[~(subsets & ~maskable).any(-1)]
    costs = []
    for hide in subsets:
        valid_rows = None if valid is None else valid.expand_as(x)
        log_p = model.hidden(torch.where(hide, model.mask_id, x), valid=valid_rows)
        costs.append(-(log_p.gather(-1, x[..., None]).squeeze(-1).masked_fill(~hide, 0)).sum(-1))
    return torch.stack(costs, -1), subsets.sum(-1)


def panels(count: int = 400) -> tuple[Tensor, Tensor]:
    """Nodes and weights of a composite Gauss-Legendre rule with four points a panel on (0, 1)."""
    near, far = math.sqrt(3 / 7 - 2 / 7 * math.sqrt(6 / 5)), math.sqrt(3 / 7 + 2 / 7 * math.sqrt(6 / 5))
    inner, outer = (18 + math.sqrt(30)) / 36, (18 - math.sqrt(30)) / 36
    nodes = torch.tensor([-far, -near, near, far], dtype=torch.float64)
    weights = torch.tensor([outer, inner, inner, outer], dtype=torch.float64)
    left = torch.arange(count, dtype=torch.float64)[:, None]
    return ((left + (nodes + 1) / 2) / count).flatten(), (weights / 2 / count).repeat(count)


def closed_form(costs: Tensor, sizes: Tensor, total: int, hidden: Number, weight: Number) -> Tensor:
    """The bound of every sequence (N,): over all subsets in closed form, over time by quadrature, in float64."""
    t, step = panels()
    p = hidden(t)[:, None]
    probability = p**sizes * (1 - p) ** (total - sizes)  # (times, patterns)
    return costs @ (probability * (weight(t) * step)[:, None]).sum(0)


def of(process: MaskedDiffusion) -> tuple[Number, Number]:
    return lambda t: 1 - process.schedule.alpha(t), process.weight


@pytest.mark.parametrize("name", SCHEDULES)
def test_exact_posterior_gives_the_likelihood(name: str) -> None:
    costs, sizes = pattern_costs(MODEL, EVERYTHING)
    bound = closed_form(costs, sizes, L, *of(MaskedDiffusion(V, make_schedule(name))))
    torch.testing.assert_close(bound, TRUTH, rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_with_a_prompt_it_gives_the_conditional_likelihood(name: str) -> None:
    maskable = torch.tensor([False, True, False, True])
    costs, sizes = pattern_costs(MODEL, maskable)
    x = MODEL.sequences()
    prompt = JOINT.sum((1, 3))[x[:, 0], x[:, 2]]
    bound = closed_form(costs, sizes, 2, *of(MaskedDiffusion(V, make_schedule(name))))
    torch.testing.assert_close(bound, TRUTH + prompt.log(), rtol=1e-7, atol=0)


def test_with_padding_it_gives_the_marginal_likelihood() -> None:
    valid = torch.tensor([True, True, True, False])
    costs, sizes = pattern_costs(MODEL, valid, valid)
    x = MODEL.sequences()
    bound = closed_form(costs, sizes, 3, *of(MaskedDiffusion(V)))
    torch.testing.assert_close(bound, -JOINT.sum(3)[x[:, 0], x[:, 1], x[:, 2]].log(), rtol=1e-7, atol=0)


def test_controls_of_the_likelihood() -> None:
    """Three published or tempting mistakes, each seen well above the law's tolerance."""
    costs, sizes = pattern_costs(MODEL, EVERYTHING)
    short: Number = lambda t: 0.999 * t  # noqa: E731  (mask probability (1 - eps) t under the weight 1/t)
    biased = closed_form(costs, sizes, L, short, lambda t: 1 / t)
    assert bool(((biased - TRUTH).abs() > 1e-4 * TRUTH).all())
    averaged = closed_form(costs / sizes.clamp(min=1) * L, sizes, L, lambda t: t, lambda t: 1 / t)
    assert bool(((averaged - TRUTH).abs() > 1e-2 * TRUTH).all())  # the mean over masked tokens, and 1/t besides
    blurred = TableDenoiser(0.9 * JOINT + 0.1 / JOINT.numel())
    worse = closed_form(*pattern_costs(blurred, EVERYTHING), L, *of(MaskedDiffusion(V)))
    assert float(JOINT.flatten() @ (worse - TRUTH)) > 1e-3  # a model that is a little wrong has a larger bound


class Leaky(TableDenoiser):
    """Gives MASK a tenth of the probability."""

    def logits(self, hidden: Tensor) -> Tensor:
        spilt = hidden + math.log(0.9)
        spilt[..., self.mask_id] = math.log(0.1)
        return spilt


def test_mask_has_probability_zero() -> None:
    """SUBS: the logit of MASK is ignored; the control: with it a token costs 0.105 nats more."""
    leaky, x = Leaky(JOINT), MODEL.sequences()
    hide = torch.ones_like(x, dtype=torch.bool)
    weight = torch.ones(len(x))
    ignored = nelbo(leaky, x, hide, weight)
    torch.testing.assert_close(ignored, nelbo(MODEL, x, hide, weight), rtol=1e-6, atol=1e-6)
    logits = leaky.logits(leaky.hidden(torch.full((1, L), V)))[0]
    assert torch.isneginf(clean_log_probs(logits, V)[:, V]).all()
    naive = -logits.log_softmax(-1)[:, :V]
    clean = -log_likelihoods(leaky, logits - math.log(0.9), torch.tensor([0, 1, 2, 0]))
    assert float((naive[0, 0] - clean[0]).abs()) > 0.1


def test_nelbo_uses_hidden_positions_alone() -> None:
    x = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    hide = torch.tensor([[True, False, False, True], [False] * 4])
    bound = nelbo(MODEL, x, hide, torch.tensor([2.0, 5.0]))
    log_p = MODEL.hidden(torch.where(hide, V, x))
    assert bound[0].item() == pytest.approx(-2 * (log_p[0, 0, 0] + log_p[0, 3, 0]).item(), rel=1e-6)
    assert bound[1].item() == 0


# ---- discrete time -------------------------------------------------------------------------------------------------


def discrete(process: MaskedDiffusion, costs: Tensor, sizes: Tensor, steps: int) -> Tensor:
    """The bound of a `steps`-step sampler for every sequence (N,), the weights being those of `hide_by_step`."""
    r = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    nothing = torch.zeros(steps, L, dtype=torch.bool)
    _, weight = hide_by_step(process, r, torch.zeros(steps, L), nothing, steps)
    p = (1 - process.schedule.alpha((r + 0.5 / steps).clamp(max=1)))[:, None]
    probability = p**sizes * (1 - p) ** (L - sizes)
    return costs @ (probability * weight[:, None]).mean(0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_discrete_bound_is_finite(name: str, steps: int) -> None:
    costs, sizes = pattern_costs(MODEL, EVERYTHING)
    bound = discrete(MaskedDiffusion(V, make_schedule(name)), costs, sizes, steps)
    assert bound.isfinite().all()
    assert float(JOINT.flatten() @ bound) >= float(JOINT.flatten() @ TRUTH) - 1e-9


@pytest.mark.parametrize("name", SCHEDULES)
def test_discrete_bound_falls_to_the_continuous_one(name: str) -> None:
    """In expectation over the language, on nested grids; for a single sequence it need not."""
    costs, sizes = pattern_costs(MODEL, EVERYTHING)
    process = MaskedDiffusion(V, make_schedule(name))
    means = torch.stack([JOINT.flatten() @ discrete(process, costs, sizes, 2**k) for k in range(11)])
    assert bool((means.diff() < 1e-12).all())
    entropy = float(JOINT.flatten() @ TRUTH)
    assert 0 <= float(means[-1]) - entropy < 2e-3 * entropy
    assert float(means[0]) - entropy > 0.1  # one step writes all tokens independently: the gap is real


def test_discrete_bound_is_what_its_draws_mean() -> None:
    """By Monte Carlo, hiding included; the control is the bound of another grid."""
    costs, sizes = pattern_costs(MODEL, EVERYTHING)
    process, count = MaskedDiffusion(V), 100_000
    generator = torch.Generator().manual_seed(5)
    x = MODEL.sequences()[17].expand(count, L)
    u = torch.rand(count, L, generator=generator)
    r = 1 - torch.rand(count, generator=generator, dtype=torch.float64)
    hide, weight = hide_by_step(process, r, u, torch.ones(count, L, dtype=torch.bool), 3)
    nats = nelbo(MODEL, x, hide, weight).double()
    error = float(nats.std()) / math.sqrt(count)
    assert abs(float(nats.mean() - discrete(process, costs, sizes, 3)[17])) < 4 * error
    assert abs(float(nats.mean() - discrete(process, costs, sizes, 1)[17])) > 4 * error


@pytest.mark.parametrize("name", SCHEDULES)
def test_weights_stay_finite_towards_time_zero(name: str) -> None:
    """1 - alpha underflows in float64 where t does not: nothing is hidden there, and 0 * inf must not become nan."""
    process = MaskedDiffusion(V, make_schedule(name))
    t = torch.logspace(-16, 0, 300, dtype=torch.float64)
    hide, weight = process.hide(t, torch.zeros(300, L)), process.weight(t)
    x = torch.zeros(300, L, dtype=torch.int64)
    assert weight.isfinite().all()
    assert (weight >= 0).all()
    assert nelbo(MODEL, x, hide, weight).isfinite().all()
    # what counts in the expectation is weight times probability: -alpha', however 1 - alpha is rounded
    product = weight * (1 - process.schedule.alpha(t))
    alive = weight > 0
    torch.testing.assert_close(product[alive], -process.schedule.dalpha(t)[alive], rtol=1e-12, atol=0)
    assert alive[t > 1e-7].all()


# ---- strata --------------------------------------------------------------------------------------------------------


def test_strata_span_the_global_batch() -> None:
    whole = stratified(torch.tensor(0.37), 12)
    parts = torch.cat([stratified(torch.tensor(0.37), 12, first, 3) for first in (0, 3, 6, 9)])
    assert torch.equal(whole, parts)
    assert len(((whole * 12).ceil()).unique()) == 12
    assert float(whole.min()) > 0
    assert float(whole.max()) <= 1
    assert float(stratified(torch.tensor(0.0), 4).max()) == 1
    alone = torch.cat([stratified(torch.tensor(0.37), 3)] * 4)  # the control: each rank its own strata
    assert len(((alone * 12).ceil()).unique()) == 3


def test_linear_weight_is_one_over_t() -> None:
    t = torch.tensor([1e-12, 0.1, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(MaskedDiffusion(V, Linear()).weight(t), 1 / t, rtol=1e-3, atol=0)
    torch.testing.assert_close(MaskedDiffusion(V, Linear()).weight(t[1:]), 1 / t[1:], rtol=1e-15, atol=0)
