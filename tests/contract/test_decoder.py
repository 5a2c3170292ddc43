"""A row has the same tokens and log-probabilities alone, in a batch, with ragged lengths, or resumed."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unmask.api import Generation, Model
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.errors import PluginError, RequestError
from unmask.model.dit import DiT
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.base import Decision, State, View
from unmask.policies.registry import make
from unmask.process import MaskedDiffusion
from unmask.testing import TableDenoiser, random_language
from unmask.text.build import byte_tokenizer

TOKENIZER = byte_tokenizer()
PROMPTS = ["", "a", "To be, or not to be, that", "the question:", "x" * 30, "", "To", "Whether 'tis nobler"]


def lively(settings: DiTSettings, seed: int = 0) -> DiT:
    """A network with random blocks and head: an untrained one is the identity."""
    network = build(settings, seed)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        for name, value in network.named_parameters():
            if name.endswith(("out.weight", "down.weight", "down.bias", "modulation", "modulation.weight")):
                nn.init.normal_(value, std=0.1)
        nn.init.normal_(network.head.weight, std=0.3)
    return network


def model(modulation: str = "none", **options: object) -> Model:
    settings = DiTSettings(TOKENIZER.vocab_size, TOKENIZER.mask_id, 48, 64, 2, 4, modulation=modulation)  # pyright: ignore
    process = MaskedDiffusion(TOKENIZER.mask_id)
    return Model(lively(settings), process, TOKENIZER, None, torch.device("cpu"), **options)  # pyright: ignore


def differences(batch: Generation, row: int, alone: Generation) -> list[str]:
    """The names of the fields in which a row of a batch differs from the same row alone."""
    return [
        name
        for name in ("tokens", "log_probs", "passes", "texts")
        if getattr(batch, name)[row] != getattr(alone, name)[0]
    ]


@pytest.mark.parametrize(
    "policy, temperature", [("random", 1.0), ("confidence:steps=5", 0.0), ("ancestral:steps=16", 1.0), ("margin", 1.0)]
)
def test_a_row_alone_is_the_row_in_a_batch(policy: str, temperature: float) -> None:
    """Ragged prompts, a real network, two threads: equal in every bit."""
    loaded = model()
    seeds = [100 + row for row in range(len(PROMPTS))]
    options: dict[str, Any] = {"length": 6, "policy": policy, "temperature": temperature, "stop_at_eos": False}
    whole = loaded.generate(PROMPTS, seed=seeds, **options)
    assert loaded.generate(PROMPTS, seed=seeds, batch=3, **options).log_probs == whole.log_probs
    for row in (0, 2, 4):
        alone = loaded.generate(PROMPTS[row], seed=[seeds[row]], **options)
        assert differences(whole, row, alone) == []
    back = loaded.generate(PROMPTS[::-1], seed=seeds[::-1], **options)
    assert back.tokens[::-1] == whole.tokens
    assert back.log_probs[::-1] == whole.log_probs


@pytest.mark.parametrize("modulation", ["constant", "time"])
def test_a_row_alone_with_modulation(modulation: str) -> None:
    loaded = model(modulation)
    whole = loaded.generate(PROMPTS, length=8, seed=list(range(8)), policy="ancestral:steps=5", stop_at_eos=False)
    for row in (1, 3):
        alone = loaded.generate(PROMPTS[row], length=8, seed=[row], policy="ancestral:steps=5", stop_at_eos=False)
        assert differences(whole, row, alone) == []


def test_control_another_seed_is_noticed() -> None:
    loaded = model()
    whole = loaded.generate(PROMPTS, length=12, seed=list(range(8)), stop_at_eos=False)
    other = loaded.generate(PROMPTS[2], length=12, seed=[3], stop_at_eos=False)
    assert "tokens" in differences(whole, 2, other)


def test_one_seed_gives_each_row_its_own_text() -> None:
    """And another seed gives other texts, not the same ones in another order."""
    loaded = model()
    first, second = (loaded.generate([""] * 16, length=12, seed=seed, stop_at_eos=False) for seed in (0, 1))
    texts = [tuple(row) for row in first.tokens + second.tokens]
    assert len(set(texts)) == 32


# ---- one pass ------------------------------------------------------------------------------------------------------

TABLE = TableDenoiser(random_language(2, 6, seed=4))


def start(rows: int = 3) -> Canvas:
    tokens = torch.full((rows, 6), 2)
    tokens[:, 1] = 1
    return Canvas.start(tokens, torch.arange(rows))


def test_blocks_are_filled_one_after_the_other() -> None:
    for canvas, step in Decoder(TABLE, make("random:steps=2"), 1.0, block_size=2).steps(start()):
        written = canvas.written[step.rows].int().cumsum(-1)
        for block in range(1, 3):
            begun = canvas.written[step.rows, 2 * block : 2 * block + 2].any(-1)
            assert (written[begun, 2 * block - 1] == 2 * block - 1).all()  # one position is the prompt's


def test_a_written_position_keeps_its_features() -> None:
    seen: dict[tuple[int, int], tuple[float, float, float]] = {}
    decoder, canvas = Decoder(TABLE, make("confidence"), 1.0), start()
    for canvas, step in decoder.steps(canvas):
        for line, row in enumerate(step.rows.tolist()):
            for place in step.revealed[line].nonzero().flatten().tolist():
                parts = (canvas.log_prob, canvas.margin, canvas.entropy)
                seen[row, place] = tuple(float(part[row, place]) for part in parts)  # pyright: ignore
                assert math.exp(seen[row, place][0]) == pytest.approx(
                    float(step.view.confidence[line, place]), rel=1e-6
                )
                assert float(step.view.margin[line, place]) == seen[row, place][1]
        for (row, place), (log_prob, margin, entropy) in seen.items():
            assert float(canvas.log_prob[row, place]) == log_prob
            assert (float(canvas.margin[row, place]), float(canvas.entropy[row, place])) == (margin, entropy)
    assert len(seen) == 15
    assert canvas.log_prob[:, 1].isnan().all()


def test_features_are_those_of_the_clean_law() -> None:
    """Temperature and top-p change the proposal alone."""
    views: list[View] = []
    for temperature, top_p in ((0.0, 1.0), (0.3, 0.6)):
        _, step = next(Decoder(TABLE, make("margin"), temperature, top_p).steps(start()))
        views.append(step.view)
    p = TABLE.hidden(start().tokens)[..., :2].exp()
    open_ = views[0].eligible
    for view in views:
        wanted = (p[..., 0] - p[..., 1]).abs()
        torch.testing.assert_close(view.margin[open_].double(), wanted[open_], rtol=1e-5, atol=1e-6)
        entropy = -(p * p.log()).sum(-1)
        torch.testing.assert_close(view.entropy[open_].double(), entropy[open_], rtol=1e-5, atol=1e-6)
        chosen = p.gather(-1, view.proposal[..., None]).squeeze(-1)
        torch.testing.assert_close(view.confidence[open_].double(), chosen[open_], rtol=1e-5, atol=1e-6)


class Counted(TableDenoiser):
    """Counts the rows of its passes and the positions of its head."""

    rows, positions = 0, 0

    def hidden(self, tokens: Tensor, **options: Tensor | None) -> Tensor:  # pyright: ignore
        self.rows += len(tokens)
        return super().hidden(tokens, **options)

    def logits(self, hidden: Tensor) -> Tensor:
        self.positions += len(hidden)
        return super().logits(hidden)


def test_finished_rows_leave_and_the_head_runs_at_the_positions_needed() -> None:
    counted = Counted(random_language(2, 6, seed=4))
    canvas = start(4)
    tokens = canvas.tokens.clone()
    tokens[0, 2:] = 0  # a single hole
    done = Decoder(counted, make("random"), 1.0).decode(Canvas.start(tokens, canvas.seed))
    assert done.passes.tolist() == [1, 5, 5, 5]
    assert counted.rows == int(done.passes.sum())
    assert counted.positions == 5 * 16  # a policy that does not look: at most four positions a pass, padded to 16


class CountsPadding(Decoder):
    """A decoder that tells the share of all positions, padding among them."""

    def _time(self, canvas: Canvas, masked: Tensor, decided: Tensor | None) -> Tensor | None:
        return masked.double().mean(-1)


@pytest.mark.parametrize("policy", ["random:steps=inf", "confidence:steps=inf"])
def test_the_time_does_not_count_padding(policy: str) -> None:
    """Of three tokens and a place of padding 3/3, 2/3, 1/3 are masked; the control is told 3/4, 2/4, 1/4."""
    tokens, valid = torch.full((1, 4), 2), torch.tensor([[True, True, True, False]])
    for cls, count in ((Decoder, 3), (CountsPadding, 4)):
        table = TableDenoiser(random_language(2, 4), time_conditioned=True)
        cls(table, make(policy)).decode(Canvas.start(tokens, torch.tensor([1]), valid=valid))
        assert [time.item() for time in table.times] == pytest.approx([3 / count, 2 / count, 1 / count])


def test_a_finished_canvas_costs_no_pass() -> None:
    canvas = Canvas.start(torch.zeros(2, 6, dtype=torch.int64), torch.arange(2))
    done = Decoder(TABLE, make("random")).decode(canvas)
    assert done.passes.tolist() == [0, 0]


class Greedy:
    """Reveals positions that are not eligible."""

    looks = True

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        return Decision(torch.ones_like(view.eligible)), None


def test_a_policy_cannot_touch_the_prompt() -> None:
    with pytest.raises(PluginError, match=r"a policy picks among view\.eligible"):
        Decoder(TABLE, Greedy()).decode(start())


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"block_size": 0}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(RequestError):
        Decoder(TABLE, make("random"), **options)  # pyright: ignore[reportArgumentType]
