"""Each rule against a slow twin, written from its paper in plain Python, token by token.

A twin gets a row: the distribution (a list of probabilities) of each masked position of the block. It returns the
positions to reveal now. The twin of the loop decodes each row alone, without tensors of more than one row.
"""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest
import torch

from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.noise import POLICY, uniform
from unmask.policies.options import Context
from unmask.policies.registry import make
from unmask.testing import TableDenoiser, random_language

L, V, ROWS = 6, 3, 12
MODEL = TableDenoiser(random_language(V, L, seed=5, sharpness=2.5))
UNIGRAM = [0.5, 0.3, 0.2, 0.0]

Probabilities = Mapping[int, list[float]]  # of each position that may be revealed
Twin = Callable[[Probabilities, dict[str, Any]], list[int]]


def confidence(p: list[float]) -> float:
    return max(p)


def margin(p: list[float]) -> float:
    best, second = sorted(p, reverse=True)[:2]
    return best - second


def entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def best_of(laws: Probabilities, score: Callable[[list[float]], float]) -> list[int]:
    return sorted(laws, key=lambda place: (-score(laws[place]), place))


def top(score: Callable[[list[float]], float], count: int) -> Twin:
    return lambda laws, _: best_of(laws, score)[:count]


SUREST = top(confidence, 1)


def left_to_right(laws: Probabilities, _: dict[str, Any]) -> list[int]:
    return [min(laws)]


def random_order(laws: Probabilities, memory: dict[str, Any]) -> list[int]:
    return [max(laws, key=lambda place: memory["noise"][place])]


def threshold(least: float) -> Twin:
    def rule(laws: Probabilities, _: dict[str, Any]) -> list[int]:
        return [i for i, p in laws.items() if max(p) > least] or best_of(laws, confidence)[:1]

    return rule


def margin_threshold(least: float) -> Twin:
    def rule(laws: Probabilities, _: dict[str, Any]) -> list[int]:
        return [i for i, p in laws.items() if margin(p) > least] or best_of(laws, margin)[:1]

    return rule


def entropy_threshold(most: float) -> Twin:
    def rule(laws: Probabilities, _: dict[str, Any]) -> list[int]:
        return [i for i, p in laws.items() if entropy(p) < most] or best_of(laws, lambda p: -entropy(p))[:1]

    return rule


def factor(f: float) -> Twin:
    def rule(laws: Probabilities, _: dict[str, Any]) -> list[int]:
        order = best_of(laws, confidence)
        fits = [n for n in range(1, len(order) + 1) if (n + 1) * (1 - max(laws[order[n - 1]])) < f]
        return order[: max(fits, default=1)]

    return rule


def frechet(delta: float) -> Twin:
    def rule(laws: Probabilities, _: dict[str, Any]) -> list[int]:
        order = best_of(laws, confidence)
        sure = [max(laws[place]) for place in order]
        lower = [sum(sure[:n]) - (n - 1) for n in range(1, len(order) + 1)]
        upper = [1 - c for c in sure]
        fits = sum(low - up > delta for low, up in zip(lower, upper, strict=True))
        return order[: max(fits, 1)]

    return rule


def local_leap(high: float, near: float, radius: int) -> Twin:
    def rule(laws: Probabilities, _: dict[str, Any]) -> list[int]:
        anchors = [i for i, p in laws.items() if max(p) >= high]
        leaps = [i for i, p in laws.items() if any(abs(i - a) <= radius for a in anchors) and max(p) >= near]
        return sorted({*anchors, *leaps}) or best_of(laws, confidence)[:1]

    return rule


def hierarchy(high: float, low: float) -> Twin:
    def rule(laws: Probabilities, _: dict[str, Any]) -> list[int]:
        first = best_of(laws, confidence)[0]
        if max(laws[first]) <= low:
            return [first]
        segments: list[list[int]] = []
        for place in sorted(laws):
            if segments and segments[-1][-1] == place - 1:
                segments[-1].append(place)
            else:
                segments.append([place])
        heads = [best_of({i: laws[i] for i in segment}, confidence)[0] for segment in segments]
        heads = [i for i in heads if max(laws[i]) > low]
        return sorted({*heads, *(i for i, p in laws.items() if max(p) > high), first})

    return rule


