"""Every named policy keeps the contract; and `check_policy` notices each way of breaking it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.errors import ArgumentError, ConfigError, PluginError, RequestError
from unmask.policies.base import Decision, Needs, State, UnmaskingPolicy, View, take_best
from unmask.policies.early_stop import EarlyStop
from unmask.policies.entries import ENTRIES
from unmask.policies.lookahead import FreeDave
from unmask.policies.options import Context
from unmask.policies.or_else import OrElse
from unmask.policies.registry import make, names
from unmask.policies.top_k import SCORES, TopK, left_to_right
from unmask.testing import TableDenoiser, check_policy, check_task, random_language

CONTEXT = Context(unigram=lambda: torch.tensor([0.7, 0.3, 0.0]))
PACED = [name for name, entry in ENTRIES.items() if "steps" in entry.options]
TEXTS = [
    *(name for name, entry in ENTRIES.items() if not entry.needs_folder and name != "remdm"),
    pytest.param("remdm", marks=pytest.mark.slow),  # of 128 steps
    *(f"{name}:steps=3" for name in PACED),
    "ancestral:steps=5,schedule=cosine",
    *(f"remdm:steps=12,kind={variant},eta=0.3" for variant in ("cap", "rescale", "conf", "loop")),
    *(f"entropy-bound:gamma=0.4,order={order}" for order in ("confidence", "margin")),
    "klass:kl=0.5,threshold=0.4,history=1",
    "credit:threshold=0.6,decay=0.5,weight=2",
    "hierarchy:threshold=0.6",
    "saber:least=4",
    "local-leap:threshold=0.7,near=0.5,radius=1",
    "klass:kl=0.5,threshold=0.4 or confidence:steps=3",
    "early-stop over random",
    "early-stop:early=1,middle=0.5,late=0.2 over klass:kl=0.5,threshold=0.4",
    "prefix:threshold=0.6 or left-to-right",
]


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("text", TEXTS)
def test_every_named_policy_keeps_the_contract(text: str, temperature: float, block_size: int | None) -> None:
    check_policy(lambda: make(text, CONTEXT), temperature=temperature, block_size=block_size)


NESTED = [
    name
    for name, entry in ENTRIES.items()
    if entry.nested and entry.knob and entry.knob.values and not entry.needs_folder
]


@pytest.mark.parametrize("name", NESTED)
def test_a_stricter_knob_reveals_a_subset(name: str) -> None:
    """On one View, for every adjacent pair of the values of a sweep; and the knob has an effect."""
    knob = ENTRIES[name].knob
    assert knob is not None
    settings = [make(f"{name}:{knob.option}={value}", CONTEXT) for value in knob.values]
    sizes: set[int] = set()
    for seed in range(20):
        view = random_view(seed)
        states: list[State] = [None] * len(settings)
        for _ in range(3):
            states = [rule(view, state)[1] for rule, state in zip(settings, states, strict=True)]
        reveals = [rule(view, state)[0].reveal for rule, state in zip(settings, states, strict=True)]
        assert all(not (strict & ~loose).any() for loose, strict in pairwise(reveals))
        assert not (reveals[0] & ~view.eligible).any()
        sizes |= {int(reveal.sum()) for reveal in reveals}
    assert len(sizes) > 2  # the control: the knob has an effect


def test_random_numbers_of_positions_are_not_nested() -> None:
    """The control of the law above: a fixed number of positions by a new random score is not nested."""
    view = random_view(0)
    loose = take_best(view.noise, view.eligible, torch.tensor([3]))
    strict = take_best(-view.noise, view.eligible, torch.tensor([2]))
    assert (strict & ~loose).any()


def random_view(seed: int) -> View:
    """One row of eight positions, six of them eligible, from a sharp random distribution over five tokens."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = (6 * torch.randn(1, 8, 5, generator=generator)).log_softmax(-1)
    best = log_probs.exp().topk(2, -1).values
    eligible = torch.tensor([[False, True, True, True, True, True, True, False]])
    return replace(
        blank_view(eligible),
        proposal=log_probs.argmax(-1),
        confidence=best[..., 0],
        margin=best[..., 0] - best[..., 1],
        entropy=-(log_probs.exp() * log_probs).sum(-1),
        step=torch.tensor([3]),
        top=best,
        log_probs=log_probs,
    )


