"""The bounds of the baselines are bounds, and their samplers have the laws they claim, by enumeration."""

import math
from collections.abc import Callable

import pytest
import torch
from tests.laws.test_sampling import JOINT, ROWS, L, V, enumerated_law, sample, surprise
from torch import Tensor

from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.denoiser import clean_mass
from unmask.model.cache import cached
from unmask.model.dit import DiT
from unmask.model.settings import DiTSettings
from unmask.objective.base import Objective, Rows, Turn
from unmask.objective.baselines import Autoregressive, DiscreteTime, score_entropy
from unmask.objective.bound import bound
from unmask.objective.masked import Masked, cross_entropy, objective_of, parameterization
from unmask.policies.options import Context
from unmask.policies.registry import make
from unmask.policies.reverse import Reverse
from unmask.process import Linear, MaskedDiffusion, make_schedule
from unmask.testing import TableDenoiser

PROCESS = MaskedDiffusion(V)
EXACT = TableDenoiser(JOINT)
X = EXACT.sequences()
TRUTH = -JOINT.flatten().log()


class Scores(TableDenoiser):
    """Scores of the posterior, all multiplied by `factor`: its sum is Z = factor."""

    parameterization = "sedd"

    def __init__(self, joint: Tensor, factor: float = 1.0) -> None:
        super().__init__(joint)
        self.factor = factor

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden + math.log(self.factor * (self.vocab_size - 1))


class Leaky(TableDenoiser):
    """Gives MASK the probability `share`, and visible tokens one as if a hundredth were another one."""

    parameterization = "d3pm"

    def __init__(self, joint: Tensor, share: float) -> None:
        super().__init__(joint)
        self.share = share

    def logits(self, hidden: Tensor) -> Tensor:
        spilt = hidden + math.log(1 - self.share)
        spilt[..., self.mask_id] = math.log(self.share) if self.share else -torch.inf
        return spilt


def mean_bound(objective: Objective, model: TableDenoiser, x: Tensor, count: int = 4000) -> tuple[Tensor, Tensor]:
    """The mean bound of each sequence (N, L) over `count` draws, and its standard error as if they were independent."""
    ids = x.repeat_interleave(count, 0)
    rows = Rows(ids, torch.ones_like(ids, dtype=torch.bool), None)
    turn = Turn(7, torch.arange(len(ids)), len(ids))
    nats = objective.bound(model, rows, turn).nats.double().view(len(x), count)
    return nats.mean(-1), nats.std(-1) / math.sqrt(count)


# ---- masked language modelling -------------------------------------------------------------------------------------


def test_a_masked_language_model_is_trained_at_one_noise_level_and_reported_by_the_bound() -> None:
    """The loss is the mean cost over subsets of one size times the number of tokens; that is not -log p."""
    objective = objective_of("mlm", PROCESS)
    ids = X.repeat_interleave(2000, 0)
    rows = Rows(ids, torch.ones_like(ids, dtype=torch.bool), None)
    draw = objective.draw(0, 0, torch.arange(len(ids)), len(ids), rows.maskable)
    assert bool((draw[0].sum(-1) == 1).all())  # 15 % of few tokens, rounded up
    loss = objective.loss(EXACT, rows, draw).nats.double().view(len(X), -1)
    hidden = [torch.where(torch.arange(L) == at, V, X) for at in range(L)]
    costs = [-EXACT.hidden(hidden[at])[torch.arange(len(X)), at, X[:, at]] for at in range(L)]
    expected, error = torch.stack(costs).sum(0), loss.std(-1) / loss.shape[1] ** 0.5
    assert bool(((loss.mean(-1) - expected).abs() < 4 * error + 1e-6).all())
    assert float((expected - TRUTH).abs().max()) > 0.5
    bound, error = mean_bound(objective, EXACT, X)
    assert bool(((bound - TRUTH).abs() < 4 * error + 1e-3).all())


# ---- score entropy -------------------------------------------------------------------------------------------------


def test_score_entropy_of_the_exact_scores_is_the_likelihood() -> None:
    bound, error = mean_bound(Masked(PROCESS, cost=score_entropy), Scores(JOINT), X)
    assert bool(((bound - TRUTH).abs() < 4 * error + 1e-3).all())


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_score_entropy_is_cross_entropy_and_what_the_sum_is_off(factor: float) -> None:
    """Z - 1 - log Z more for each masked token; the control: cross-entropy does not see Z."""
    model, targets = Scores(JOINT, factor), torch.tensor([0, 2])
    hidden = model.hidden(torch.full((1, L), V))[0, :2]
    cost, plain = (function(model, hidden, targets, targets) for function in (score_entropy, cross_entropy))
    torch.testing.assert_close(cost, plain.float() + factor - 1 - math.log(factor), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain, cross_entropy(Scores(JOINT), hidden, targets, targets))