def credit(least: float, decay: float, power: float, weight: float) -> Twin:
    def rule(laws: Probabilities, memory: dict[str, Any]) -> list[int]:
        table: dict[tuple[int, int], float] = memory.setdefault("credit", {})
        for key in table:
            table[key] *= decay
        fused: dict[int, float] = {}
        for place, p in laws.items():
            best = p.index(max(p))
            table[place, best] = table.get((place, best), 0.0) + max(p) ** power
            weights = [x * (1 + table.get((place, token), 0.0)) ** weight for token, x in enumerate(p)]
            fused[place] = weights[best] / sum(weights)
        order = sorted(fused, key=lambda place: (-fused[place], place))
        return [place for place in laws if fused[place] > least] or order[:1]

    return rule


def prefix(least: float) -> Twin:
    def rule(laws: Probabilities, _: dict[str, Any]) -> list[int]:
        taken: list[int] = []
        for place in sorted(laws):
            if taken and max(laws[place]) <= least:
                break
            taken.append(place)
            if max(laws[place]) <= least:
                break
        return taken

    return rule


def entropy_bound(gamma: float, score: Callable[[list[float]], float] = lambda p: -entropy(p)) -> Twin:
    def rule(laws: Probabilities, _: dict[str, Any]) -> list[int]:
        order = best_of(laws, score)
        for n in range(len(order), 1, -1):
            costs = [entropy(laws[place]) for place in order[:n]]
            if sum(costs) - max(costs) <= gamma:
                return order[:n]
        return order[:1]

    return rule


def klass(kl: float, least: float, history: int, otherwise: Twin = SUREST) -> Twin:
    def rule(laws: Probabilities, memory: dict[str, Any]) -> list[int]:
        past = memory.setdefault("past", [])
        past.append(laws)
        ready: list[int] = []
        for place, p in laws.items():
            steps = past[-history - 1 :]
            moves = [
                sum(x * math.log(x / y) for x, y in zip(now[place], old[place], strict=True) if x > 0)
                for old, now in pairwise(steps)
            ]
            if len(moves) == history and all(move < kl for move in moves) and max(p) > least:
                ready.append(place)
        return ready or otherwise(laws, memory)

    return rule


def pc(decay: float, cap: float) -> Twin:
    def rule(laws: Probabilities, memory: dict[str, Any]) -> list[int]:
        def score(place: int) -> float:
            p = laws[place]
            rarity = -math.log(UNIGRAM[p.index(max(p))])
            return math.exp(-decay * (place - memory["start"])) * min(max(p) * rarity, cap)

        return [max(sorted(laws), key=score)]

    return rule


def early_stop(inner: Twin, bars: tuple[float, float, float]) -> Twin:
    def rule(laws: Probabilities, memory: dict[str, Any]) -> list[int]:
        def gap(p: list[float]) -> float:
            first, second = sorted(p, reverse=True)[:2]
            return math.log(first) - math.log(max(second, 1e-30))

        written = 1 - len(laws) / memory["total"]
        bar = bars[0] if written < 1 / 3 else bars[1] if written < 2 / 3 else bars[2]
        if sum(map(gap, laws.values())) / len(laws) >= bar:
            return list(laws)
        return inner(laws, memory)

    return rule


def slow(rule: Twin, row: list[int], block_size: int, seed: int) -> tuple[list[int], list[list[int]]]:
    """Decode one row greedily; the tokens, and the positions revealed at each pass."""
    tokens, order = list(row), []
    for start in range(row.index(V), L, block_size):
        block = range(start, min(start + block_size, L))
        holes = [place for place in block if tokens[place] == V]
        memory: dict[str, Any] = {"total": len(holes), "start": min(holes, default=0)}
        while open_ := [place for place in block if tokens[place] == V]:
            answer = MODEL.hidden(torch.tensor([tokens]))[0].exp().tolist()
            memory["noise"] = uniform(
                torch.tensor([seed]), torch.tensor([len(order)]), torch.arange(L), POLICY
            ).tolist()
            chosen = rule({place: answer[place] for place in open_}, memory)
            for place in chosen:
                tokens[place] = answer[place].index(max(answer[place]))
            order.append(sorted(chosen))
    return tokens, order