@dataclass
class Broken:
    """A correct policy, of which each subclass breaks one rule."""

    looks: bool = False
    calls: int = 0

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return Decision(take_best(view.noise, view.eligible, torch.ones_like(view.step))), None


class Overreaching(Broken):
    """Reveals masked positions of later blocks too."""

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return Decision(view.masked), None


class Rewriting(Broken):
    """Reveals everything, prompts included."""

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return Decision(torch.ones_like(view.eligible)), None


class Crowded(Broken):
    """Depends on the other rows."""

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return Decision(view.eligible & (view.noise >= view.noise.median())), None


class Gambling(Broken):
    """Draws from torch's global generator."""

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return Decision(take_best(torch.rand(view.noise.shape), view.eligible, torch.ones_like(view.step))), None


class Remembering(Broken):
    """Has a memory of its own instead of the state."""

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        self.calls += 1
        return Decision(take_best(view.noise, view.eligible, torch.full_like(view.step, 1 + self.calls % 2))), None


class Holding(Broken):
    """Uses the state of another row for a row that starts."""

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        order = view.noise if state is None else state
        return Decision(take_best(order, view.eligible, torch.ones_like(view.step))), order


class Scribbling(Broken):
    """Writes into its view."""

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        view.step.add_(1)
        return super().__call__(view, state)


class Counting(Broken):
    """Returns numbers instead of booleans."""

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        decision, state = super().__call__(view, state)
        return replace_reveal(decision, decision.reveal.long()), state


class Timeless(Broken):
    """Returns a time outside of (0, 1]."""

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        decision, state = super().__call__(view, state)
        return decision._replace(time=torch.zeros(len(view.step))), state


def replace_reveal(decision: Decision, reveal: Any) -> Decision:
    return decision._replace(reveal=reveal)


class Alone(Broken):
    """Returns its decision without the state."""

    def __call__(self, view: View, state: State) -> Any:
        return super().__call__(view, state)[0]


CONTROLS: list[tuple[Callable[[], UnmaskingPolicy], str]] = [
    (Overreaching, "revealed positions that were not eligible"),
    (Rewriting, "revealed positions that were not eligible"),
    (Crowded, "writes a row differently when it is alone"),
    (Gambling, "does not give the same text for the same seed"),
    (Remembering, "does not go on as before when it is resumed"),
    (Holding, "writes a row differently when it joins others midway"),
    (Scribbling, "changed view.step"),
    (Counting, "it has to be a bool for each position"),
    (Timeless, "it lies in (0, 1]"),
    (Alone, "it returned Decision; return a pair"),
]


def test_the_control_of_the_controls() -> None:
    check_policy(Broken, block_size=4)


@pytest.mark.parametrize("policy, sentence", CONTROLS, ids=[c[0].__name__ for c in CONTROLS])  # pyright: ignore
def test_each_way_of_breaking_it_is_noticed(policy: Callable[[], UnmaskingPolicy], sentence: str) -> None:
    with pytest.raises(PluginError) as caught:
        check_policy(policy, block_size=4, temperature=1.0)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plain_function_is_a_policy() -> None:
    def everything(view: View, state: State) -> tuple[Decision, State]:
        return Decision(view.eligible), state

    policy: Any = everything
    check_policy(lambda: policy)
    check_policy(lambda: OrElse(policy, policy), block_size=4)


@pytest.mark.parametrize("check", [check_policy, check_task])
def test_an_object_is_not_what_makes_one(check: Callable[[Any], None]) -> None:
    with pytest.raises(ArgumentError, match="give a class, or a function that returns a"):
        check(Broken())
    with pytest.raises(ArgumentError, match="is 5; give a class"):
        check(5)


@dataclass
class Erasing:
    """From left to right; hides the first written token again once, if `hides`, as a trained network may."""

    hides: bool = True
    looks: bool = True
    needs: Needs = Needs(noise=False)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        reveal = take_best(left_to_right(view), view.eligible, torch.ones_like(view.step))
        if not self.hides:
            return Decision(reveal), None
        remask = take_best(left_to_right(view), view.erasable, (view.step == 1).long())
        return Decision(reveal, remask=remask, done=~(view.eligible & ~reveal).any(-1) & ~remask.any(-1)), None


