"""Texts longer than the window: every token written once, in context, prompts verbatim, up to EOS."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.decode.rows import Snapshot, Written, decode_rows, run_to_end, slide
from unmask.errors import RequestError
from unmask.model.cache import cached
from unmask.model.dit import DiT
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.registry import make

MASK, PAD, EOS, BASE = 20, 21, 19, 10
DEVICE = torch.device("cpu")


@dataclass(slots=True)
class Counter:
    """Writes n + 1 modulo `BASE` after n, or EOS after `last`; where the left neighbour is MASK it guesses 0."""

    last: int | None = None
    vocab_size: int = 22
    mask_id: int = MASK
    max_length: int | None = None
    time_conditioned: bool = False

    def hidden(
        self,
        tokens: Tensor,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        positions: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> Tensor:
        assert valid is None or not bool((tokens[valid] == PAD).any())
        before = torch.nn.functional.pad(tokens, (1, -1), value=BASE - 1)
        after = torch.where(before < BASE, (before + 1) % BASE, 0)
        if self.last is not None:
            after = torch.where(before == self.last, EOS, after)
        return torch.nn.functional.one_hot(after, self.vocab_size).float() * 30

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


def run(
    prompts: Sequence[Sequence[int]],
    new: Sequence[int],
    *,
    window: int = 16,
    stride: int = 8,
    last: int | None = None,
    policy: str = "left-to-right",
    batch: int = 32,
    watch: Callable[[Snapshot], None] = lambda snapshot: None,
) -> list[Written]:
    decoder = Decoder(Counter(last), make(policy))
    stream = slide(
        decoder, prompts, new, [7 + 3 * len(p) + n for p, n in zip(prompts, new, strict=True)], window=window,
        stride=stride, pad_id=PAD, eos_id=EOS, batch=batch, device=torch.device("cpu"),
    )  # fmt: skip
    while True:
        try:
            watch(next(stream))
        except StopIteration as end:
            return end.value


def count_on(start: int, length: int) -> list[int]:
    return [(start + k) % BASE for k in range(length)]


@pytest.mark.parametrize("window, stride", [(16, 8), (16, 1), (16, 15), (10, 3), (24, 12)])
@pytest.mark.parametrize("before", [1, 5, 9, 16, 40])
@pytest.mark.parametrize("new", [1, 7, 50])
def test_the_text_goes_on_from_the_prompt(window: int, stride: int, before: int, new: int) -> None:
    """A counting model sees one token back: any gap, overlap or lost context breaks the sequence."""
    prompt = count_on(3, before)
    (text,) = run([prompt], [new], window=window, stride=stride)
    assert text.tokens == count_on(3, before + new)
    assert (text.prompt, text.passes, len(text.log_probs)) == (before, new, new)
    assert max(text.log_probs) <= 0
    assert min(text.log_probs) > -1e-6


def test_control_no_overlap_loses_the_context() -> None:
    (text,) = run([count_on(3, 4)], [40], stride=16)
    assert text.tokens[:16] == count_on(3, 16)
    assert text.tokens != count_on(3, 44)


@pytest.mark.parametrize("policy", ["random", "left-to-right", "ancestral:steps=4", "confidence:steps=3"])
@pytest.mark.parametrize("new", [1, 12, 13, 37])
def test_the_length_is_what_was_asked_for(policy: str, new: int) -> None:
    prompts = [[], [1, 2, 3], count_on(0, 30)]
    for text, prompt in zip(run(prompts, [new] * 3, policy=policy), prompts, strict=True):
        assert text.tokens[: len(prompt)] == list(prompt)
        assert len(text.tokens) == len(prompt) + new
        assert MASK not in text.tokens
        assert PAD not in text.tokens
        assert not text.stopped


@pytest.mark.parametrize("last, new", [(6, 60), (6, 3), (2, 60)])
def test_it_stops_at_the_end_of_the_text(last: int, new: int) -> None:
    """EOS itself is not part of the text."""
    (text,) = run([[4, 5]] if last == 6 else [[8, 9, 0]], [new], last=last)
    assert text.stopped
    assert text.tokens[-1] == last
    assert EOS not in text.tokens
    assert len(text.log_probs) == len(text.tokens) - text.prompt


POLICIES = ["left-to-right", "random", "confidence:steps=6", "ancestral:steps=9", "threshold:threshold=0.9", "remdm"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("block_size", [None, 5])
def test_an_ended_row_needs_no_more_passes(policy: str, block_size: int | None) -> None:
    """The text up to EOS is that of a row that is written to its end; some rows need fewer passes, none needs more."""
    model = build(DiTSettings(22, MASK, 48, 32, 1, 2), seed=3).eval()
    torch.nn.init.zeros_(model.head.weight)  # every token is as likely as the others, EOS among them
    tokens = torch.full((12, 48), MASK).index_fill(1, torch.arange(3), 4)
    canvas = Canvas.start(tokens, torch.arange(12))
    whole = Decoder(model, make(policy), 1.0, block_size=block_size)
    every, ended = whole.decode(canvas), replace(whole, end_id=EOS).decode(canvas)
    for line in range(12):
        end = every.tokens[line].tolist().index(EOS) + 1 if EOS in every.tokens[line] else 48
        assert torch.equal(ended.tokens[line, :end], every.tokens[line, :end])
        assert torch.equal(ended.log_prob[line, 3:end], every.log_prob[line, 3:end])
    assert bool((ended.passes <= every.passes).all())
    changes = policy != "remdm" or block_size is not None  # it is not done before the last pass of a block
    assert bool((ended.passes < every.passes).any()) == changes
    assert bool((ended.tokens == MASK).any()) == changes
    alone = replace(whole, end_id=EOS).decode(canvas.keep(torch.tensor([5])))
    assert torch.equal(alone.tokens[0], ended.tokens[5])
    assert int(alone.passes[0]) == int(ended.passes[5])


def test_a_stopped_row_leaves_and_the_others_go_on() -> None:
    ended, going = run([[7, 8], [0] * 3], [60, 60], last=8, policy="left-to-right")
    assert ended.stopped
    assert ended.tokens == [7, 8]
    assert going.stopped
    assert going.tokens == [0, 0, *count_on(0, 9)]


@pytest.mark.parametrize("policy", ["random", "ancestral:steps=5", "confidence:steps=4"])
def test_ragged_rows_are_what_they_are_alone(policy: str) -> None:
    prompts = [[], [1], count_on(2, 14), count_on(0, 15), count_on(5, 33), [9, 9]]
    new = [30, 3, 30, 17, 20, 1]
    together = run(prompts, new, policy=policy)
    assert run(prompts, new, policy=policy, batch=2) == together
    for prompt, count, text in zip(prompts, new, together, strict=True):
        assert run([prompt], [count], policy=policy) == [text]


def test_snapshots_show_each_token_written_once() -> None:
    written: dict[tuple[int, int], int] = {}

    def watch(snapshot: Snapshot) -> None:
        for line, group_line in enumerate(snapshot.step.rows.tolist()):
            row, start = snapshot.rows[group_line], snapshot.starts[group_line]
            for place in snapshot.step.revealed[line].nonzero().flatten().tolist():
                assert place < snapshot.lengths[group_line]
                assert (row, start + place) not in written
                written[row, start + place] = int(snapshot.canvas.tokens[group_line, place])

    texts = run([[1, 2], count_on(0, 20)], [40, 25], policy="random", watch=watch)
    assert len(written) == 65
    for (row, place), token in written.items():
        assert texts[row].tokens[place] == token


@pytest.mark.parametrize("cache", [None, "dual"])
def test_padding_behind_learned_positions(cache: str | None) -> None:
    """Rows are padded to a multiple of 16, which learned positions need not be: what stands there changes nothing."""
    short, long = (build(DiTSettings(22, MASK, length, 16, 2, 2, absolute=True)).eval() for length in (36, 48))
    with torch.no_grad():
        for name, value in short.named_parameters():
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))))
        parameters = short.state_dict()
        parameters["places.weight"] = torch.cat([parameters["places.weight"], torch.full((12, 16), 7.0)])
        long.load_state_dict(parameters)
    rows = [[MASK] * 36, [3] * 20 + [MASK] * 16]

    def texts(network: DiT) -> list[list[int]]:
        denoiser = network if cache is None else cached(network, cache)
        stream = decode_rows(
            Decoder(denoiser, make("confidence"), block_size=16), rows, [1, 2], pad_id=PAD, batch=2, device=DEVICE
        )
        return [row.tokens for row in run_to_end(stream)]

    assert texts(short) == texts(long)
    with pytest.raises(RequestError, match="48 tokens are too many for 36 learned positions"):
        short.hidden(torch.zeros(1, 48, dtype=torch.int64))