def test_score_entropy_is_least_at_the_true_scores() -> None:
    """In expectation over the language: a wrong sum and a wrong distribution both cost."""
    blurred = 0.8 * JOINT + 0.2 / JOINT.numel()
    models = [Scores(JOINT), Scores(JOINT, 1.5), Scores(JOINT, 0.7), Scores(blurred)]
    means = [float(JOINT.flatten() @ mean_bound(Masked(PROCESS, cost=score_entropy), m, X, 500)[0]) for m in models]
    assert all(mean > means[0] + 0.01 for mean in means[1:])


# ---- D3PM ----------------------------------------------------------------------------------------------------------


def alphas(steps: int) -> list[float]:
    """alpha at the levels 0 .. T of the linear schedule."""
    return [1 - (level + 1) / (steps + 1) for level in range(steps + 1)]


def path_bound(p: float, mask: float, steps: int) -> float:
    """The bound of one token by its definition: E_q[log q(path | x) - log p(path, x)], over all paths of one position.

    A path is the level at which the token becomes visible, or that it stays MASK. The network gives the true token
    probability `p`, MASK `mask`, and a visible token 1 - `mask`.
    """
    alpha, total, kept = alphas(steps), 0.0, 1.0
    for level in range(steps, 0, -1):
        now, then = alpha[level], alpha[level - 1]
        norm = now * mask + 1 - now
        q = then - now
        total += q * (math.log(q) - math.log(kept * (then - now) * p / norm * (1 - mask)))
        kept *= (then * mask + 1 - then) / norm
    q = 1 - alpha[0]
    return total + q * (math.log(q) - math.log(kept * p))


@pytest.mark.parametrize("steps", [1, 4, 20])
@pytest.mark.parametrize("mask", [0.0, 0.3])
def test_the_bound_of_d3pm_is_that_of_its_paths(mask: float, steps: int) -> None:
    """A language of one token. Without mass on MASK the bound is -log p; the controls: MASK ignored, carry-over."""
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    model, x = Leaky(law, mask), torch.arange(3)[:, None]
    bound, error = mean_bound(DiscreteTime(PROCESS, steps), model, x, 20_000)
    expected = torch.tensor([path_bound(p * (1 - mask), mask, steps) for p in law.tolist()])
    assert bool(((bound - expected).abs() < 4 * error + 1e-4).all())
    if mask == 0:
        torch.testing.assert_close(expected.double(), -law.log(), rtol=1e-6, atol=1e-6)
        return
    wrong = torch.tensor([path_bound(p * (1 - mask), 0.0, steps) for p in law.tolist()])
    copied, _ = mean_bound(DiscreteTime(PROCESS, steps, carry_over=True), model, x, 20_000)
    assert bool(((bound - wrong).abs() > 4 * error).all())
    assert bool((copied < bound - 0.1).all())  # visible tokens cost -log(0.7) each


def test_the_ladder_of_table_8() -> None:
    """With a network that is not perfect each step from D3PM to MDLM lowers the bound, in expectation (MDLM, A.2)."""
    x, weight = X, JOINT.flatten()
    leaky = Leaky(0.9 * JOINT + 0.1 / JOINT.numel(), 0.05)
    d3pm, masked, both = (
        float(weight @ mean_bound(DiscreteTime(PROCESS, 6, *each), leaky, x, 2000)[0])
        for each in ((False, False), (True, False), (True, True))
    )
    continuous = float(weight @ mean_bound(Masked(PROCESS), leaky, x, 2000)[0])
    assert d3pm > masked > both - 1e-9
    assert both > continuous > float(weight @ TRUTH)


def test_discrete_time_of_mdlm_is_that_of_its_sampler() -> None:
    """An upper bound on -log p of the reverse process with T + 1 steps, which it reaches where one token is masked."""
    law = enumerated_law(JOINT, Linear(), 4).flatten()
    bound, error = mean_bound(DiscreteTime(PROCESS, 3, True, True), EXACT, X)
    assert bool((bound > -law.log() - 4 * error).all())
    assert float(law @ (bound + law.log())) > 0.01  # a gap is there: the steps draw tokens independently