PAIRS: list[tuple[str, Twin]] = [
    ("random", random_order),
    ("left-to-right", left_to_right),
    ("confidence", top(confidence, 1)),
    ("best-confidence", top(confidence, 1)),
    ("margin", top(margin, 1)),
    ("entropy", top(lambda p: -entropy(p), 1)),
    *((f"threshold:threshold={x}", threshold(x)) for x in (0.4, 0.6, 0.8)),
    *((f"margin-threshold:threshold={x}", margin_threshold(x)) for x in (0.2, 0.6)),
    *((f"entropy-threshold:threshold={x}", entropy_threshold(x)) for x in (0.3, 0.8)),
    *((f"factor:factor={x}", factor(x)) for x in (0.5, 1.0, 2.0)),
    *((f"frechet:delta={x}", frechet(x)) for x in (-1.0, -0.2, 0.25)),
    *((f"local-leap:threshold={x},near=0.5,radius=2", local_leap(x, 0.5, 2)) for x in (0.6, 0.8)),
    ("local-leap:threshold=0.6,near=0.4,radius=99", local_leap(0.6, 0.4, 99)),
    *((f"hierarchy:threshold={x},low=0.45", hierarchy(x, 0.45)) for x in (0.3, 0.6, 0.8)),
    *((f"credit:threshold={x}", credit(x, 0.8, 0.2, 0.7)) for x in (0.6, 0.8)),
    ("credit:threshold=0.7,decay=0.3,power=1,weight=2", credit(0.7, 0.3, 1, 2)),
    *((f"prefix:threshold={x}", prefix(x)) for x in (0.4, 0.6, 0.8)),
    *((f"entropy-bound:gamma={x}", entropy_bound(x)) for x in (0.1, 0.5, 1.5)),
    ("entropy-bound:gamma=0.8,order=margin", entropy_bound(0.8, margin)),
    ("klass:kl=0.3,threshold=0.5,history=1", klass(0.3, 0.5, 1)),
    ("klass:kl=0.6,threshold=0.3", klass(0.6, 0.3, 2)),
    ("pc", pc(0.25, 10.0)),
    ("pc:decay=0.02,cap=0.6", pc(0.02, 0.6)),
    ("early-stop:early=2,middle=1.5,late=0.5 over confidence", early_stop(top(confidence, 1), (2, 1.5, 0.5))),
    ("klass:kl=0.3,threshold=0.5,history=1 or left-to-right", klass(0.3, 0.5, 1, left_to_right)),
]


@pytest.mark.parametrize("block_size", [L, 4])
@pytest.mark.parametrize(("text", "twin"), PAIRS, ids=[text for text, _ in PAIRS])
def test_the_rule_equals_its_slow_twin(text: str, twin: Twin, block_size: int) -> None:
    fast, slow_ones = orders(text, block_size), [slow(twin, row, block_size, seed) for seed, row in enumerate(rows())]
    assert fast == slow_ones


def test_the_twins_distinguish_rules() -> None:
    """The control: a twin of another rule, or with another option, decodes differently."""
    wrong = [("threshold:threshold=0.6", threshold(0.4)), ("prefix:threshold=0.6", threshold(0.6))]
    wrong += [("factor:factor=1.0", factor(2.0)), ("entropy-bound:gamma=0.5", entropy_bound(0.5, confidence))]
    wrong += [("confidence", top(margin, 1)), ("klass:kl=0.6,threshold=0.3", klass(0.6, 0.3, 1)), ("pc", left_to_right)]
    wrong += [("frechet:delta=-0.2", factor(0.9)), ("local-leap:threshold=0.8,near=0.5,radius=2", threshold(0.8))]
    wrong += [("hierarchy:threshold=0.8,low=0.45", threshold(0.8)), ("credit:threshold=0.8", threshold(0.8))]
    wrong += [("credit:threshold=0.7,decay=0.3,power=1,weight=2", credit(0.7, 0.8, 1, 2))]
    for text, twin in wrong:
        assert orders(text, L) != [slow(twin, row, L, seed) for seed, row in enumerate(rows())], text


def rows() -> list[list[int]]:
    """Empty rows and rows with some tokens."""
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(V, (ROWS, L), generator=generator)
    hidden = torch.rand(ROWS, L, generator=generator) < torch.linspace(0.6, 1.0, ROWS)[:, None]
    hidden[:, 2] = True
    return torch.where(hidden, V, tokens).tolist()


def orders(text: str, block_size: int) -> list[tuple[list[int], list[list[int]]]]:
    """Tokens and reveals of each row, decoded together."""
    policy = make(text, Context(unigram=lambda: torch.tensor(UNIGRAM)))
    canvas = Canvas.start(torch.tensor(rows()), torch.arange(ROWS))
    reveals: list[list[list[int]]] = [[] for _ in range(ROWS)]
    for after, step in Decoder(MODEL, policy, 0.0, 1.0, block_size).steps(canvas):
        canvas = after
        for line, row in enumerate(step.rows.tolist()):
            reveals[row].append(step.revealed[line].nonzero().squeeze(-1).tolist())
    return list(zip(canvas.tokens.tolist(), reveals, strict=True))


