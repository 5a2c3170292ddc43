"""Samplers have their stated laws, by enumeration; and rare tokens are drawn at their rate."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.decode.propose import propose
from unmask.denoiser import clean_log_probs
from unmask.errors import RunError
from unmask.noise import POLICY, TOKENS, uniform
from unmask.policies.ancestral import Ancestral
from unmask.policies.base import UnmaskingPolicy
from unmask.policies.entries import ENTRIES
from unmask.policies.options import Context
from unmask.policies.registry import make
from unmask.process import MaskedDiffusion, Polynomial, Schedule, make_schedule
from unmask.testing import TableDenoiser, random_language

V, L, ROWS = 3, 3, 20_000
JOINT = random_language(V, L, seed=11, sharpness=2.0)
MODEL = TableDenoiser(JOINT)
DIGITS = V ** torch.arange(L - 1, -1, -1)


def sample(policy: UnmaskingPolicy, *, model: TableDenoiser = MODEL, seed: int = 0, first: int = V) -> Canvas:
    tokens = torch.full((ROWS, L), V)
    tokens[:, 0] = first
    return Decoder(model, policy, 1.0).decode(Canvas.start(tokens, torch.arange(ROWS) + seed * ROWS))


def surprise(tokens: Tensor, law: Tensor) -> float:
    """Chi-square against `law` (N,) in standard deviations (Wilson and Hilferty): about normal if the law holds."""
    counts = (tokens * DIGITS).sum(-1).bincount(minlength=law.numel()).double()
    law = law.flatten()
    degrees = law.numel() - 1
    ratio = float(((counts - ROWS * law).square() / (ROWS * law)).sum()) / degrees
    return (ratio ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))


def enumerated_law(joint: Tensor, schedule: Schedule, steps: int) -> Tensor:
    """The law of the reverse process on a grid: all canvases at once, each step their exact transition (MDLM eq. 7)."""
    model, process = TableDenoiser(joint), MaskedDiffusion(V, schedule)
    law: dict[tuple[int, ...], float] = {(V,) * L: 1.0}
    for step in range(steps, 0, -1):
        t = torch.tensor([step / steps, (step - 1) / steps], dtype=torch.float64)
        reveal = float(process.reveal_probability(t[1], t[0]))
        after: dict[tuple[int, ...], float] = {}
        for canvas, mass in law.items():
            posterior = model.hidden(torch.tensor([canvas]))[0].exp().tolist()
            outcomes = [
                [(token, 1.0)]
                if token != V
                else [(V, 1 - reveal), *((k, reveal * posterior[position][k]) for k in range(V))]
                for position, token in enumerate(canvas)
            ]
            for outcome in itertools.product(*outcomes):
                tokens = tuple(token for token, _ in outcome)
                after[tokens] = after.get(tokens, 0.0) + mass * math.prod(p for _, p in outcome)
        law = {canvas: mass for canvas, mass in after.items() if mass > 0}
    result = torch.zeros_like(joint)
    for canvas, mass in law.items():
        result[canvas] = mass
    return result


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_ancestral_has_the_law_of_the_discretised_process(steps: int, schedule: str) -> None:
    law = enumerated_law(JOINT, make_schedule(schedule), steps)
    assert float(law.sum()) == pytest.approx(1, abs=1e-12)
    assert abs(surprise(sample(Ancestral(steps, make_schedule(schedule))).tokens, law)) < 4


@pytest.mark.parametrize("schedule", ["linear", "cosine", "geometric"])
def test_ancestral_in_continuous_time_has_the_joint(schedule: str) -> None:
    assert abs(surprise(sample(Ancestral(None, make_schedule(schedule))).tokens, JOINT)) < 4


def test_ancestral_controls() -> None:
    """The chi-square notices a coarser grid, another schedule on the same grid, and another temperature."""
    assert surprise(sample(Ancestral(1)).tokens, JOINT) > 4
    assert surprise(sample(Ancestral(3)).tokens, JOINT) > 4
    assert surprise(sample(Ancestral(3)).tokens, enumerated_law(JOINT, Polynomial(3.0), 3)) > 4
    tempered = Decoder(MODEL, Ancestral(), 0.9).decode(Canvas.start(torch.full((ROWS, L), V), torch.arange(ROWS)))
    assert surprise(tempered.tokens, JOINT) > 4


UNIGRAM = Context(unigram=lambda: torch.cat((JOINT.sum((1, 2)), torch.zeros(1))))
ONE_A_PASS = [name for name, entry in ENTRIES.items() if entry.joint == "one a pass"]
NEVER = [name for name, entry in ENTRIES.items() if entry.joint == "no" and not entry.needs_folder]


@pytest.mark.parametrize("name", ONE_A_PASS)
def test_one_reveal_a_pass_samples_the_joint(name: str) -> None:
    """For orders that do not depend on the proposal, as the registry states."""
    assert {"random", "margin", "entropy", "best-confidence", "left-to-right"} == set(ONE_A_PASS)
    done = sample(make(name))
    assert abs(surprise(done.tokens, JOINT)) < 4
    assert done.passes.tolist() == [L] * ROWS


@pytest.mark.parametrize("name", NEVER)
def test_policies_labelled_no_do_not_sample_the_joint(name: str) -> None:
    """They depend on the sampled tokens, or reveal tokens together. The control of the law above."""
    knob = ENTRIES[name].knob
    assert knob is not None
    loose = f":{knob.option}={knob.values[0]}" if knob.values else ""
    assert surprise(sample(make(name + loose, UNIGRAM)).tokens, JOINT) > 8


@pytest.mark.parametrize(
    ("strict", "loose"),
    [
        ("ancestral", "ancestral:steps=2"),
        ("entropy-bound:gamma=0", "entropy-bound:gamma=1"),
        ("prefix:threshold=1", "prefix:threshold=0.5"),
    ],
)
def test_in_the_limit_the_joint_is_sampled(strict: str, loose: str) -> None:
    assert abs(surprise(sample(make(strict)).tokens, JOINT)) < 4
    assert surprise(sample(make(loose)).tokens, JOINT) > 4


@pytest.mark.slow
def test_remdm_comes_near_the_joint_as_steps_grow() -> None:
    """Its error falls with the number of steps; without hiding it is ancestral sampling."""
    far, near = (distance(sample(make(f"remdm:steps={steps},eta=0.05")).tokens) for steps in (3, 40))
    assert near < 0.5 * far
    law = enumerated_law(JOINT, make_schedule("linear"), 3)
    assert abs(surprise(sample(make("remdm:steps=3,eta=0")).tokens, law)) < 4
    assert surprise(sample(make("remdm:steps=3,eta=1")).tokens, law) > 4


def distance(tokens: Tensor) -> float:
    """Total variation to the joint."""
    counts = (tokens * DIGITS).sum(-1).bincount(minlength=JOINT.numel()).double() / ROWS
    return float((counts - JOINT.flatten()).abs().sum()) / 2


def test_two_reveals_a_pass_do_not_sample_the_joint() -> None:
    assert surprise(sample(make("random:steps=2")).tokens, JOINT) > 4


@pytest.mark.parametrize("policy", ["random", "ancestral"])
def test_with_a_prompt_the_conditional_law_holds(policy: str) -> None:
    done = sample(make(policy), first=1)
    assert (done.tokens[:, 0] == 1).all()
    counts = (done.tokens[:, 1:] * DIGITS[1:]).sum(-1).bincount(minlength=V * V).double()
    law = (JOINT[1] / JOINT[1].sum()).flatten()
    assert float(((counts - ROWS * law).square() / (ROWS * law)).sum()) < 8 + 4 * math.sqrt(2 * 8) + 4


def test_log_probs_are_those_of_the_passes() -> None:
    """With one reveal a pass they add up to the log-probability of the sample."""
    done = sample(make("random"))
    wanted = JOINT.flatten()[(done.tokens * DIGITS).sum(-1)].log()
    torch.testing.assert_close(done.log_prob.double().sum(-1), wanted, rtol=0, atol=1e-5)


# ---- passes and times ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 10, 1000])
def test_a_pass_for_each_distinct_reveal_time_and_none_besides(steps: int) -> None:
    rows, length = 200, 6
    model = TableDenoiser(random_language(2, length), time_conditioned=True)
    seeds = torch.arange(rows)
    u = uniform(seeds[:, None], torch.zeros(1, 1, dtype=torch.int64), torch.arange(length)[None], POLICY)
    grid = ((1 - u) * steps).ceil() / steps
    canvas = Canvas.start(torch.full((rows, length), 2), seeds)
    for after, step in Decoder(model, Ancestral(steps), 1.0).steps(canvas):
        before, canvas = canvas, after
        changed = (canvas.tokens != before.tokens)[step.rows]
        assert changed.any(-1).all()
        assert not step.rescued.any()
        # the time of the pass is on the grid, and it reveals exactly the positions of that time
        time = model.times[-1].double()
        torch.testing.assert_close((time * steps).round() / steps, time, rtol=0, atol=1e-6)
        assert torch.equal(changed, (grid[step.rows] - time[:, None]).abs() < 1e-6)
    distinct = torch.tensor([len(row.unique()) for row in grid])
    assert torch.equal(canvas.passes, distinct)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "polynomial"])
@pytest.mark.parametrize("policy", ["ancestral", "ancestral:steps=4", "random"])
def test_the_time_of_a_pass_is_the_share_that_is_masked(policy: str, schedule: str) -> None:
    """In expectation, and for every schedule, as in training (tests/laws/test_estimators.py)."""
    rows, length = 4000, 6
    model = TableDenoiser(random_language(2, length), time_conditioned=True)
    decoder = Decoder(model, make(policy, Context(make_schedule(schedule))), 1.0)
    for after, step in decoder.steps(Canvas.start(torch.full((rows, length), 2), torch.arange(rows))):
        masked = step.view.masked.double().mean(-1)
        time = model.times[-1].double()
        assert bool(((time > 0) & (time <= 1)).all())
        if policy == "random":
            torch.testing.assert_close(time, masked, rtol=0, atol=1e-6)
        if policy == "ancestral:steps=4":  # on a grid the share is 1 - alpha of the time, row by row
            t = torch.arange(1, 5, dtype=torch.float64) / 4
            shares = 1 - make_schedule(schedule).alpha(t)
            assert float((time[:, None] - shares).abs().amin(-1).max()) < 1e-6
        if bool((after.passes == 1).all()) and policy == "ancestral":
            # the largest of six uniform numbers: 6/7 in expectation, whatever the schedule
            assert abs(float(time.mean()) - 6 / 7) < 4 * float(time.std()) / math.sqrt(rows)


# ---- proposals -----------------------------------------------------------------------------------------------------


def draws(probabilities: list[float], count: int, top_p: float = 1.0, temperature: float = 1.0) -> Tensor:
    """The number of times that each token is drawn in `count` proposals."""
    logits = torch.tensor([*probabilities, 1.0]).log()  # MASK is last, and has probability zero whatever its logit
    total = torch.zeros(len(logits), dtype=torch.int64)
    size = min(count, 1_000_000)
    for at in range(0, count, size):
        u = uniform(torch.tensor([at + 1]), torch.tensor([0]), torch.arange(size), TOKENS)
        proposal = propose(logits.repeat(size, 1), len(probabilities), u, temperature, top_p)
        total += proposal.tokens.bincount(minlength=len(logits))
    return total


@pytest.mark.parametrize("place", [0, 1, 2])
def test_rare_tokens_are_drawn_at_their_rate(place: int) -> None:
    rare, count = 1e-5, 2_000_000
    p = [0.6, 0.4 - rare]
    p.insert(place, rare)
    counts = draws(p, count)
    expected = torch.tensor([*p, 0.0], dtype=torch.float64) * count
    assert bool(((counts - expected).abs() <= 4 * expected.sqrt() + 4).all())
    assert int(counts[-1]) == 0


@pytest.mark.parametrize("rare", [1e-6, 1e-9])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_rare_tokens_have_their_share_of_the_uniform_numbers(rare: float, place: int) -> None:
    """Without sampling: the interval of u that gives the token is as long as the token is probable."""
    p = [0.6, 0.4 - rare]
    p.insert(place, rare)
    logits = torch.tensor([*p, 1.0], dtype=torch.float64).log().float()
    weights = clean_log_probs(logits, 3).exp().double()  # float32 rounds the probabilities of the others
    start = float(weights[:place].sum() / weights.sum())
    inside = torch.linspace(start - 2 * rare, start + 3 * rare, 50_001, dtype=torch.float64)
    inside = inside[(inside > 0) & (inside < 1)]
    drawn = propose(logits.repeat(len(inside), 1), 3, inside, 1.0, 1.0).tokens == place
    length = float(drawn.sum()) * 5 * rare / 50_000
    assert length == pytest.approx(rare, rel=2e-3)


def folded_gumbel_rate(p: float, share: float) -> float:
    """The rate at which a float32 Gumbel race that includes MASK (probability 1 - share) reveals a token of `p`.

    Exact: over all 2**24 values of the token's own uniform number, those of the other tokens integrated out.
    """
    u = torch.arange(2**24, dtype=torch.float32) * 2.0**-24
    clock = -(u + 1e-10).log() + 1e-10  # an exponential number, as float32 has it
    wins = torch.exp(-clock.double().clamp(min=0) / (p * share) * (1 - p * share))
    return float(wins.mean()) / share


@pytest.mark.slow
def test_control_float32_gumbel_loses_the_rare_tokens() -> None:
    assert folded_gumbel_rate(1e-2, 1.0) == pytest.approx(1e-2, rel=1e-2)  # the formula itself is correct
    assert folded_gumbel_rate(1e-6, 1e-3) < 0.5 * 1e-6


def test_control_float32_sums_lose_the_rare_tokens() -> None:
    p = torch.tensor([0.6, 0.4, 2e-8])
    edges = p.cumsum(0)
    assert float(edges[2] - edges[1]) == 0  # the token has an empty interval in float32
    assert float((p.double().cumsum(0))[2] - p.double().cumsum(0)[1]) > 1e-8


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    edge = torch.tensor([1e-300, 0.25, 0.5, 0.5 + 1e-16, 0.75, 1 - 2.0**-53], dtype=torch.float64)
    logits = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0, 3.0]).log()
    for top_p in (1.0, 0.4):
        tokens = propose(logits.repeat(len(edge), 1), 5, edge, 1.0, top_p).tokens
        assert set(tokens.tolist()) <= {1, 3}
    assert int(draws([0.0, 0.3, 0.0, 0.7], 1_000_000)[[0, 2, 4]].sum()) == 0


@pytest.mark.parametrize(
    "top_p, kept", [(0.39, {1}), (0.41, {1, 3}), (0.69, {1, 3}), (0.71, {1, 3, 0}), (0.95, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_smallest_set(top_p: float, kept: set[int]) -> None:
    p = [0.2, 0.4, 0.1, 0.3]
    counts = draws(p, 200_000, top_p)
    assert set(counts.nonzero().flatten().tolist()) == kept
    law = torch.tensor([p[k] if k in kept else 0.0 for k in range(4)], dtype=torch.float64)
    expected = 200_000 * law / law.sum()
    assert bool(((counts[:4] - expected).abs() <= 4.5 * expected.sqrt()).all())


def test_temperature_sharpens_the_proposal_and_not_the_features() -> None:
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    expected = 200_000 * p**2 / (p**2).sum()
    counts = draws(p.tolist(), 200_000, temperature=0.5)[:3]
    assert bool(((counts - expected).abs() <= 4.5 * expected.sqrt()).all())
    logits = torch.tensor([[0.2, 0.5, 0.3, 0.9]]).log()
    cold = propose(logits, 3, torch.tensor([0.05], dtype=torch.float64), 0.5, 0.4)
    torch.testing.assert_close(cold.log_probs[0, :3].double().exp(), p, rtol=1e-6, atol=0)
    assert float(cold.log_probs[0, 3]) == -math.inf


def test_temperature_zero_takes_the_most_probable() -> None:
    logits = torch.tensor([[0.1, 2.0, 1.0, 9.0], [3.0, 1.0, 2.0, 9.0]])
    proposal = propose(logits, 3, torch.tensor([0.999, 0.999], dtype=torch.float64), 0.0, 1.0)
    assert proposal.tokens.tolist() == [1, 0]


@pytest.mark.parametrize("temperature, top_p", [(0.0, 1.0), (1.0, 1.0), (0.5, 0.7)])
def test_logits_that_are_not_numbers_give_tokens_of_the_vocabulary_until_they_are_refused(
    temperature: float, top_p: float
) -> None:
    """On a GPU the check comes after the draw, and an index past the end stopped the process before its sentence."""
    logits, u = torch.full((2, V + 1), torch.nan), torch.tensor([0.01, 0.99], dtype=torch.float64)
    later: list[bool] = []
    proposal = propose(logits, V, u, temperature, top_p, refuse=lambda wrong, _: later.append(bool(wrong)))
    assert later == [True]
    assert int(proposal.tokens.min()) >= 0
    assert int(proposal.tokens.max()) <= V
    with pytest.raises(RunError, match="NaN"):
        propose(torch.full((2, V + 1), torch.nan), V, u, temperature, top_p)
