"""Laws of the rules that choose the length of a hole, each with what breaks it."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import unmask
from unmask.api import Model
from unmask.errors import RequestError
from unmask.eval.holes import Span, measure_rules, recovered, sketch_of
from unmask.fill.lengths import CAL, LRDLLM, Bias, choose_length, fit_bias, length_rule

FLAT = Bias(0.0, 0.0, 0.0, 0.0, 1.0)
FALLING = Bias(1.0, 1.77, 0.56, 0.06, 0.24)
LENGTHS = range(1, 13)


@pytest.fixture(scope="module")
def model() -> Model:
    return unmask.load("wordnet", device="cpu", dtype="float32", threads=1)


def predictions(tops: Callable[[int], float]) -> Callable[[Sequence[int], int], Tensor]:
    """A function from the total length to the confidence -> predictions that have it at every MASK, of 4 tokens."""

    def predict(begin: Sequence[int], masks: int) -> Tensor:
        top = tops(len(begin) + masks)
        return torch.tensor([[top, *[(1 - top) / 3] * 3]] * masks, dtype=torch.float64).log()

    return predict


def slow_cal(lengths: range, tops: Callable[[int], float], bias: Bias, start: int, wait: int) -> int:
    """CAL as its notes say, number by number."""
    score = {
        n: tops(n) / (bias.a * math.exp(-bias.b * n) + bias.c * math.exp(-bias.d * n) + bias.rest) for n in lengths
    }
    first = min(max(start, lengths[0]), lengths[-1])
    best, failures, n = first, 0, first + 1
    while n <= lengths[-1] and failures < wait:
        best, failures = (n, 0) if score[n] > score[best] else (best, failures + 1)
        n += 1
    failures, n = 0, first - 1
    while n >= lengths[0] and failures < wait:
        best, failures = (n, 0) if score[n] > score[best] else (best, failures + 1)
        n -= 1
    return best


@pytest.mark.parametrize("start", [1, 5, 8, 40])
@pytest.mark.parametrize("wait", [1, 2, 4, 12])
def test_cal_equals_its_slow_twin(start: int, wait: int) -> None:
    results: set[int] = set()
    for seed in range(30):
        table = torch.rand(13, generator=torch.Generator().manual_seed(seed)).clamp(0.3).tolist()
        choice = CAL(FALLING, start, wait)(LENGTHS, predictions(table.__getitem__))
        assert choice.length == slow_cal(LENGTHS, table.__getitem__, FALLING, start, wait)
        assert choice.passes == len(choice.scores)
        results.add(choice.length)
    assert len(results) > 3  # the control: the tables do not all have the same answer


def test_a_constant_bias_takes_the_highest_confidence_and_the_fitted_bias_removes_the_preference() -> None:
    """Confidence that falls with the length by a bias alone: only division by this bias finds the bump at 7."""
    bump = predictions(lambda n: min(0.99, FALLING(n) * (1.2 if n == 7 else 1.0)))
    plain = CAL(FLAT, wait=12)(LENGTHS, bump)
    assert plain.length == max(plain.scores, key=lambda n: plain.scores[n]) == 1
    assert CAL(FALLING, wait=12)(LENGTHS, bump).length == 7
    scaled = Bias(0.0, 0.0, 0.0, 0.0, 0.25)
    assert CAL(scaled, wait=12)(LENGTHS, bump).length == plain.length


def test_the_bias_is_fitted_to_its_own_curve() -> None:
    points = {n: FALLING(n) for n in (1, 2, 4, 6, 12, 16, 24, 32, 48)}
    fitted = fit_bias(points)
    assert max(abs(fitted(n) - value) for n, value in points.items()) < 2e-3
    wrong = fit_bias(dict.fromkeys(points, 0.5))
    assert max(abs(wrong(n) - value) for n, value in points.items()) > 0.05  # the control
    with pytest.raises(RequestError, match="at least 5 lengths, and there are 2"):
        fit_bias({1: 0.3, 2: 0.2})


def test_lr_dllm_removes_the_slope_in_the_logarithm() -> None:
    """Entropy 1 + .5 ln n for n MASKs, and .5 more where the whole hole has not 8 tokens; it is lowest for one MASK."""

    def predict(begin: Sequence[int], masks: int) -> Tensor:
        n = len(begin) + masks
        wanted = 1 + 0.5 * math.log(masks) + (0.0 if n == 8 else 0.5)  # nats of entropy
        p = torch.full((masks, 64), 0.0, dtype=torch.float64)
        low, high, top = 1 / 64, 1.0 - 1e-9, 0.5
        for _ in range(80):  # bisect the top probability
            top = (low + high) / 2
            spread = -(top * math.log(top) + (1 - top) * math.log((1 - top) / 63))
            low, high = (top, high) if spread > wanted else (low, top)
        p[:] = (1 - top) / 63
        p[:, 5] = top
        return p.log()

    choice = LRDLLM()(LENGTHS, predict)
    assert choice.length == 8
    raw = {n: float((predict([], n).exp() * predict([], n)).sum(-1).mean()) for n in LENGTHS}
    assert max(raw, key=lambda n: raw[n]) == 1  # the control


def test_lr_dllm_stays_within_the_lengths_and_commits_each_token_once() -> None:
    asked: list[tuple[tuple[int, ...], int]] = []
    for seed in range(20):

        def predict(begin: Sequence[int], masks: int, seed: int = seed) -> Tensor:
            asked.append((tuple(begin), masks))
            key = torch.Generator().manual_seed(1000 * seed + 31 * len(begin) + masks)
            return (3 * torch.randn(masks, 9, generator=key)).log_softmax(-1)

        asked.clear()
        lengths = range(3, 8)
        choice = LRDLLM()(lengths, predict)
        assert choice.length in lengths
        assert len(asked) == len(set(asked)) == choice.passes
        assert all(len(begin) + masks in lengths for begin, masks in asked)
        assert len(LRDLLM()(range(4, 5), predict).scores) == 1


@pytest.mark.parametrize("rule", ["cal:wait=2", "lr-dllm"])
def test_the_length_depends_on_the_text_alone(model: Model, rule: str) -> None:
    """Not on the number of texts, the batch, the seed or the temperature; on the text it does."""
    template = "river: a large [1-6] stream of water"
    fill = partial(model.fill, policy="confidence", length_rule=rule)
    first = fill(template, temperature=0.0)
    many = fill(template, count=3, batch=1, seed=7, temperature=1.0)
    assert {str(scores) for scores in many.length_scores} == {str(first.length_scores[0])}
    sizes = {len(log_probs) - log_probs.count(0.0) for log_probs in (*first.log_probs, *many.log_probs)}
    assert len(sizes) == 1
    other = fill("dog: a [1-6] that barks", temperature=0.0)
    assert other.length_scores != first.length_scores  # the control


@pytest.mark.parametrize("rule", ["cal:wait=2", "lr-dllm"])
def test_the_text_is_that_of_a_hole_of_this_length(model: Model, rule: str) -> None:
    before, after = "river: a large", " stream of water"
    free = model.fill(f"{before}[1-6]{after}", policy="confidence", temperature=0.7, length_rule=rule, seed=3)
    size = len(free.tokens[0]) - len(model.tokenizer.encode(before)) - len(model.tokenizer.encode(after, True))
    fixed = model.fill(f"{before}[{size}]{after}", policy="confidence", temperature=0.7, seed=3)
    assert (free.texts, free.log_probs, free.passes) == (fixed.texts, fixed.log_probs, fixed.passes)
    assert free.attempts == [[]]
    assert free.length_scores[0]
    assert fixed.length_scores == [{}]
    wrong = model.fill(f"{before}[{size + 1}]{after}", policy="confidence", temperature=0.7, seed=3)
    assert wrong.tokens != free.tokens  # the control


def test_what_the_comparison_says_is_what_fill_does(model: Model) -> None:
    """The rules of `eval.holes` and of a request choose the same length, and the likelihood the text of least bound."""
    before, after = (model.tokenizer.encode(part) for part in ("river: a large", "stream of water"))
    span = Span(before, model.tokenizer.encode("natural"), after)
    rules = {"cal": CAL(FALLING, wait=2), "lr-dllm": LRDLLM()}
    chosen, shares = measure_rules(model, span, range(1, 5), rules, "confidence", 8, 0)
    sketch, only = sketch_of(span, range(1, 5)), model.filler.writable(None)
    for name, rule in rules.items():
        lengths, choice = choose_length(model.filler, sketch, rule, only)
        assert (chosen[name].length, chosen[name].passes) == (choice.length, choice.passes)
        assert lengths == (choice.length,)
        assert chosen[name].recovered == shares[choice.length]
    assert set(shares) == {1, 2, 3, 4}
    assert chosen["likelihood"].passes == sum(range(1, 5)) + 4 * 8


def test_a_hole_is_recovered_as_far_as_its_tokens_stand_in_their_order() -> None:
    assert recovered([1, 2, 3], [1, 2, 3]) == 1
    assert recovered([1, 9, 3, 4], [1, 2, 3]) == 0.5
    assert recovered([3, 2, 1], [1, 2, 3]) == pytest.approx(1 / 3)
    assert recovered([], [1]) == 0


def test_requests_that_cannot_be(model: Model, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="chooses the length of one hole, and 2 have a free length"):
        model.fill("a [1-2] b [1-2]", length_rule="lr-dllm")
    with pytest.raises(RequestError, match="no length rule named 'call'; did you mean 'cal'"):
        model.fill("a [1-2]", length_rule="call")
    with pytest.raises(RequestError, match="'lr-dllm' has no option 'wait'; it takes none"):
        length_rule("lr-dllm:wait=2")
    with pytest.raises(RequestError, match=r"needs the bias of this model.*unmask probe holes"):
        length_rule("cal", tmp_path)
    with pytest.raises(RequestError, match="wait"):
        length_rule("cal:wait=0", model.checkpoint and model.checkpoint.folder)
    (tmp_path / "bias.json").write_text('{"bias": {"a": 1}}')
    with pytest.raises(RequestError, match="damaged"):
        length_rule(f"cal:bias={tmp_path / 'bias.json'}")
    with pytest.raises(RequestError, match="cannot be divided by"):
        Bias(0.0, 1.0, 0.0, 0.1, 0.0)


def test_a_rule_without_a_free_hole_does_nothing(model: Model) -> None:
    fixed = model.fill("river: a [2]", policy="confidence", temperature=0.0)
    ruled = model.fill("river: a [2]", policy="confidence", temperature=0.0, length_rule="lr-dllm")
    assert (fixed.texts, fixed.length_scores) == (ruled.texts, ruled.length_scores)