# ---- ReMDM: decided before the pass, by a number a position --------------------------------------------------------


def slow_remdm(variant: str, eta: float, steps: int, seed: int) -> tuple[list[int], int]:
    """One empty row, greedy: tokens and passes. Reveal and hide by eq. 6 with the uniform of (seed, turn, position)."""
    tokens, written, passes = [V] * L, [math.nan] * L, 0
    for turn in range(steps):
        t, s = 1 - turn / steps, 1 - (turn + 1) / steps
        now, then = clock(variant, t), clock(variant, s)
        most = min(1.0, (1 - then) / max(now, 1e-12))
        u = uniform(torch.tensor([seed]), torch.tensor([turn]), torch.arange(L), POLICY).tolist()
        sigma = [hide(variant, eta, most, t, s, written, place) for place in range(L)]
        answer = MODEL.hidden(torch.tensor([tokens]))[0].exp().tolist()
        before, last = list(tokens), turn == steps - 1
        revealed = False
        for place in range(L):
            if before[place] == V:
                share = 0.0 if variant == "conf" else hide(variant, eta, most, t, s, written, place, written_too=True)
                if last or u[place] < (then - (1 - share) * now) / max(1 - now, 1e-12):
                    tokens[place] = answer[place].index(max(answer[place]))
                    written[place] = max(answer[place])
                    revealed = True
            elif u[place] < sigma[place] and not last:
                tokens[place], written[place] = V, math.nan
        passes += revealed
    return tokens, passes


def clock(variant: str, t: float) -> float:
    if variant != "loop":
        return 1 - t
    return (1 - t) * 0.9 / 0.45 if t > 0.55 else 0.9 if t > 0.05 else 1 - t * 0.1 / 0.05


def hide(
    variant: str,
    eta: float,
    most: float,
    t: float,
    s: float,
    written: list[float],
    place: int,
    written_too: bool = False,
) -> float:
    if variant == "cap":
        return min(eta, most)
    if variant == "rescale":
        return eta * most
    if variant == "loop":
        return min(eta, most) if t <= 0.55 and s >= 0.05 else 0.0
    if math.isnan(written[place]):
        return 0.0
    total = sum(math.exp(-p) for p in written if not math.isnan(p))
    return most * math.exp(-written[place]) / total


@pytest.mark.parametrize("variant", ["cap", "rescale", "conf", "loop"])
def test_remdm_equals_its_slow_twin(variant: str) -> None:
    steps, eta = 40, 0.3
    canvas = Canvas.start(torch.full((ROWS, L), V), torch.arange(ROWS))
    done = Decoder(MODEL, make(f"remdm:steps={steps},kind={variant},eta={eta}")).decode(canvas)
    results = list(zip(done.tokens.tolist(), done.passes.tolist(), strict=True))
    assert results == [slow_remdm(variant, eta, steps, seed) for seed in range(ROWS)]
    other = "cap" if variant != "cap" else "rescale"
    assert results != [slow_remdm(other, eta, steps, seed) for seed in range(ROWS)]  # the control


# ---- rules that hide again: a denoiser that also predicts written tokens, from all the others -----------------------


class LeaveOneOut(TableDenoiser):
    """The posterior of each position without its own token."""

    def hidden(self, tokens: torch.Tensor, **options: Any) -> torch.Tensor:
        alone = [tokens.index_fill(1, torch.tensor([i]), V) for i in range(tokens.shape[1])]
        return torch.stack([super(LeaveOneOut, self).hidden(row, **options)[:, i] for i, row in enumerate(alone)], 1)


AROUND = LeaveOneOut(random_language(V, L, seed=9, sharpness=1.5))
Hiding = Callable[[list[int], list[list[float]], dict[str, Any]], tuple[list[int], list[int], bool]]
"""Tokens, distributions, memory -> positions to write, positions to hide again, and whether the row is done."""


def slow_hiding(rule: Hiding, row: list[int], block_size: int) -> tuple[list[int], int]:
    """Decode one row greedily: tokens and passes."""
    tokens, passes = list(row), 0
    for start in range(row.index(V), L, block_size):
        block = [i for i in range(start, min(start + block_size, L)) if row[i] == V]
        memory: dict[str, Any] = {"block": block, "step": 0, "written": {}}
        done = not block
        while not done:
            answer = AROUND.hidden(torch.tensor([tokens]))[0].exp().tolist()
            write, hide, done = rule(tokens, answer, memory)
            for i in write:
                tokens[i] = answer[i].index(max(answer[i]))
                memory["written"][i] = max(answer[i])
            for i in hide:
                tokens[i] = V
                del memory["written"][i]
            memory["step"] += 1
            passes += 1
    return tokens, passes