@pytest.mark.parametrize(
    "wrap", [lambda p: OrElse(p, TopK()), lambda p: OrElse(TopK(), p), lambda p: EarlyStop(p, 0, 0, 0), FreeDave]
)
def test_a_wrapper_refuses_what_it_cannot_keep(wrap: Callable[[UnmaskingPolicy], UnmaskingPolicy]) -> None:
    """Early stop around it did not end; the others lost what it hides."""
    table, canvas = TableDenoiser(random_language(2, 5)), Canvas.start(torch.full((3, 5), 2), torch.arange(3))
    with pytest.raises(RequestError, match=r"cannot go with .* choose a policy that only reveals"):
        Decoder(table, wrap(Erasing())).decode(canvas)
    Decoder(table, wrap(Erasing(hides=False))).decode(canvas)  # the controls
    assert int(Decoder(table, Erasing()).decode(canvas).passes.max()) == 6


class Idle(Broken):
    """Never reveals a position: the loop reveals one, and decoding ends."""

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return Decision(torch.zeros_like(view.eligible)), None


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("block_size", [None, 4])
def test_an_idle_policy_is_rescued(looks: bool, block_size: int | None) -> None:
    check_policy(lambda: Idle(looks), block_size=block_size, temperature=1.0)


@pytest.mark.parametrize("name", SCORES)
def test_steps_are_the_passes_of_a_block(name: str) -> None:
    """`steps=3` of a TopK spends three passes on eight positions, with 3 + 3 + 2 reveals, and never an empty one."""
    policy = make(f"{name}:steps=3")
    eligible, counts = torch.ones(1, 8, dtype=torch.bool), []
    view = blank_view(eligible)
    for step in range(3):
        reveal = policy(replace(view, step=torch.tensor([step])), None)[0].reveal
        counts.append(int(reveal.sum()))
        view = replace(view, eligible=view.eligible & ~reveal)
    assert counts == [3, 3, 2]
    assert not view.eligible.any()


@pytest.mark.parametrize("total", range(1, 12))
@pytest.mark.parametrize("steps", [None, 1, 2, 5, 20])
def test_the_last_pass_reveals_the_rest(total: int, steps: int | None) -> None:
    policy = TopK(steps=steps)
    view = blank_view(torch.ones(1, total, dtype=torch.bool))
    for step in range(min(steps or total, total)):
        reveal = policy(replace(view, step=torch.tensor([step])), None)[0].reveal
        assert reveal.any()
        view = replace(view, eligible=view.eligible & ~reveal)
    assert not view.eligible.any()


def blank_view(eligible: torch.Tensor) -> View:
    numbers = torch.linspace(0.1, 0.9, eligible.shape[1]).double()[None]
    return View(
        eligible=eligible,
        masked=eligible,
        written=~eligible,
        erasable=torch.zeros_like(eligible),
        proposal=torch.zeros_like(eligible, dtype=torch.int64),
        confidence=numbers,
        margin=numbers,
        entropy=numbers,
        step=torch.tensor([0]),
        total=eligible.sum(-1),
        noise=numbers,
        top=numbers[..., None],
    )


def test_take_best_takes_the_best_and_of_equal_scores_the_left() -> None:
    score = torch.tensor([[0.1, 0.9, 0.9, 0.5], [0.5, 0.5, 0.5, 0.5]])
    eligible = torch.tensor([[True, True, True, True], [False, True, True, True]])
    taken = take_best(score, eligible, torch.tensor([1, 2]))
    assert taken.tolist() == [[False, True, False, False], [False, True, True, False]]


def test_every_name_has_a_line() -> None:
    assert all(line and "\n" not in line for line in names().values())
    with pytest.raises(RequestError):
        make("no-such-policy")


def test_a_table_refuses_a_joint_that_is_no_distribution() -> None:
    with pytest.raises(ConfigError, match="give probabilities of at least 0 that sum to 1"):
        TableDenoiser(torch.ones(2, 2))
    with pytest.raises(ConfigError, match="cannot be made a table"):
        TableDenoiser(random_language(2, 2).expand(3, 2, 2))