@pytest.mark.parametrize("steps", [8, 40])
def test_training_draws_mean_the_bound(steps: int) -> None:
    """The loss, in which one row in eight is reconstructed, has the mean of the bound that is reported."""
    model, x = Leaky(JOINT, 0.2), X[5:6].expand(64, L)
    rows = Rows(x, torch.ones_like(x, dtype=torch.bool), None)
    objective, index = DiscreteTime(PROCESS, steps), torch.arange(64)
    losses = [
        float(objective.loss(model, rows, objective.draw(1, n, index, 64, rows.maskable)).nats.mean())
        for n in range(300)
    ]
    values = torch.tensor(losses).double()
    (expected,), _ = mean_bound(objective, model, X[5:6], 20_000)
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean() - expected)) < 4 * error
    assert error < 0.1


# ---- the reverse process as a policy -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["analytic", "d3pm"])
def test_with_a_sum_of_1_the_reverse_process_is_ancestral_sampling(rule: str) -> None:
    law = enumerated_law(JOINT, make_schedule("linear"), 3)
    assert abs(surprise(sample(make(f"reverse:steps=3,rule={rule}")).tokens, law)) < 4
    assert surprise(sample(make(f"reverse:steps=1,rule={rule}")).tokens, law) > 4


def test_eulers_steps_are_the_analytic_ones_for_the_linear_schedule_alone() -> None:
    """(t - s)/t is (alpha_s - alpha_t)/(1 - alpha_t) there; with another schedule the laws differ."""

    def decoded(rule: str, schedule: str) -> Tensor:
        return sample(make(f"reverse:steps=3,rule={rule},schedule={schedule}")).tokens

    assert torch.equal(decoded("euler", "linear"), decoded("analytic", "linear"))
    assert not torch.equal(decoded("euler", "cosine"), decoded("analytic", "cosine"))


def stays(reveals: list[float]) -> Tensor:
    """The probability of a reveal in each step -> the law of the number of passes."""
    left, law = 1.0, list[float]()
    for probability in reveals:
        law.append(left * probability)
        left *= 1 - probability
    return torch.tensor(law)


def analytic(t: float, s: float, mass: float) -> float:
    return (t - s) / t * mass


def d3pm(t: float, s: float, mass: float) -> float:
    return (t - s) * mass / (1 - (1 - t) * mass)


@pytest.mark.parametrize(
    ("model", "mass", "law"),
    [
        (Scores(torch.tensor([0.7, 0.3]), 0.6), 0.6, analytic),
        (Leaky(torch.tensor([0.7, 0.3]), 0.4), 0.6, d3pm),
    ],
)
def test_the_time_of_a_reveal_depends_on_the_sum(
    model: TableDenoiser, mass: float, law: Callable[[float, float, float], float]
) -> None:
    """One position, five steps, the default rule of each model; the control is the law for a sum of 1."""
    steps = 5
    policy = make(f"reverse:steps={steps}", Context(Linear(), None, parameterization(model)))
    tokens = torch.full((ROWS, 1), model.mask_id)
    passes = Decoder(model, policy, 1.0).decode(Canvas.start(tokens, torch.arange(ROWS))).passes
    counts = passes.bincount(minlength=steps + 1)[1:].double()
    times = [1 - step / steps for step in range(steps)] + [0.0]
    for share, holds in ((mass, True), (1.0, False)):
        chances = [min(1.0, law(times[i], times[i + 1], share)) for i in range(steps - 1)] + [1.0]
        expected = stays(chances).double() * ROWS
        distance = float(((counts - expected).square() / expected.clamp(min=1e-3)).sum())
        assert (distance < 30) == holds  # four degrees of freedom


def test_what_a_prediction_sums_to() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    assert clean_mass(logits, 3, "subs").tolist() == [1]
    assert clean_mass(logits, 3, "d3pm").item() == pytest.approx(1 - math.exp(3) / sum(map(math.exp, range(4))))
    assert clean_mass(logits, 3, "sedd").item() == pytest.approx(sum(map(math.exp, range(3))) / 3)


def test_a_policy_that_ends_its_blocks_itself_is_not_joined() -> None:
    assert Reverse(4).looks
    with pytest.raises(Exception, match="ends its blocks itself"):
        make("reverse or random")


# ---- autoregressive ------------------------------------------------------------------------------------------------


