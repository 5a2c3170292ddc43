"""Laws of a policy that is trained on a mixture of pairs of a denoiser and a task."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask import api
from unmask.errors import ConfigError, RequestError, RunError
from unmask.policies.base import View
from unmask.policies.learned.network import PolicyNetwork
from unmask.policies.learned.policy import Calibration, Learned, observe
from unmask.policies.learned.settings import PolicySettings
from unmask.rl import learner as learner_module
from unmask.rl import warm
from unmask.rl.learner import Learner
from unmask.rl.loop import ValidationResult, validate
from unmask.rl.rollout import World, experts, make_world
from unmask.rl.settings import LearnRun, LearnSettings
from unmask.rl.warm import imitate
from unmask.run.parallel import Group

SMALL = LearnSettings(
    rounds=2, prompts=2, group=4, alphas=(0.3, 10.0), warm=1, inner=1, pool=16, valid_prompts=1, scored=2
)
ALONE = LearnRun("automaton_eos", "automaton", PolicySettings(width=8, length=True, entropy="bounded"), SMALL)
MIXED = replace(ALONE, others=("automaton=automaton", "sudoku:side=4=sudoku"))


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    """An automaton with each of two denoisers, and the same once more in the place of a third pair."""
    made = [make_world(api.load(name, threads=1), name, "automaton", train=16, valid=4, seed=0) for name in NAMES]
    return [*made, made[1]]


NAMES = ("automaton_eos", "automaton")


def learner(worlds: list[World], run: LearnRun = MIXED) -> Learner:
    made = Learner(run, worlds[: len(run.pairs)], Path("unused"), Group())
    rules = experts(worlds[0].length)
    made.teachers = [rules[5], rules[-1]] * len(run.pairs)
    return made


def weights(made: Learner) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in made.params])


def test_a_mixture_of_which_one_pair_is_left_is_the_training_of_that_pair(worlds: list[World]) -> None:
    """The same bits, of the warm start and of rounds; a mixture with another pair is another training."""
    ends: list[Tensor] = []
    for run, silent in ((ALONE, ()), (MIXED, (1, 2)), (MIXED, (2,))):
        made = learner(worlds, run)
        for m in silent:
            made.leave_out(m, "the test says so")
        imitate(made)
        made.take_round()
        made.take_round()
        ends.append(weights(made))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def gradients(worlds: list[World], monkeypatch: pytest.MonkeyPatch, chosen: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of an update on those groups of a round of two pairs that `chosen` selects."""
    run = replace(MIXED, learn=replace(SMALL, entropy=0.0))
    made, seen = learner(worlds, run), list[Tensor]()
    monkeypatch.setattr(
        learner_module,
        "clip",
        lambda params, norm: seen.append(torch.cat([p.grad.flatten().clone() for p in params])),  # pyright: ignore
    )
    pair, picks, which = torch.tensor([0, 1, 1, 1]), torch.tensor([3, 1, 4, 1]), torch.tensor([0, 1, 0, 0])
    keep = chosen(pair)
    advantage = torch.randn(16, generator=torch.Generator().manual_seed(1)).view(4, 4)[keep].flatten()
    rows = [(n, *(int(x[n]) for x in (pair, picks, which))) for n in range(4) if keep[n]]
    rollout = made.collect(
        [made.attempts(m, made.number(m, pick), k, range(4 * n, 4 * n + 4)) for n, m, pick, k in rows]
    )
    assert rollout.trajectory is not None
    made._update(rollout.trajectory, advantage, 4, pair[keep])
    return seen[0]


