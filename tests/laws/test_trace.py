"""A trace is exact: replayed, it is the canvas after each turn and at the end the decoded text."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch

from unmask.api import Model
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.decode.rows import Snapshot
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.noise import generator
from unmask.policies.base import Decision, State, UnmaskingPolicy, View, take_best
from unmask.policies.registry import make
from unmask.process import MaskedDiffusion
from unmask.tasks.sudoku import SHAPES, drawn_as
from unmask.testing import TableDenoiser, random_language
from unmask.text.build import byte_tokenizer
from unmask.trace.events import Trace, last_events, position_texts, replay
from unmask.trace.recorder import Recorder

TOKENIZER = byte_tokenizer()
PROMPTS = ["", "é!", "to be or", "a prompt that is longer than the window", "x", "y", "z"]


@dataclass(frozen=True)
class Restless:
    """Reveals the surest position, and hides the least sure of its tokens again at every third of the first passes."""

    looks: bool = True

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        reveal = take_best(view.confidence, view.eligible, torch.ones_like(view.step))
        again = (view.step % 3 == 2) & (view.step < 30)
        remask = take_best(-view.confidence, view.erasable, again.long())
        left = (view.eligible & ~reveal).any(-1) | remask.any(-1)
        return Decision(reveal, remask=remask, done=~left), None


@dataclass(frozen=True)
class Idle:
    """Reveals two positions in every other turn and nothing in the others."""

    looks: bool = True

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return Decision(take_best(view.confidence, view.eligible, 2 * (view.step % 2))), None


POLICIES: list[Callable[[], UnmaskingPolicy]] = [
    lambda: make("random"),
    lambda: make("ancestral:steps=4"),
    lambda: make("confidence:steps=5"),
    Restless,
    Idle,
]


def model() -> Model:
    """A small network with random weights and a window of 16 bytes."""
    settings = DiTSettings(TOKENIZER.vocab_size, TOKENIZER.mask_id, max_length=16, width=16, blocks=1, heads=2)
    network = build(settings)
    draws = generator(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draws) * 0.3)
    return Model(network, MaskedDiffusion(TOKENIZER.mask_id), TOKENIZER, None, torch.device("cpu"))


MODEL = model()


@cache
def traced(policy: UnmaskingPolicy, block_size: int | None = None) -> tuple[Trace, list[list[int]], list[int]]:
    """Policy -> the trace of some texts in windows that slide, their tokens and their passes."""
    result = MODEL.generate(PROMPTS, length=20, policy=policy, block_size=block_size, seed=2, trace=True)
    assert result.trace is not None
    return result.trace, result.tokens, result.passes


@pytest.mark.parametrize("block_size", [None, 5])
@pytest.mark.parametrize("policy", POLICIES, ids=["random", "ancestral", "confidence", "restless", "idle"])
def test_replay_is_what_was_decoded(policy: Callable[[], UnmaskingPolicy], block_size: int | None) -> None:
    trace, tokens, passes = traced(policy(), block_size)
    for row, text in enumerate(tokens):
        facts = trace.header.rows[row]
        whole = replay(trace, row)
        assert whole[: facts.end] == text
        assert facts.passes == passes[row]
        assert "".join(position_texts(trace.header, text)).startswith(PROMPTS[row])


def test_what_comes_after_eos_is_recorded_but_is_no_text() -> None:
    result = MODEL.generate([""] * 24, length=40, policy="random:steps=4", seed=2, trace=True)
    assert result.trace is not None
    ends = [row.end for row in result.trace.header.rows]
    for row, (end, text) in enumerate(zip(ends, result.tokens, strict=True)):
        whole = replay(result.trace, row)
        assert (len(text), whole[: len(text)]) == (len(whole) if end is None else end, text)
        assert end is None or whole[end] == TOKENIZER.eos_id
    assert 0 < ends.count(None) < len(ends)  # some have EOS, some do not


@pytest.mark.parametrize("damage", ["drop", "token", "change", "order"])
def test_control_another_trace_is_another_text(damage: str) -> None:
    trace, tokens, _ = traced(Restless())
    at = next(n for n, event in enumerate(trace.events) if event.change == "edited" and not event.row)
    events = list(trace.events)
    if damage == "drop":
        del events[at]
    elif damage == "token":
        events[at] = replace(events[at], token=(events[at].token + 1) % 256)
    elif damage == "change":
        events[at] = replace(events[at], change="remasked")
    else:
        events.reverse()
    assert replay(replace(trace, events=tuple(events)))[: len(tokens[0])] != tokens[0]


@pytest.mark.parametrize("policy", POLICIES, ids=["random", "ancestral", "confidence", "restless", "idle"])
def test_replay_is_the_canvas_after_every_turn(policy: Callable[[], UnmaskingPolicy]) -> None:
    """Three rows, one with a prompt and one padded; the events of a turn are recorded when it is over."""
    denoiser, recorder = TableDenoiser(random_language(2, 8)), Recorder(2)
    tokens = torch.full((3, 8), 2)
    tokens[1, 2] = 1
    valid = torch.ones(3, 8, dtype=torch.bool)
    valid[2, 6:] = False
    canvas = Canvas.start(tokens, torch.tensor([3, 4, 5]), valid)
    seen: list[list[list[int]]] = []
    for canvas, step in Decoder(denoiser, policy(), 1.0, block_size=4).steps(canvas):
        recorder.record_turn(Snapshot((0, 1, 2), (0, 0, 0), (8, 8, 6), canvas, step))
        seen.append(canvas.tokens.tolist())
    texts = [row[:n] for row, n in zip(canvas.tokens.tolist(), (8, 8, 6), strict=True)]
    trace = recorder.trace(texts, str, lambda token: None)
    turns = canvas.turn.tolist()
    for row in range(3):
        assert replay(trace, row, 0) == [2 if row != 1 or at != 2 else 1 for at in range(len(texts[row]))]
        canvases = [after[row][: len(texts[row])] for after in seen]
        states = [state for n, state in enumerate(canvases) if n == 0 or state != canvases[n - 1]]
        replayed = [replay(trace, row, turn) for turn in range(1, turns[row] + 1)]
        assert [state for n, state in enumerate(replayed) if n == 0 or state != replayed[n - 1]] == states
        for at, event in last_events(trace, row).items():
            assert event.confidence == pytest.approx(float(canvas.log_prob[row, at].exp()), abs=1e-6)
        assert max(event.passes for event in trace.events if event.row == row) == int(canvas.passes[row])


def test_changes_are_labelled() -> None:
    restless, _, _ = traced(Restless())
    assert {event.change for event in restless.events} == {"committed", "edited", "remasked"}
    previous: dict[tuple[int, int], int] = {}
    for event in restless.events:
        cell = (event.row, event.position)
        if event.change == "remasked":
            assert previous[cell] == event.token
        else:
            assert (event.change == "edited") == (previous.get(cell, event.token) != event.token)
        previous[cell] = event.token
    idle, _, _ = traced(Idle())
    assert {event.change for event in idle.events} == {"committed", "rescued"}
    assert all((event.change == "rescued") == (event.passes % 2 == 1) for event in idle.events if event.block == 0)


def test_edited_text_is_distinguished_from_text_that_stays() -> None:
    denoiser = TableDenoiser(random_language(2, 8))
    canvas = Canvas.start(torch.full((1, 8), 2), torch.tensor([1]))
    done = Decoder(denoiser, make("left-to-right")).decode(canvas).tokens[0].tolist()
    recorder = Recorder(2, {0: done[0], 1: 1 - done[1]})
    for after, step in Decoder(denoiser, make("left-to-right")).steps(canvas):
        recorder.record_turn(Snapshot((0,), (0,), (8,), after, step))
    assert [event.change for event in recorder.events] == ["committed", "edited", *["committed"] * 6]
    assert recorder.trace([done], str, lambda token: None).header.rows[0].held == {0: done[0], 1: 1 - done[1]}


@pytest.mark.parametrize("policy", ["left-to-right", "confidence"])  # one decides before the pass, one after it
def test_alternatives_are_the_model_s_own_and_change_nothing(policy: str) -> None:
    denoiser, recorder = TableDenoiser(random_language(4, 5)), Recorder(4)
    canvas = Canvas.start(torch.full((1, 5), 4), torch.tensor([1]))
    plain = Decoder(denoiser, make(policy), 1.0).decode(canvas)
    before = canvas
    for canvas, step in Decoder(denoiser, make(policy), 1.0, alternatives=3).steps(canvas):
        (event,) = recorder.record_turn(Snapshot((0,), (0,), (5,), canvas, step))
        best = denoiser.hidden(before.tokens)[0, event.position].exp().topk(3)
        assert [token for token, _ in event.alternatives] == best.indices.tolist()
        assert [p for _, p in event.alternatives] == pytest.approx(best.values.tolist(), rel=1e-5)
        assert dict(event.alternatives).get(event.token, event.confidence) == event.confidence
        before = canvas
    assert torch.equal(plain.tokens, canvas.tokens)


@pytest.mark.parametrize(
    "source, columns",
    [
        ("task:sudoku", 6),
        ("task:sudoku@200", 6),
        ("task:sudoku:clues=2@200", 6),
        ("task:sudoku:side=9@200", 9),
        ("task:sudoku:clues=2,side=4", 4),
        ("task:sudokus:side=4", None),
        ("sudoku.txt", None),
        ("None", None),
    ],
)
def test_what_a_sudoku_model_writes_is_drawn_as_a_grid(source: str, columns: int | None) -> None:
    assert drawn_as(source) == ({} if columns is None else {"columns": columns, "box": SHAPES[columns]})


def test_the_trace_has_the_length_that_was_chosen() -> None:
    result = MODEL.fill("a[1-4]b[=xy]", count=3, seed=1, draws=2, trace=True)
    assert result.trace is not None
    lengths = [len(attempts[0].tokens) for attempts in result.attempts]
    for row, (text, facts) in enumerate(zip(result.tokens, result.trace.header.rows, strict=True)):
        assert replay(result.trace, row) == text
        assert (len(facts.start), facts.end, facts.passes) == (lengths[row], None, result.passes[row])
    assert {event.row for event in result.trace.events} == {0, 1, 2}


def test_rewritten_words_are_edited_events() -> None:
    result = MODEL.fill("ab[=cd]e[2]", constraint=MODEL.only("xy"), trace=True)
    assert result.trace is not None
    changes = {event.position: event.change for event in result.trace.events}
    assert changes == {2: "edited", 3: "edited", 5: "committed", 6: "committed"}
    assert result.trace.header.rows[0].held == {2: ord("c"), 3: ord("d")}
    same = MODEL.fill("ab[=xx]", constraint=MODEL.only("x"), trace=True).trace
    assert same is not None
    assert {event.change for event in same.events} == {"committed"}  # the old words again