def slow_rcr(steps: int) -> Hiding:
    """MDPO's program: fill everything, note each confidence where a token is written, hide the lowest again."""

    def rule(tokens: list[int], answer: list[list[float]], memory: dict[str, Any]) -> tuple[list[int], list[int], bool]:
        block, step = memory["block"], memory["step"]
        each = [len(block) // steps + (i < len(block) % steps) for i in range(steps)]
        left = sum(each[step + 1 :])
        noted = {i: max(answer[i]) if tokens[i] == V else memory["written"][i] for i in block}
        lowest = sorted(block, key=lambda i: (noted[i], -i))[:left]
        write = [i for i in block if tokens[i] == V and i not in lowest]
        return write, [i for i in lowest if tokens[i] != V], left == 0

    return rule


def slow_p2(steps: int) -> Hiding:
    def rule(tokens: list[int], answer: list[list[float]], memory: dict[str, Any]) -> tuple[list[int], list[int], bool]:
        block, kappa = memory["block"], (memory["step"] + 1) / steps
        hidden = math.floor(len(block) * (1 - kappa) + 1e-9)
        lowest = sorted(block, key=lambda i: (max(answer[i]), -i))[:hidden]
        write = [i for i in block if tokens[i] == V and i not in lowest]
        return write, [i for i in lowest if tokens[i] != V], hidden == 0

    return rule


def slow_saber(least: int) -> Hiding:
    def rule(tokens: list[int], answer: list[list[float]], memory: dict[str, Any]) -> tuple[list[int], list[int], bool]:
        block, past = memory["block"], memory.setdefault("past", [])
        before = memory.get("before", {})
        sure = {i: max(answer[i]) for i in block}
        mean = sum(past) / len(past) if past else 1.0
        masked = [i for i in block if tokens[i] == V]
        taken = [i for i in masked if sure[i] > mean]
        if len(taken) < least:
            taken = sorted(masked, key=lambda i: (-sure[i], i))[:least]
        past += [sure[i] for i in taken]
        memory["before"] = sure
        if len(taken) == len(masked):
            return taken, [], True
        k = len(taken)
        hide = min(max(least // 2, math.ceil(k / 8)), k - 1)
        shown = [i for i in block if tokens[i] != V] + taken
        fallen = sorted(shown, key=lambda i: (sure[i] - before.get(i, 0.0), i))[:hide]
        return [i for i in taken if i not in fallen], [i for i in fallen if tokens[i] != V], False

    return rule


HIDING = [
    *((f"rcr:steps={n}", slow_rcr(n)) for n in (3, 4)),
    *((f"p2:steps={n}", slow_p2(n)) for n in (3, 5)),
    *((f"saber:least={n}", slow_saber(n)) for n in (1, 2)),
]


def hidden_orders(text: str, block_size: int) -> tuple[list[tuple[list[int], int]], int]:
    """Tokens and passes of each row, decoded together, and how many tokens were hidden again."""
    canvas, hidden = Canvas.start(torch.tensor(rows()), torch.arange(ROWS)), 0
    for after, step in Decoder(AROUND, make(text), 0.0, 1.0, block_size).steps(canvas):
        canvas, hidden = after, hidden + int(step.remasked.sum())
    return list(zip(canvas.tokens.tolist(), canvas.passes.tolist(), strict=True)), hidden


@pytest.mark.parametrize("block_size", [L, 4])
@pytest.mark.parametrize(("text", "twin"), HIDING, ids=[text for text, _ in HIDING])
def test_a_rule_that_hides_again_equals_its_slow_twin(text: str, twin: Hiding, block_size: int) -> None:
    results, hidden = hidden_orders(text, block_size)
    assert results == [slow_hiding(twin, row, block_size) for row in rows()]
    assert hidden > 0 or block_size < L  # else the twin says little


def test_the_twins_distinguish_rules_that_hide() -> None:
    """The control."""
    wrong = [("rcr:steps=4", slow_rcr(3)), ("rcr:steps=4", slow_p2(4)), ("p2:steps=5", slow_rcr(5))]
    wrong += [("saber:least=2", slow_saber(3))]
    for text, twin in wrong:
        assert hidden_orders(text, L)[0] != [slow_hiding(twin, row, L) for row in rows()], text