def test_a_round_of_two_pairs_has_the_weighted_sum_of_their_gradients(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the shares of the problems as weights, whatever the passes of each."""
    whole = gradients(worlds, monkeypatch, lambda pair: pair >= 0)
    first, second = (gradients(worlds, monkeypatch, lambda pair, m=m: pair == m) for m in (0, 1))
    torch.testing.assert_close(whole, 0.25 * first + 0.75 * second, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(whole, 0.5 * first + 0.5 * second, rtol=1e-2)


def test_the_running_deviation_is_that_of_the_pair_and_alpha(worlds: list[World]) -> None:
    made = learner(worlds)
    made.leave_out(0, "the test says so")
    made.take_round()
    assert made.variance.shape == (6,)
    assert bool(made.variance[:2].isnan().all())
    assert not bool(made.variance[2:].isnan().all())


def test_a_pair_is_left_out_when_none_of_its_first_groups_has_a_signal(worlds: list[World]) -> None:
    made = learner(worlds)
    made.standing.merit = 0.7
    pair = torch.tensor([0] * 19 + [1] * 20)
    differ = torch.zeros(39, dtype=torch.bool)
    differ[-1] = True  # the control: a pair with one group that has a signal
    made._count(pair, differ)
    assert not made.left_out
    made._count(torch.tensor([0]), torch.tensor([False]))
    assert list(made.left_out) == [0]
    assert "automaton=automaton_eos is left out of the mixture: in each of its first 20 groups" in made.left_out[0]
    assert made.pairs == [1, 2]
    assert made.standing.merit == -math.inf  # its validations were of other pairs
    alone = learner(worlds, ALONE)
    alone._count(torch.zeros(40, dtype=torch.int64), torch.zeros(40, dtype=torch.bool))
    assert not alone.left_out


def test_an_interrupt_while_heuristics_are_chosen_ends_no_training(
    worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pair is unsolved and was left out before; it is compared again. The control: no pair is solved."""
    run, solved = replace(MIXED, others=MIXED.others[:1]), {1}
    rules = list(experts(worlds[0].length))

    def compared(made: Learner, m: int, stopping: Callable[[], bool]) -> Any:
        values = torch.full((len(rules), 2), float(m in solved))
        return None if m == 1 and stopping() else (rules, values, float(m in solved))

    monkeypatch.setattr(warm, "_compare", compared)
    made = learner(worlds, run)
    assert warm.choose_teachers(made, lambda: True) is None
    assert made.pairs == [1]
    lines = warm.choose_teachers(made, lambda: False)
    assert lines is not None
    assert "is left out of the mixture" in lines[0]
    assert made.pairs == [1]
    solved.clear()
    with pytest.raises(RunError, match="nothing to learn from"):
        warm.choose_teachers(made, lambda: False)


def test_validations_of_a_mixture_are_in_units_of_the_best_rules(worlds: list[World]) -> None:
    """Half the unit of a pair doubles its part; the least unit is .05; one pair has the reward itself."""
    made, results = learner(worlds), list[ValidationResult]()
    for usual in ([1.0, 1.0, 1.0], [0.5, 1.0, 1.0], [0.0001, 1.0, 1.0]):
        made.usual = torch.tensor(usual)
        results.append(validate(made))
    own = list(results[0].by_pair.values())
    assert results[0].value == pytest.approx((own[0] + own[1] * 2) / 3)  # the last two pairs are equal
    assert results[1].value - results[0].value == pytest.approx(own[0] / 3)
    assert results[2].value - results[0].value == pytest.approx(19 * own[0] / 3)
    alone = learner(worlds, ALONE)
    alone.usual = torch.tensor([0.5])
    assert validate(alone).value == pytest.approx(own[0])
    assert not validate(alone).by_pair


def test_features_of_a_mixture_are_bounded_and_know_the_length() -> None:
    """The entropy of any vocabulary is below 1, and rows of other lengths differ by the length alone."""
    eligible = torch.ones(1, 8, dtype=torch.bool)
    none, figures = torch.zeros(1, 8), torch.full((1, 8), 0.5)
    view = View(
        eligible, eligible, ~eligible, ~eligible, none.long(), figures, figures, torch.full((1, 8), 11.0),
        torch.zeros(1), torch.full((1,), 8), figures.double()
    )  # fmt: skip
    settings = PolicySettings(width=8, features=("confidence", "entropy"), entropy="bounded", length=True)
    seen = observe(view, settings, torch.zeros(1))
    assert float(seen.features[..., 1].max()) == pytest.approx(11 / 12)
    assert float(observe(view, replace(settings, entropy="nats"), torch.zeros(1)).features[..., 1].max()) == 11
    short = seen._replace(present=torch.arange(8)[None] < 4)
    for length, same in ((True, False), (False, True)):
        network = PolicyNetwork(replace(settings, length=length, time=False, priced=False, positions=False))
        with torch.no_grad():  # equal positions: attention does not depend on their number
            a, b = network(seen)[0, 0], network(short)[0, 0]
        assert torch.allclose(a, b, atol=1e-6) is same


def test_passes_of_a_general_policy_need_a_table() -> None:
    table = Calibration("easy with a", None, 4, 30.0, (0.0, 1.0), (8.0, 1.0), (1.0, 0.5))
    policy = Learned(PolicyNetwork(PolicySettings(width=8)), tables=(table, replace(table, passes=(4.0, 1.0))))
    with pytest.raises(RequestError, match=r"several tasks.*table=NUMBER.*1: easy with a; 2: easy with a"):
        policy.dial_for(4)
    dials = [replace(policy, calibration=each).dial_for(4) for each in policy.tables]
    assert dials == [pytest.approx(4 / 7), 0.0]


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (("sudoku",), "write TASK=CHECKPOINT"),
        (("automaton=automaton_eos",), "in the mixture twice"),
        (tuple(f"sudoku=d{n}" for n in range(9)), "10 pairs"),
    ],
)
def test_impossible_mixtures(others: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        replace(ALONE, others=others)


def facts(run: LearnRun) -> list[str]:
    return [pair.name for pair in run.pairs]


def test_a_task_may_have_equals_signs() -> None:
    run = replace(ALONE, others=("automaton:traces=mixed=runs/eos",))
    assert facts(run) == ["automaton=automaton_eos", "automaton:traces=mixed=runs/eos"]
    assert run.pairs[1].checkpoint == "runs/eos"
