"""Rules that run candidate canvases: self-speculation keeps the text of its rule, information gain equals its twin."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.batch import ceil_div
from unmask.decode.canvas import Canvas
from unmask.decode.constraint import Vocabulary
from unmask.decode.loop import Decoder
from unmask.errors import PluginError, RequestError
from unmask.model.cache import cached
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.noise import POLICY, uniform
from unmask.policies import lookahead
from unmask.policies.base import Decision, Needs, State, View
from unmask.policies.options import Context
from unmask.policies.registry import make
from unmask.testing import TableDenoiser, check_policy, random_language

V, L, ROWS = 3, 7, 24
MODEL = TableDenoiser(random_language(V, L, seed=3, sharpness=1.5))
RULES = [
    *("confidence", "margin", "entropy", "left-to-right", "best-confidence", "confidence:steps=3"),
    *("margin:steps=4,pace=cosine", "threshold:threshold=0.6", "entropy-threshold:threshold=0.6", "factor:factor=1.5"),
    *("entropy-bound:gamma=0.5", "prefix:threshold=0.5", "frechet:delta=-0.2", "hierarchy:threshold=0.7"),
    *("local-leap:threshold=0.7,near=0.5,radius=1", "early-stop:early=3,middle=2,late=1 over confidence", "pc"),
    "adas:steps=3,alpha=1",
]


def start(rows: int = ROWS) -> Canvas:
    """Rows with some tokens, and empty ones."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.rand(rows, L, generator=generator) < torch.linspace(0.5, 1.1, rows)[:, None]
    hidden[:, 1] = True
    tokens = torch.randint(V, (rows, L), generator=generator)
    return Canvas.start(torch.where(hidden, V, tokens), torch.arange(rows))


def decoded(text: str, block_size: int | None = None, **options: Any) -> Canvas:
    rule = make(text, Context(unigram=lambda: torch.tensor([0.5, 0.3, 0.2, 0.0])))
    return Decoder(MODEL, rule, block_size=block_size, **options).decode(start())


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("drafts", [1, 2, 4])
@pytest.mark.parametrize("rule", RULES)
def test_self_speculation_writes_what_its_rule_writes(rule: str, drafts: int, block_size: int | None) -> None:
    """The same tokens, in at most as many passes, each of at most `drafts` canvases."""
    plain, fast = decoded(rule, block_size), decoded(f"freedave:drafts={drafts} over {rule}", block_size)
    assert torch.equal(plain.tokens, fast.tokens)
    assert (fast.passes <= plain.passes).all()
    assert (fast.row_passes >= fast.passes).all()
    assert (fast.row_passes <= drafts * fast.passes).all()
    assert torch.equal(plain.row_passes, plain.passes)
    if drafts == 1:
        assert torch.equal(fast.passes, plain.passes)


def unlike_the_left(tokens: Tensor, where: Tensor) -> Tensor:
    """A constraint that goes by the canvas: a token is not that of its left neighbour."""
    return (torch.arange(11) != F.pad(tokens, (1, 0), value=-1)[:, :-1, None])[where]


@pytest.mark.parametrize("rule", ["confidence", "threshold:threshold=0.5", "adas:steps=9,alpha=3"])
def test_of_a_network_with_padded_rows_and_constraints_too(rule: str) -> None:
    """Rows of several lengths, each with a constraint of its own, in blocks; alone a row is the same in every bit."""
    network = build(DiTSettings(11, 10, 32, 32, 2, 2), 0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_((0.3 if value.ndim > 1 else 0.5) * torch.randn(value.shape, generator=generator))
    valid = torch.arange(32) < torch.tensor([32, 21, 26, 32])[:, None]
    prompt = torch.arange(32) < torch.tensor([0, 3, 11, 5])[:, None]
    tokens = torch.randint(10, (4, 32), generator=generator).masked_fill(valid & ~prompt, 10)
    canvas = Canvas.start(tokens, torch.arange(4), valid, constraint=torch.tensor([0, 1, 2, 1]))
    rules = (None, unlike_the_left, Vocabulary(torch.arange(11) % 2 == 0))
    for size in (None, 7):
        plain = Decoder(network, make(rule), block_size=size, constraints=rules).decode(canvas)
        drafting = Decoder(network, make(f"freedave:drafts=3 over {rule}"), block_size=size, constraints=rules)
        fast, alone = drafting.decode(canvas), drafting.decode(canvas.keep(torch.tensor([2])))
        assert torch.equal(plain.tokens, fast.tokens)
        assert len(plain.tokens[valid & ~prompt].unique()) > 3  # a text in which drafts can be wrong
        assert fast.passes.sum() < plain.passes.sum()
        assert all(torch.equal(getattr(alone, f)[0], getattr(fast, f)[2]) for f in ("tokens", "passes", "row_passes"))


@pytest.mark.parametrize("rule", ["confidence", "left-to-right", "entropy-bound:gamma=0.2"])
def test_it_saves_passes(rule: str) -> None:
    plain, fast = decoded(rule), decoded(f"freedave over {rule}")
    assert fast.passes.sum() < 0.9 * plain.passes.sum()


def test_control_drafts_that_are_not_checked_write_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookahead, "_equals", lambda draft, *_: draft.eligible.any(-1))
    assert not torch.equal(decoded("confidence").tokens, decoded("freedave over confidence").tokens)


