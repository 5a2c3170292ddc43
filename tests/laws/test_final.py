"""Learn2PD: labels from the final text, the filter against a slow twin, its folder, and what it refuses."""

import math
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.denoiser import Denoiser, clean_log_probs
from unmask.errors import ConfigError, RequestError
from unmask.noise import generator
from unmask.policies.learned.filter import Filter
from unmask.policies.learned.network import FilterNetwork, Observation
from unmask.policies.learned.policy import Learned
from unmask.policies.learned.settings import PolicySettings
from unmask.policies.registry import make
from unmask.recipes.policies import learn2pd
from unmask.rl.collect import FINAL, Attempts, InProcess, policy_bytes
from unmask.rl.final import until_stuck
from unmask.rl.learner import Learner
from unmask.rl.loop import fit
from unmask.rl.rollout import Trajectory
from unmask.rl.session import open_learning
from unmask.rl.settings import LearnRun, LearnSettings
from unmask.rl.warm import imitate, of_final
from unmask.run.loop import Listener
from unmask.testing import TableDenoiser, check_policy, random_language

COUNT = 12
SETTINGS = PolicySettings(network="mlp", features=("confidence",), scale="raw", priced=False, unit=6)


def run(**changes: Any) -> LearnRun:
    """The recipe, with few problems."""
    small = {"prompts": 4, "group": 4, "pool": 24, "valid_prompts": 4, "calibrated": 4, "warm": 2, "threads": 1}
    return replace(learn2pd(), learn=replace(learn2pd().learn, device="cpu", **{**small, **changes}))


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    with closing(open_learning(run(), out=tmp_path_factory.mktemp("learn") / "run")) as session:
        return session.learner


# ---- labels ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def predictions(denoiser: Denoiser, row: list[int]) -> dict[int, tuple[float, int]]:
    """A row -> of each masked position the confidence and the most probable token."""
    log_probs = clean_log_probs(denoiser.logits(denoiser.hidden(torch.tensor([row]))), denoiser.mask_id)[0]
    best = log_probs.max(-1)
    masked = [at for at, token in enumerate(row) if token == denoiser.mask_id]
    return {at: (float(best.values[at].exp()), int(best.indices[at])) for at in masked}


def slow_final(denoiser: Denoiser, row: list[int]) -> list[int]:
    """A row -> its text by one token a pass, the most confident first."""
    row = list(row)
    while seen := predictions(denoiser, row):
        at = max(seen, key=lambda n: (seen[n][0], -n))
        row[at] = seen[at][1]
    return row


def slow_labels(denoiser: Denoiser, row: list[int], final: list[int]) -> list[set[int]]:
    """A row and its final text -> of each pass the positions whose prediction is right, up to a pass without any."""
    row, passes = list(row), list[set[int]]()
    while seen := predictions(denoiser, row):
        right = {at for at, (_, token) in seen.items() if token == final[at]}
        passes.append(right)
        if not right:
            break
        for at in right:
            row[at] = final[at]
    return passes


def labels(trajectory: Trajectory, count: int) -> list[list[set[int]]]:
    """A trajectory -> of each row and pass the positions with an action."""
    out: list[list[set[int]]] = [[] for _ in range(count)]
    for line, row in enumerate(trajectory.row.tolist()):
        positions = trajectory.seen.positions[line][trajectory.action[line] > 0]
        out[row].append(set(positions.tolist()))
    return out


def test_labels_say_whether_a_prediction_is_that_of_the_final_text_of_the_run(learner: Learner) -> None:
    world = learner.worlds[0]
    problems = world.train[:COUNT]
    result = labels(of_final(learner, 0, range(COUNT), range(COUNT)), COUNT)
    rows = [list(problem.row) for problem in problems]
    finals = [slow_final(world.denoiser, row) for row in rows]
    assert result == [slow_labels(world.denoiser, row, final) for row, final in zip(rows, finals, strict=True)]
    assert any(len(passes) > 2 for passes in result)
    shifted = [*finals[1:], finals[0]]  # the control: the final text of another row
    assert result != [slow_labels(world.denoiser, row, final) for row, final in zip(rows, shifted, strict=True)]


