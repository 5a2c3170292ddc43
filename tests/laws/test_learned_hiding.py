"""Learned policies that hide written tokens again: likelihood, bounds, the policy without this action as a limit."""

import math

import pytest
import torch

from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.errors import ConfigError
from unmask.noise import generator
from unmask.policies.hiding import RCR, Saber
from unmask.policies.learned.network import WRITTEN, PolicyNetwork
from unmask.policies.learned.policy import Learned
from unmask.policies.learned.settings import PolicySettings
from unmask.rl.rollout import experts, log_prob, typed_form
from unmask.testing import TableDenoiser, check_policy, random_language

LENGTH, PROMPT = 6, 2


def network(hides: int, bias: float = 0.0, seed: int = 1) -> PolicyNetwork:
    """Random weights; the logit of hiding is about `bias`, and the weights of the two further inputs are 0."""
    net = PolicyNetwork(PolicySettings(width=16, unit=8.0, features=("confidence",), hides=hides))
    draw = torch.Generator().manual_seed(seed)
    plain = PolicyNetwork(PolicySettings(width=16, unit=8.0, features=("confidence",)))
    values = {name: torch.randn(v.shape, generator=draw) * 0.3 for name, v in plain.state_dict().items()}
    values["head.bias"] -= 1.0  # so that decoding takes several passes
    if net.hide is not None:
        values["inputs.weight"] = torch.cat([values["inputs.weight"], torch.zeros(16, 2)], 1)
        values["hide.weight"] = 0.3 * torch.randn(1, 16, generator=draw) * math.isfinite(bias)
        values["hide.bias"] = torch.tensor([bias])
    net.load_state_dict(values)
    return net.eval()


def start(rows: int = 32) -> tuple[TableDenoiser, Canvas]:
    model = TableDenoiser(random_language(3, LENGTH, 2, 2.5))
    tokens = torch.randint(3, (rows, LENGTH), generator=generator(8))
    tokens[:, PROMPT:] = model.mask_id
    return model, Canvas.start(tokens, torch.arange(rows), dial=torch.linspace(0, 1, rows))


@pytest.mark.parametrize("block_size", [None, 2])
@pytest.mark.parametrize("sample", [False, True])
def test_without_hope_of_hiding_it_is_the_policy_without(sample: bool, block_size: int | None) -> None:
    """The logit of hiding is -inf. The control: a large one."""
    model, canvas = start()
    plain, never, often = (
        Decoder(model, Learned(net, sample=sample), block_size=block_size).decode(canvas)
        for net in (network(0), network(1, -math.inf), network(1, 3.0))
    )
    for name in ("tokens", "passes", "log_prob"):
        assert torch.equal(getattr(plain, name).nan_to_num(9), getattr(never, name).nan_to_num(9))
    assert not torch.equal(plain.passes, often.passes)


@pytest.mark.parametrize("hides", [1, 2])
@pytest.mark.parametrize("sample", [False, True])
def test_passes_are_bounded_and_the_prompt_stays(hides: int, sample: bool) -> None:
    """Hiding is nearly certain. Each pass reveals a position, and hides none more often than allowed."""
    model, canvas = start()
    prompt, hidden = canvas.tokens[:, :PROMPT], torch.zeros_like(canvas.tokens)
    for canvas, step in Decoder(model, Learned(network(hides, 20.0), sample=sample)).steps(canvas):  # noqa: B007
        assert bool(step.revealed.any(-1).all())
        hidden[step.rows] += step.remasked
    free = LENGTH - PROMPT
    assert torch.equal(canvas.tokens[:, :PROMPT], prompt)
    assert not bool((canvas.tokens == model.mask_id).any())
    assert int(hidden.max()) == hides
    assert not bool(hidden[:, :PROMPT].any())
    assert free < int(canvas.passes.max()) <= free * (1 + hides)  # more than a policy that only reveals can take
    assert int(canvas.passes[-1]) == 1  # dial 1 writes everything in one pass
    assert not bool(hidden[-1].any())


def test_the_contract_of_policies() -> None:
    for temperature, block_size, sample in ((0.0, None, False), (1.0, 3, True)):
        check_policy(
            lambda sample=sample: Learned(network(1, 0.5), sample=sample, dial=0.4),
            temperature=temperature,
            block_size=block_size,
        )


def test_the_likelihood_of_a_pass_counts_both_actions() -> None:
    """The control leaves out what was hidden."""
    from unmask.api import load
    from unmask.rl.rollout import make_world, roll_out

    world = make_world(
        load("automaton_eos", device="cpu", dtype="float32"), "automaton_eos", "automaton", train=8, valid=1, seed=3
    )
    learner = Learned(network(1, -1.0), sample=True, temperature=1.3)
    outcome = roll_out(
        world.denoiser,
        learner,
        world.task,
        world.train,
        world.tokenizer,
        range(8),
        [0.1 * n for n in range(8)],
        learner=learner,
        device=world.device,
    )
    trajectory = outcome.trajectory
    assert trajectory is not None
    written = trajectory.seen.state == WRITTEN
    assert bool((trajectory.action.bool() & written).any())
    again, _ = log_prob(learner.network, trajectory, 1.3)
    torch.testing.assert_close(again, trajectory.log_prob, rtol=1e-5, atol=1e-5)
    revealed = trajectory._replace(eligible=trajectory.eligible & ~written)
    assert float((log_prob(learner.network, revealed, 1.3)[0] - again).abs().max().detach()) > 0.1


def test_the_gradient_of_hiding_and_the_experts() -> None:
    net = PolicyNetwork(PolicySettings(hides=1))
    plain = PolicyNetwork(PolicySettings())
    assert torch.equal(net.head.weight, plain.head.weight) is False  # its inputs are wider, so other draws
    assert sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in plain.parameters()) == 2 * 32 + 33
    kinds = {type(expert) for expert in experts(24, hides=True)} - {type(expert) for expert in experts(24)}
    assert kinds == {Saber, RCR}
    assert {"saber:least=2", "rcr:steps=12"} <= {typed_form(expert) for expert in experts(24, hides=True)}
    with pytest.raises(ConfigError, match="a ranking hides nothing again"):
        PolicySettings(hides=1, head="plackett-luce")