def test_the_end_of_a_row_is_kept() -> None:
    """Up to the first end token the text is that of the rule; behind it nothing is wanted."""
    plain, fast = decoded("left-to-right", end_id=0), decoded("freedave over left-to-right", end_id=0)
    for a, b, row in zip(plain.tokens.tolist(), fast.tokens.tolist(), start().tokens.tolist(), strict=True):
        ends = [i for i, token in enumerate(a) if token == 0 and row[i] == V]
        assert a[: ends[0] + 1 if ends else L] == b[: ends[0] + 1 if ends else L]


@pytest.mark.parametrize("block_size", [None, 4])
@pytest.mark.parametrize("rule", ["confidence", "threshold:threshold=0.7", "prefix:threshold=0.6"])
def test_it_keeps_the_contract(rule: str, block_size: int | None) -> None:
    check_policy(lambda: make(f"freedave over {rule}"), block_size=block_size)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("freedave over random", r"around TopK\(score=random, steps=None, pace=linear\): it draws random numbers"),
        ("freedave over remdm", "ends its blocks itself"),
        ("freedave over p2", "ends its blocks itself"),
        ("freedave over dream:steps=4,alg_temp=0.5", "it draws random numbers"),
        ("freedave over learned:from=sudoku", "reads the features of written tokens"),
        ("freedave over early-stop over learned:from=sudoku", "reads the features of written tokens"),
        ("freedave:drafts=0 over confidence", "drafts is 0"),
        ("freedave:depth=2 over confidence", "has no option 'depth'"),
        ("freedave", "wraps a policy"),
        ("confidence or info-gain", "cannot be"),
        ("early-stop over info-gain", "cannot be"),
    ],
)
def test_what_cannot_be_drafted_is_refused(text: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        make(text)


@pytest.mark.parametrize("rule", ["klass", "credit", "dream:steps=4", "early-stop over klass"])
def test_memory_shows_itself_at_the_first_pass(rule: str) -> None:
    with pytest.raises(RequestError, match="remembers earlier passes, which drafts do not have"):
        decoded(f"freedave over {rule}")


class Eager:
    """Picks a candidate, whether or not there is one."""

    looks = True
    needs = Needs(ahead=True)

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return Decision(view.eligible, picked=torch.full_like(view.step, self.number)), None


@pytest.mark.parametrize("number", [1, 9])
def test_a_candidate_that_was_not_run_is_refused(number: int) -> None:
    with pytest.raises(PluginError, match=r"picked a candidate that was not run; a policy picks among view.ahead\."):
        Decoder(MODEL, Eager(number)).decode(start())
    Decoder(MODEL, Eager(0)).decode(start())  # the control


def test_a_temperature_and_a_cache_are_refused() -> None:
    with pytest.raises(RequestError, match="set the temperature to 0"):
        decoded("freedave over confidence", temperature=1.0)
    network = build(DiTSettings(9, 8, 32, 16, 1, 2), 0)
    with pytest.raises(RequestError, match="reads predictions for candidate canvases, and a cache computes none"):
        Decoder(cached(network, "dual"), make("freedave over confidence"))


class Soft(TableDenoiser):
    """It says that it has soft masks."""

    soft = 3


def test_soft_masks_are_refused() -> None:
    with pytest.raises(RequestError, match="runs candidate canvases, for which there is no feedback"):
        Decoder(Soft(MODEL.joint), make("info-gain"))


# ---- information gain ----------------------------------------------------------------------------------------------


def slow_gain(row: list[int], seed: int, steps: int | None, actions: int, spread: float) -> tuple[list[int], int, int]:
    """One row, greedy: tokens, passes and canvases run."""
    tokens, holes = list(row), row.count(V)
    steps = min(steps or holes, holes)
    known: list[list[float]] | None = None  # the predictions for the canvas, where an action was this canvas
    passes = canvases = taken = 0
    while V in tokens:
        if known is None:
            known, passes, canvases = predict(tokens), passes + 1, canvases + 1
        noise = uniform(torch.tensor([seed]), torch.tensor([passes - 1]), torch.arange(L), POLICY).tolist()
        left = [i for i in range(L) if tokens[i] == V]
        size = ceil_div(holes * (taken + 1), steps) - (holes - len(left))
        size = max(1, min(size, len(left) - (steps - taken - 1)))
        sets: list[list[int]] = []
        for c in range(actions):
            scores = {i: slow_score(max(known[i]), (noise[i] + c * 0.6180339887498949) % 1, spread, c) for i in left}
            sets.append(sorted(sorted(left, key=lambda i, of=scores: (-of[i], i))[:size]))
        first, best_tokens = sets[0], [law.index(max(law)) for law in known]
        if len(left) <= size or min(max(known[i]) for i in left) >= 0.9:
            for i in first:
                tokens[i] = best_tokens[i]
            known, taken = None, taken + 1
            continue
        different = [s for n, s in enumerate(sets) if s not in sets[:n]]
        passes, canvases = passes + 1, canvases + len(different)
        best: tuple[float, list[int], list[list[float]]] | None = None
        for action in different:
            after = list(tokens)
            for i in action:
                after[i] = best_tokens[i]
            answer = predict(after)
            rest = [entropy(answer[i]) for i in range(L) if after[i] == V]
            gain = -sum(entropy(known[i]) for i in action) - sum(rest) / len(rest)
            if best is None or gain > best[0] + 1e-9:
                best = gain, after, answer
        assert best is not None
        _, tokens, known = best
        taken += 1
    return tokens, passes, canvases


def slow_score(sure: float, u: float, spread: float, action: int) -> float:
    return sure if action == 0 else sure / spread - math.log(-math.log(u))


def entropy(law: list[float]) -> float:
    return -sum(p * math.log(p) for p in law if p > 0)


def predict(tokens: list[int]) -> list[list[float]]:
    return MODEL.hidden(torch.tensor([tokens]))[0].exp().tolist()


@pytest.mark.parametrize(("steps", "actions", "spread"), [(None, 8, 0.1), (3, 4, 0.3), (2, 1, 0.1)])
def test_information_gain_equals_its_slow_twin(steps: int | None, actions: int, spread: float) -> None:
    text = f"info-gain:steps={steps or 'inf'},actions={actions},spread={spread}"
    done = decoded(text)
    fast = list(zip(done.tokens.tolist(), done.passes.tolist(), done.row_passes.tolist(), strict=True))
    slow = [slow_gain(row, seed, steps, actions, spread) for seed, row in enumerate(start().tokens.tolist())]
    assert fast == slow
    control = [slow_gain(row, seed, steps, actions + 1, spread) for seed, row in enumerate(start().tokens.tolist())]
    assert fast != control


def test_one_action_is_the_rule_by_confidence() -> None:
    assert torch.equal(decoded("info-gain:steps=3,actions=1").tokens, decoded("confidence:steps=3").tokens)


# ---- WINO ----------------------------------------------------------------------------------------------------------


def slow_wino(row: list[int], draft: float, verify: float, most: int) -> tuple[list[int], int, int]:
    """One row, greedy: tokens, passes and canvases run."""
    tokens, drafted = list(row), list[int]()
    passes, canvases, written = 0, 0, dict[int, int]()
    again = True  # whether the canvas is not the last one that was run
    while True:
        passes, canvases = passes + 1, canvases + (again or not drafted)
        hidden: list[int] = []
        if drafted:
            for i in drafted:
                tokens[i] = written[i]
            canvases += len(drafted) + 1
            proof = {
                i: predict([V if n == i else token for n, token in enumerate(tokens)])[i][tokens[i]] for i in drafted
            }
            weak = sorted((i for i in drafted if proof[i] < verify), key=lambda i, of=proof: (of[i], i))
            hidden = weak[: len(drafted) - 1]
        laws = predict(tokens)
        masked = [i for i in range(L) if tokens[i] == V]
        for i in hidden:
            tokens[i] = V
        if not masked and not hidden:
            return tokens, passes, canvases
        order = sorted(masked, key=lambda i: (-max(laws[i]), i))
        sure = [i for i in order if max(laws[i]) > draft][: min(max(7 * len(masked) // 10, 5), most)] or order[:1]
        written = {i: laws[i].index(max(laws[i])) for i in sure}
        drafted = sorted(sure) if len(sure) > 1 else []
        again = bool(hidden)
        if len(sure) == 1:
            tokens[sure[0]] = written[sure[0]]
            if V not in tokens:
                return tokens, passes, canvases


@pytest.mark.parametrize(("draft", "verify", "most"), [(0.5, 0.7, 20), (0.4, 0.9, 3), (0.7, 0.5, 20)])
def test_wino_equals_its_slow_twin(draft: float, verify: float, most: int) -> None:
    done = decoded(f"wino:draft={draft},verify={verify},most={most}")
    fast = list(zip(done.tokens.tolist(), done.passes.tolist(), done.row_passes.tolist(), strict=True))
    slow = [slow_wino(row, draft, verify, most) for row in start().tokens.tolist()]
    assert fast == slow
    control = [slow_wino(row, draft, 0.0, most) for row in start().tokens.tolist()]
    assert draft > 0.6 or fast != control  # the control: without verification; with sure drafts it hides nothing