def test_a_row_ends_with_the_first_pass_without_a_right_prediction() -> None:
    """Rows 0 and 1 take turns; row 1 has nothing right at its second pass, and its third is dropped."""
    action = torch.tensor([[1, 0], [0, 1], [0, 1], [0, 0], [1, 1], [1, 0]])
    row = torch.tensor([0, 1, 0, 1, 0, 1])
    none = torch.zeros(6, 2)
    seen = Observation(none[..., None], none.long(), none.bool(), none[:, 0], none[:, 0], none.long())
    kept = until_stuck(Trajectory(seen, none.bool(), action, none[:, 0], row), 2)
    assert kept.row.tolist() == [0, 1, 0, 1, 0]
    assert kept.action.tolist() == action[:5].tolist()
    full = until_stuck(Trajectory(seen, none.bool(), action.clamp(1), none[:, 0], row), 2)
    assert len(full.row) == 6  # the control: no pass without one


def test_labels_do_not_depend_on_the_batch(learner: Learner) -> None:
    whole = labels(of_final(learner, 0, range(COUNT), range(COUNT)), COUNT)
    whole_batch, small = learner.collector, replace(learner.run, learn=replace(learner.settings, batch=5))
    learner.collector = InProcess(small, learner.worlds)
    parts = labels(of_final(learner, 0, range(COUNT), range(COUNT)), COUNT)
    learner.collector = whole_batch
    assert whole == parts
    assert whole != whole[::-1]  # the control


def test_supervision_lowers_the_loss_below_that_of_the_base_rate(learner: Learner) -> None:
    groups = [Attempts(0, n, 0.0, (n,), FINAL, valid=True) for n in range(4)]
    held_out = learner.collector.collect(policy_bytes(learner.policy()), groups).trajectory
    assert held_out is not None
    rate = float(held_out.action.bool()[held_out.eligible].float().mean())
    base = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    losses = [imitate(learner) for _ in range(4)]
    assert losses[-1] < 0.9 * base
    assert losses[0] > losses[-1]
    with torch.no_grad():
        logits = learner.network(held_out.seen)[held_out.eligible]
    right = held_out.action.bool()[held_out.eligible]
    assert float(logits[right].mean()) > float(logits[~right].mean()) + 1
    mixed = right[torch.randperm(len(right), generator=generator(1))]  # the control: labels of other positions
    assert float(logits[mixed].mean()) < float(logits[~mixed].mean()) + 1


# ---- the filter ------------------------------------------------------------------------------------------------------


def network(seed: int = 1, scale: float = 1.5) -> FilterNetwork:
    """Random weights, by default so large that every input matters."""
    net = FilterNetwork(SETTINGS)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(scale * torch.randn(value.shape, generator=draw))
    return net.eval()


def slow_decode(
    denoiser: Denoiser, row: list[int], net: FilterNetwork, threshold: float, size: int
) -> tuple[list[int], int]:
    """A row decoded alone, with the two layers written out -> its tokens and passes."""
    row, passes = list(row), 0
    holes = [at for at, token in enumerate(row) if token == denoiser.mask_id]
    up, head = ((layer.weight.tolist(), layer.bias.tolist()) for layer in (net.up, net.head))
    kept: dict[int, float] = {}
    for start in range(holes[0], len(row), size):
        block = [at for at in holes if start <= at < start + size]
        while open_ := [at for at in block if row[at] == denoiser.mask_id]:
            seen = {at: each for at, each in predictions(denoiser, row).items() if at in open_}
            inputs = [kept.get(at, seen[at][0] if at in seen else 0.0) for at in holes]
            inputs += [0.0] * (6 - len(inputs))
            middle = [max(0.0, sum(map(float.__mul__, w, inputs)) + b) for w, b in zip(*up, strict=True)]
            logits = [sum(map(float.__mul__, w, middle)) + b for w, b in zip(*head, strict=True)]
            sure = {at for at in open_ if 1 / (1 + math.exp(-logits[holes.index(at)])) > threshold}
            for at in sure | {max(open_, key=lambda n: (seen[n][0], -n))}:
                row[at], kept[at] = seen[at][1], seen[at][0]
            passes += 1
    return row, passes


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.96])
def test_the_filter_equals_its_slow_twin(threshold: float, block_size: int | None) -> None:
    model = TableDenoiser(random_language(3, 6, 2, 2.5))
    tokens = torch.randint(3, (24, 6), generator=generator(8))
    tokens[torch.rand(24, 6, generator=generator(9)) < 0.8] = model.mask_id
    tokens[:, 2] = model.mask_id
    policy, net = Filter(Learned(network()), threshold), network()
    canvas = Decoder(model, policy, 0.0, block_size=block_size).decode(Canvas.start(tokens, torch.arange(24)))
    fast = list(zip(canvas.tokens.tolist(), canvas.passes.tolist(), strict=True))
    size = block_size or 6
    assert fast == [slow_decode(model, row, net, threshold, size) for row in tokens.tolist()]
    wrong = [slow_decode(model, row, network(2), threshold, size) for row in tokens.tolist()]
    assert fast != wrong  # the control: other weights


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_contract_of_policies(temperature: float, block_size: int | None) -> None:
    net = FilterNetwork(replace(SETTINGS, unit=24), seed=3)
    check_policy(lambda: Filter(Learned(net), 0.2), temperature=temperature, block_size=block_size)


