"""Learned policies: likelihoods, gradients, rewards, advantages; a network with set weights is a threshold rule."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unmask.api import load
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.decode.options import RowOptions
from unmask.decode.rows import decode_rows
from unmask.noise import generator
from unmask.policies.base import Decision, State, View
from unmask.policies.learned.network import (
    Observation,
    PolicyNetwork,
    bernoulli_log_prob,
    plackett_luce_log_prob,
    plackett_luce_rank,
)
from unmask.policies.learned.policy import TRAINED_DIAL, Learned, alpha_of, dial_of, observe, shift_of
from unmask.policies.learned.settings import PolicySettings
from unmask.policies.threshold import Threshold
from unmask.rl.grpo import advantages, objective, rewards, steered
from unmask.rl.rollout import Rollout, World, log_prob, make_world, roll_out
from unmask.solve.problems import Problem
from unmask.testing import TableDenoiser, check_policy, random_language

FEATURES = ("confidence", "top", "entropy", "margin")


def network(seed: int = 1, scale: float = 1.0, **options: object) -> PolicyNetwork:
    """Random weights, also where they are initialised to zero, so that every input matters."""
    net = PolicyNetwork(PolicySettings(**{"width": 16, "unit": 8.0, "features": ("confidence",), **options}))  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(scale * torch.randn(value.shape, generator=generator) * (0.4 if value.ndim > 1 else 0.2))
    return net.eval()


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(
        load("automaton_eos", device="cpu", dtype="float32"),
        "automaton_eos",
        "automaton:length=24",
        train=64,
        valid=8,
        seed=3,
    )


def ragged(world: World) -> World:
    """Problems with 24, 23, 22, ... positions to fill: the first ones have their answers."""
    problems: list[Problem] = []
    for n, problem in enumerate(world.train):
        done, row = n % 24, list(problem.row)
        for at, token in zip(problem.holes[:done], world.tokenizer.encode(problem.example.answer)[:done], strict=True):
            row[at] = token
        problems.append(Problem(problem.example, row, problem.holes[done:]))
    return world._replace(train=problems)


def rolled(world: World, learner: Learned, count: int = 24, batch: int = 256) -> Rollout:
    dials = [TRAINED_DIAL * n / (count - 1) for n in range(count)]
    return roll_out(
        world.denoiser,
        learner,
        world.task,
        world.train[:count],
        world.tokenizer,
        range(count),
        dials,
        learner=learner,
        device=world.device,
        batch=batch,
    )


# ---- likelihoods ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["bernoulli", "plackett-luce"])
@pytest.mark.parametrize("features", [("confidence",), FEATURES])
def test_the_recorded_passes_give_the_recorded_likelihood(world: World, head: str, features: tuple[str, ...]) -> None:
    """The controls are another network, and recorded passes without the time."""
    learner = Learned(network(head=head, features=features), sample=True, temperature=1.3)
    trajectory = rolled(ragged(world), learner).trajectory
    assert trajectory is not None
    again, _ = log_prob(learner.network, trajectory, 1.3)
    assert float((again - trajectory.log_prob).abs().max().detach()) < 1e-5 * float(trajectory.log_prob.abs().max())
    other, _ = log_prob(network(2, head=head, features=features), trajectory, 1.3)
    assert float((other - trajectory.log_prob).abs().max().detach()) > 0.1
    timeless = trajectory._replace(seen=trajectory.seen._replace(time=torch.zeros_like(trajectory.seen.time)))
    assert float((log_prob(learner.network, timeless, 1.3)[0] - trajectory.log_prob).abs().max().detach()) > 1e-3


def test_likelihoods_sum_to_one() -> None:
    """Over all sets, and over all rankings; position 3 is not eligible."""
    logits = torch.tensor([[0.3, -1.2, 2.0, 9.0]])
    eligible = torch.tensor([[True, True, True, False]])
    sets = torch.tensor([[*bits, False] for bits in itertools.product([False, True], repeat=3)])
    total = bernoulli_log_prob(logits.expand(8, -1), eligible.expand(8, -1), sets).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-6)
    ranks = torch.tensor(rankings(3))
    count = len(ranks)
    each = plackett_luce_log_prob(logits.expand(count, -1), eligible.expand(count, -1), ranks).exp()
    assert float(each.sum()) == pytest.approx(1, abs=1e-5)
    everything = torch.ones_like(eligible).expand(count, -1)  # the control: as if position 3 could be chosen
    wrong = plackett_luce_log_prob(logits.expand(count, -1), everything, ranks).exp()
    assert float(wrong.sum()) < 0.9


def rankings(cells: int) -> list[list[int]]:
    """Every ranking of one or more of `cells` positions; a last position is never chosen."""
    ranks: list[list[int]] = []
    for size in range(1, cells + 1):
        for order in itertools.permutations(range(cells), size):
            rank = [0] * (cells + 1)
            for n, position in enumerate(order, start=1):
                rank[position] = n
            ranks.append(rank)
    return ranks


def test_a_ranking_is_drawn_at_its_likelihood() -> None:
    draws = 40_000
    logits = torch.tensor([[0.3, -1.2, 0.8, 9.0]]).expand(draws, -1)
    eligible = torch.tensor([[True, True, True, False]]).expand(draws, -1)
    noise = torch.rand(draws, 4, generator=generator(5), dtype=torch.float64)
    drawn = plackett_luce_rank(logits, eligible, noise)
    ranks = torch.tensor(rankings(3))
    law = plackett_luce_log_prob(logits[: len(ranks)], eligible[: len(ranks)], ranks).exp()
    seen = torch.stack([(drawn == rank).all(-1).double().mean() for rank in ranks])
    error = (law * (1 - law) / draws).sqrt()
    assert float(seen.sum()) == pytest.approx(1)
    assert bool(((seen - law).abs() < 4.5 * error + 1e-6).all())
    assert float((seen.flip(0) - law).abs().max()) > 0.1


# ---- gradient ------------------------------------------------------------------------------------------------------


class _Script:
    """Reveals a set of positions that is set beforehand."""

    looks = True

    def __init__(self, chosen: Tensor, fallback: Tensor) -> None:
        self.chosen, self.fallback, self.view = chosen, fallback, None

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        self.view = view
        return Decision(self.chosen & view.eligible, fallback=self.fallback), None


def expected_reward(net: PolicyNetwork, alpha: float) -> tuple[Tensor, Tensor]:
    """On three cells, over every sequence of sets: the expected reward, and the surrogate with the same gradient."""
    model = TableDenoiser(random_language(2, 3, 4, 2.0))
    whole, surrogate = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    policy = Learned(net, dial=0.5)

    def walk(canvas: Canvas, path: list[Tensor], passes: int) -> None:
        nonlocal whole, surrogate
        if not bool((canvas.tokens == model.mask_id).any()):
            score = 1.0 if canvas.tokens.sum() % 2 == 0 else 0.25
            facts = torch.tensor([[score], [float(passes)], [3.0], [alpha]])
            reward = rewards(facts[0], facts[1], facts[2], facts[3])
            log_probability = torch.stack(path).sum()
            whole = whole + log_probability.exp() * reward.double()
            weight = log_probability.exp().detach().expand(len(path))
            new = torch.stack(path)
            result = objective(new, new.detach(), reward.expand(len(path)).double(), weight, 0.5)
            surrogate = surrogate - result.loss
            return
        probe = _Script(torch.zeros(1, 3, dtype=torch.bool), torch.zeros(1, 3))
        Decoder(model, probe).step(canvas)
        assert probe.view is not None
        seen = observe(probe.view, net.settings, policy.cost(torch.tensor([0.5])))
        seen = Observation(*(x.double() if x.is_floating_point() else x for x in seen))
        logits = net(seen)
        for bits in itertools.product([False, True], repeat=3):
            chosen = torch.tensor([bits])
            if bool((chosen & ~probe.view.eligible).any()):
                continue
            each = torch.nn.functional.logsigmoid(torch.where(chosen, logits, -logits))
            log = each.masked_fill(~probe.view.eligible, 0).sum()
            after, _, _ = Decoder(model, _Script(chosen, logits.detach())).step(canvas)
            walk(after, [*path, log], passes + 1)

    walk(Canvas.start(torch.full((1, 3), model.mask_id), torch.tensor([0])), [], 0)
    return whole.squeeze(), surrogate.squeeze()


def test_the_policy_gradient_is_the_finite_difference() -> None:
    """And a surrogate with the same reward for every number of passes (alpha 0) is not."""
    net = network(width=4, heads=1).double()
    whole, surrogate = expected_reward(net, 1.5)
    parameters = [net.head.weight, net.inputs.weight, net.qkv.weight]
    gradient = torch.autograd.grad(surrogate, parameters, retain_graph=True)
    exact = torch.autograd.grad(whole, parameters)
    for a, b in zip(gradient, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    index, step = (0, 1), 1e-5
    values: list[float] = []
    for sign in (1, -1):
        with torch.no_grad():
            net.head.weight[index] += sign * step
        values.append(float(expected_reward(net, 1.5)[0].detach()))
        with torch.no_grad():
            net.head.weight[index] -= sign * step
    difference = (values[0] - values[1]) / (2 * step)
    assert float(gradient[0][index]) == pytest.approx(difference, rel=1e-6)
    assert (
        abs(float(torch.autograd.grad(expected_reward(net, 0.0)[1], [net.head.weight])[0][index]) - difference) > 1e-4
    )


# ---- a network with set weights ------------------------------------------------------------------------------------


def as_threshold(bar: float) -> PolicyNetwork:
    """A network whose logit depends on the confidence alone and is positive above `bar`.

    The inputs are small compared with the epsilon of the last norm, so that logits have the order of confidences.
    """
    net = PolicyNetwork(PolicySettings(width=8, heads=2, features=("confidence",)))
    with torch.no_grad():
        for value in net.parameters():
            value.zero_()
        net.inputs.weight[0, 0], net.inputs.weight[1, 0] = 1e-4, -1e-4
        shift = 1e-4 * math.log(bar / (1 - bar)) / 4
        net.inputs.bias[0], net.inputs.bias[1] = -shift, shift
        net.norm.weight.fill_(1.0)
        net.head.weight[0, 0] = 100.0
    return net.eval()


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_network_set_to_a_constant_bar_is_the_threshold_rule(temperature: float, block_size: int | None) -> None:
    model = TableDenoiser(random_language(3, 6, 2, 2.5))
    tokens = torch.randint(3, (64, 6), generator=generator(8))
    tokens[:, 1:] = model.mask_id
    canvas = Canvas.start(tokens, torch.arange(64))
    others: list[bool] = []
    for bar in (0.4, 0.6, 0.8):
        rule = Decoder(model, Threshold(bar), temperature, block_size=block_size).decode(canvas)
        net = Decoder(model, Learned(as_threshold(bar)), temperature, block_size=block_size).decode(canvas)
        assert torch.equal(rule.tokens, net.tokens)
        assert torch.equal(rule.passes, net.passes)
        other = Decoder(model, Learned(as_threshold(bar + 0.15)), temperature, block_size=block_size).decode(canvas)
        others.append(torch.equal(rule.passes, other.passes))
    assert not all(others)


@pytest.mark.parametrize("head", ["bernoulli", "plackett-luce"])
@pytest.mark.parametrize("sample", [False, True])
def test_the_contract_of_policies(head: str, sample: bool) -> None:
    net = network(head=head, features=("confidence", "entropy", "margin"))
    for temperature, block_size in ((0.0, None), (1.0, 3)):
        check_policy(lambda: Learned(net, sample=sample, dial=0.4), temperature=temperature, block_size=block_size)


# ---- rewards and advantages ----------------------------------------------------------------------------------------


def test_alpha_zero_rewards_accuracy_alone() -> None:
    scores, passes = torch.tensor([0.0, 0.5, 1.0, 1.0]), torch.tensor([1.0, 7.0, 3.0, 24.0])
    length = torch.full((4,), 24.0)
    assert torch.equal(rewards(scores, passes, length, torch.zeros(4)), scores)
    paid = rewards(scores, passes, length, torch.ones(4))
    assert float(paid[2]) == pytest.approx(22 / 24)
    assert float(paid[3]) == pytest.approx(1 / 24)
    assert float(rewards(scores, torch.ones(4), length, torch.full((4,), 30.0))[2]) == 1
    assert float(rewards(scores, passes, length, torch.ones(4), "sum")[0]) == pytest.approx(-1 / 24)
    logged = rewards(scores, torch.tensor([1.0, 2.0, 4.0, 8.0]), length, torch.full((4,), 0.5), "log")
    assert logged.tolist() == pytest.approx([0, 0.5 * 2**-0.5, 4**-0.5, 8**-0.5])
    assert float(logged[3] / logged[2]) == pytest.approx(float(logged[2]) / 2**-0.5)  # halving is worth the same


@pytest.mark.parametrize("scale", ["alpha", "none", "std"])
def test_advantages_of_a_group_sum_to_zero(scale: str) -> None:
    reward = torch.rand(5, 8, generator=generator(1))
    reward[2] = 0.5  # equal rewards: no gradient
    groups = torch.tensor([0, 1, 1, 2, 0])
    result = advantages(reward, groups, torch.full((4,), math.nan), scale)  # pyright: ignore[reportArgumentType]
    assert float(result.values.sum(-1).abs().max()) < 1e-4
    assert bool((result.values[2] == 0).all())
    assert result.silent == pytest.approx(0.2)
    assert result.variance.isnan().tolist() == [False, False, False, True]


def test_the_scale_of_an_alpha_depends_on_that_alpha_alone() -> None:
    reward = torch.rand(4, 8, generator=generator(2))
    groups = torch.tensor([0, 0, 1, 1])
    begun = torch.full((2,), math.nan)
    larger = torch.cat([reward[:2], 10 * reward[2:]])
    a, b = (advantages(x, groups, begun) for x in (reward, larger))
    assert torch.equal(a.values[:2], b.values[:2])
    torch.testing.assert_close(a.values[2:], b.values[2:], rtol=0.02, atol=0)  # up to the least deviation
    assert not torch.allclose(advantages(larger, groups, begun, "none").values[2:], a.values[2:])


def test_the_ratio_of_an_experts_pass_is_bounded() -> None:
    new, old = torch.linspace(-80, 0, 50)[:, None], torch.linspace(0, -80, 50)[None]
    ratio = (steered(new, 8, 2) - steered(old, 8, 2)).exp()
    assert float(ratio.max()) <= 5 + 1e-4
    assert float(ratio.min()) >= 0.2 - 1e-4
    assert float((new - old).exp().max()) > 1e30


def test_the_clip_is_active_in_both_directions() -> None:
    old, weight = torch.zeros(4), torch.full((4,), 0.25)
    new = torch.tensor([2.0, -2.0, 2.0, -2.0]).requires_grad_()
    result = objective(new, old, torch.tensor([1.0, -1.0, -1.0, 1.0]), weight, 0.5)
    (gradient,) = torch.autograd.grad(result.loss, new)
    assert gradient[:2].tolist() == [0, 0]
    assert bool((gradient[2:] != 0).all())
    assert float(result.clipped) == 0.5


# ---- rollouts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("few", [False, True])
def test_rollouts_do_not_depend_on_the_batch(world: World, few: bool) -> None:
    learner = Learned(network(features=FEATURES), sample=True)
    world = ragged(world) if few else world
    together, alone = rolled(world, learner), rolled(world, learner, batch=1)
    assert torch.equal(together.passes, alone.passes)
    assert torch.equal(together.scores, alone.scores)
    assert together.trajectory is not None
    assert alone.trajectory is not None
    order = [
        torch.argsort(trajectory.row * 100 + (trajectory.seen.time * 24).round().long())
        for trajectory in (together.trajectory, alone.trajectory)
    ]
    assert torch.equal(together.trajectory.action[order[0]], alone.trajectory.action[order[1]])
    assert torch.equal(together.trajectory.log_prob[order[0]], alone.trajectory.log_prob[order[1]])
    other = rolled(world, replace(learner, temperature=3.0))
    assert not torch.equal(other.passes, together.passes)


def test_the_network_moves_to_the_device_of_the_canvas() -> None:
    """A policy from a folder is on the CPU; the device meta stands for a device that this machine does not have."""
    policy = Learned(network().to("meta"))
    model = TableDenoiser(random_language(2, 3, 4, 2.0))
    canvas = Canvas.start(torch.full((1, 3), model.mask_id), torch.tensor([0]))
    with pytest.raises(NotImplementedError, match="meta"):
        Decoder(model, policy).decode(canvas)


def test_the_dial_sets_the_cost() -> None:
    alphas: Sequence[float] = (0.0, 0.03, 0.3, 1.0, 30.0)
    for alpha in alphas:
        assert float(alpha_of(torch.tensor(dial_of(alpha, 30.0, 30.0)), 30.0)) == pytest.approx(alpha, rel=1e-4)
    learner = Learned(network(), dial=0.25)
    assert learner.cost(torch.tensor([math.nan, 0.25]))[0] == learner.cost(torch.tensor([0.25]))[0]
    assert [dial_of(alpha, 3.0, 30.0) for alpha in (3.0, 150.0, 1e6)] == [TRAINED_DIAL, 1, 1]
    assert TRAINED_DIAL < dial_of(10.0, 3.0, 30.0) < dial_of(30.0, 3.0, 30.0) < 1
    early = replace(learner, last=3.0)
    assert early.cost(torch.tensor([TRAINED_DIAL, 1.0])).tolist() == pytest.approx([3 / 8, 3 / 8])
    assert learner.cost(torch.tensor([TRAINED_DIAL, 1.0])).tolist() == pytest.approx([30 / 8, 30 / 8])
    shifts = shift_of(torch.tensor([0.0, dial_of(30.0, 30.0, 30.0), 0.9, 1.0]))
    assert shifts.tolist() == pytest.approx([0, 0, 5, 1e4], rel=1e-4)


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("head", ["bernoulli", "plackett-luce"])
def test_the_end_of_the_dial_is_one_pass(world: World, head: str, sample: bool) -> None:
    """On one View a faster dial reveals more, until it is everything; the control is the largest cost of a pass."""
    net = network(head=head, scale=0.3)
    with torch.no_grad():
        net.head.bias.sub_(2)
    policy = Learned(net, sample=sample)
    decoder = Decoder(world.denoiser, policy, 0.0)
    problems = world.train[:4]

    def first(dial: float) -> Tensor:
        rows = [problem.row for problem in problems]
        stream = decode_rows(
            decoder, rows, range(4), pad_id=0, batch=4, device=world.device, options=RowOptions(dial=[dial] * 4)
        )
        step = next(stream).step
        stream.close()
        return step.decision.reveal & step.view.eligible

    reveals = [first(dial) for dial in (TRAINED_DIAL, 0.85, 0.9, 0.95, 1.0)]
    assert all(bool((slower <= faster).all()) for slower, faster in itertools.pairwise(reveals))
    assert reveals[-1].sum(-1).tolist() == [len(problem.holes) for problem in problems]
    assert (reveals[0].sum(-1) < reveals[-1].sum(-1)).all()