def causal(shift: bool = True) -> DiT:
    """A network with random weights on three tokens and MASK."""
    settings = DiTSettings(4, 3, 8, 32, 2, 2, dropout=0, causal_block=1, shift=shift)
    network = DiT(settings).eval()
    with torch.no_grad():
        source = torch.Generator().manual_seed(3)
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source) * (0.3 if parameter.ndim > 1 else 0.5))
    return network


def all_rows(length: int) -> Rows:
    ids = torch.ones((3,) * length).nonzero()
    return Rows(ids, torch.ones_like(ids, dtype=torch.bool), None)


@torch.no_grad()
def test_autoregressive_probabilities_sum_to_1() -> None:
    """Over all texts of four tokens; the control reads predictions where the tokens themselves are seen."""
    rows, turn = all_rows(4), Turn(0, torch.arange(81), 81)
    nats = Autoregressive(3).bound(causal(), rows, turn).nats.double()
    assert float((-nats).exp().sum()) == pytest.approx(1, abs=1e-5)
    assert float(nats.std()) > 0.1
    seen = Autoregressive(3).bound(causal(shift=False), rows, turn).nats.double()
    assert abs(float((-seen).exp().sum()) - 1) > 1e-3


@pytest.mark.parametrize("cache", [None, "causal"])
@torch.no_grad()
def test_decoding_has_the_probabilities_of_the_objective(cache: str | None) -> None:
    """Each text is written with the log-probability that the objective gives it, from left to right."""
    network = causal()
    model = network if cache is None else cached(network, cache)
    start = Canvas.start(torch.full((16, 6), 3), torch.arange(16))
    written = Decoder(model, make("left-to-right"), 1.0, block_size=1).decode(start)
    rows = Rows(written.tokens, torch.ones_like(written.tokens, dtype=torch.bool), None)
    nats = Autoregressive(3).bound(network, rows, Turn(0, torch.arange(16), 16)).nats
    torch.testing.assert_close(-written.log_prob.sum(-1), nats, rtol=1e-4, atol=1e-4)
    assert len(written.tokens.unique(dim=0)) > 8


def test_a_prompt_is_not_counted() -> None:
    network, rows = causal(), all_rows(3)
    maskable = rows.maskable.clone()
    maskable[:, :2] = False
    whole, rest = (
        Autoregressive(3).bound(network, rows._replace(maskable=part), Turn(0, torch.arange(27), 27))
        for part in (rows.maskable, maskable)
    )
    assert rest.tokens.tolist() == [1] * 27
    assert bool((rest.nats < whole.nats).all())
    assert float((-rest.nats.view(9, 3)).exp().sum(-1).sub(1).abs().max()) < 1e-5  # for each prompt


def test_an_exact_value_is_computed_once() -> None:
    """Whatever the number of draws, which a masked model uses (the control)."""
    rows = [all_rows(3)]
    assert bound(causal(), Autoregressive(3), rows, 27, 0, draws=5).draws == 1
    assert bound(causal(), Masked(PROCESS), rows, 27, 0, draws=5).draws == 5


def test_padding_changes_nothing() -> None:
    network = causal()
    ids = torch.tensor([[0, 1, 2, 0, 0, 0]])
    valid = torch.arange(6)[None] < 3
    short = Rows(ids[:, :3], torch.ones(1, 3, dtype=torch.bool), None)
    padded = Rows(ids, valid, valid)
    turn = Turn(0, torch.arange(1), 1)
    torch.testing.assert_close(
        Autoregressive(3).bound(network, padded, turn).nats, Autoregressive(3).bound(network, short, turn).nats
    )


# ---- which objective a network has ---------------------------------------------------------------------------------


def test_the_objective_follows_from_the_network() -> None:
    assert parameterization(causal()) == "ar"
    assert parameterization(causal().settings) == "ar"
    assert parameterization(EXACT) == "subs"
    assert parameterization(Scores(JOINT)) == "sedd"
    assert objective_of("subs", PROCESS) == Masked(PROCESS)
    assert objective_of("subs", PROCESS, steps=7) == DiscreteTime(PROCESS, 7, True, True)
    assert objective_of("zero-masking", PROCESS) == DiscreteTime(PROCESS, 1000, True, False)
    assert objective_of("d3pm", PROCESS, steps=5) == DiscreteTime(PROCESS, 5, False, False)
    assert objective_of("sedd", PROCESS) == Masked(PROCESS, cost=score_entropy)
    assert objective_of("ar", PROCESS) == Autoregressive(V)