def test_a_stricter_threshold_reveals_a_subset() -> None:
    model = TableDenoiser(random_language(3, 6, 2, 2.5))
    tokens = torch.full((32, 6), model.mask_id)
    tokens[:, 0] = torch.randint(3, (32,), generator=generator(2))
    reveals = [
        next(
            iter(Decoder(model, Filter(Learned(network(scale=0.7)), x)).steps(Canvas.start(tokens, torch.arange(32))))
        )[1]
        for x in (0.1, 0.4, 0.6, 0.9)
    ]
    for loose, strict in pairwise(reveals):
        assert not (strict.revealed & ~loose.revealed).any()
    assert int(reveals[0].revealed.sum()) > int(reveals[-1].revealed.sum()) >= 32  # the control; at least one a row


# ---- the command -----------------------------------------------------------------------------------------------------


def test_a_filter_is_trained_and_used_by_name(tmp_path: Path) -> None:
    with closing(open_learning(run(), out=tmp_path / "whole")) as session:
        result, tables = fit(session.learner, Quiet())
        assert (result.step, result.reason, tables) == (0, "finished", ())
    policy = make(f"filter:from={tmp_path / 'whole'},threshold=0.9")
    assert isinstance(policy, Filter)
    assert policy.threshold == 0.9
    assert isinstance(policy.inner.network, FilterNetwork)
    assert repr(policy) == f"filter:from={tmp_path / 'whole'},threshold=0.9"
    model = Repeated(TableDenoiser(random_language(3, 6, 2, 2.5)))
    longer = Canvas.start(torch.full((1, 40), 3), torch.zeros(1, dtype=torch.long))
    with pytest.raises(RequestError, match="trained on 24 positions to fill, and a text has 40"):
        Decoder(model, policy).decode(longer)


class Quiet(Listener[Any, Any]):
    """A listener that prints nothing."""


class Repeated:
    """The denoiser of six positions, for rows of any length: its first six."""

    def __init__(self, inner: TableDenoiser) -> None:
        self.inner = inner
        self.vocab_size, self.mask_id, self.max_length = inner.vocab_size, inner.mask_id, 100
        self.time_conditioned = False

    def hidden(self, tokens: torch.Tensor, **_: object) -> torch.Tensor:
        first = self.inner.hidden(tokens[:, :6])
        return first.repeat(1, tokens.shape[1] // 6 + 1, 1)[:, : tokens.shape[1]]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.inner.logits(hidden)


def test_requests_that_cannot_be() -> None:
    with pytest.raises(RequestError, match="is no filter but a policy with a dial; write learned:from=automaton_eos"):
        make("filter:from=automaton_eos")
    with pytest.raises(RequestError, match="filter needs a folder that unmask learn learn2pd wrote"):
        make("filter:threshold=0.9")
    with pytest.raises(ConfigError, match=r"threshold is 1\.5"):
        Filter(Learned(network()), 1.5)
    with pytest.raises(ConfigError, match="reads the confidence alone"):
        PolicySettings(network="mlp")
    with pytest.raises(ConfigError, match="nothing is trained"):
        LearnSettings(rounds=0, warm=0)
    with pytest.raises(ConfigError, match="with the teacher final none is chosen"):
        LearnSettings(teacher="final", steering=2)
    with pytest.raises(ConfigError, match="a ranking takes none"):
        LearnRun(policy=PolicySettings(head="plackett-luce"), learn=LearnSettings(teacher="final", entropy=0.0))
