"""Predictions for a masked hole of free length -> its number of tokens: CAL and LR-DLLM, rules beside the likelihood.

Both read the predictions of a few passes and decode nothing. The confidence in a hole falls as it gets longer, whatever
the right length is; CAL divides by a bias that was measured, LR-DLLM subtracts a slope that it fits for each hole.
Shapes: n tokens of the hole, V vocabulary.
"""

__all__ = [
    "BIAS_FILE",
    "CAL",
    "LIKELIHOOD",
    "LRDLLM",
    "Bias",
    "LengthChoice",
    "LengthRule",
    "Predict",
    "certainty",
    "choose_length",
    "confidence",
    "fit_bias",
    "length_rule",
    "predictor",
]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

import torch
from torch import Tensor

from unmask.config import to_path
from unmask.decode.constraint import Constraint
from unmask.decode.options import measuring
from unmask.denoiser import clean_log_probs, selection
from unmask.disk.json import read_json
from unmask.errors import RequestError, did_you_mean
from unmask.fill.sketch import Sketch
from unmask.policies.options import Context, Options
from unmask.ranges import Count, check_numbers, real

if TYPE_CHECKING:
    from unmask.fill.holes import Filler

LIKELIHOOD = "likelihood"
"""The rule that decodes every length, and keeps the text with the least bound."""
BIAS_FILE = "hole-bias.json"
"""The name of the file with the bias of a model, where it lies in the folder of its checkpoint."""
Predict = Callable[[Sequence[int], int], Tensor]
"""Tokens that begin the hole, and the number n of MASKs behind them -> log p at these MASKs (n, V), from one pass."""


class LengthChoice(NamedTuple):
    """The length of a hole, and how it was chosen."""

    length: int
    scores: dict[int, float]
    """Of each length that was compared; LR-DLLM changes the best of these while it commits tokens."""
    passes: int


class LengthRule(Protocol):
    """Possible lengths and predictions -> the length of a hole."""

    def __call__(self, lengths: range, predict: Predict) -> LengthChoice: ...


@dataclass(frozen=True, slots=True)
class Bias:
    """The mean confidence in a hole as a function of its length alone: B(n) = a e^(-b n) + c e^(-d n) + rest."""

    a: Annotated[float, real(0)]
    b: Annotated[float, real(0)]
    c: Annotated[float, real(0)]
    d: Annotated[float, real(0)]
    rest: Annotated[float, real(0)]

    def __post_init__(self) -> None:
        check_numbers(self)
        if not self.a + self.c + self.rest > 0:
            raise RequestError("A bias of 0 at every length cannot be divided by; one of a, c and rest is above 0.")

    def __call__(self, length: int) -> float:
        """Length -> B(length)."""
        return self.a * math.exp(-self.b * length) + self.c * math.exp(-self.d * length) + self.rest


@dataclass(frozen=True, slots=True)
class CAL:
    """The length with the highest mean confidence in the masked hole, divided by the bias of its length.

    Calibrated adaptive length, arXiv:2602.00476. It tries `start`, then longer holes until `wait` in a row are no
    better than the best, then shorter ones likewise. The paper has 2 for `wait` with texts, 4 with programs. The bias
    is of a model, see `fit_bias`.
    """

    bias: Bias
    start: Count = 8
    wait: Count = 4

    def __post_init__(self) -> None:
        check_numbers(self)

    def __call__(self, lengths: range, predict: Predict) -> LengthChoice:
        start = min(max(self.start, lengths[0]), lengths[-1])
        scores: dict[int, float] = {}
        best = start
        for direction in (range(start, lengths[-1] + 1), range(start - 1, lengths[0] - 1, -1)):
            failed = 0
            for length in direction:
                scores[length] = confidence(predict([], length)) / self.bias(length)
                failed = 0 if length == best or scores[length] > scores[best] else failed + 1
                best = best if failed else length
                if failed == self.wait:
                    break
        return LengthChoice(best, scores, len(scores))


@dataclass(frozen=True, slots=True)
class LRDLLM:
    """The length with the lowest entropy of the masked hole, after a slope in the logarithm of the length is removed.

    LR-DLLM, arXiv:2602.07546. The figure of a length is A(n), the mean over MASKs of sum p ln p. (1) A + k ln n is
    fitted by least squares to the shortest length, powers of two, and the longest; the start is the one of these with
    the highest A(n) - k ln n. (2) The number of MASKs moves by 1 while that makes the figure higher; then the first
    MASK becomes its most probable token, and this is repeated until no MASK is left. Its tokens choose the length
    alone: the text is then decoded by the policy of the request. Ours, where we know no formula: k is not fitted
    again; of equal lengths the shorter is kept.
    """

    def __call__(self, lengths: range, predict: Predict) -> LengthChoice:
        seen: dict[tuple[int, int], Tensor] = {}  # by tokens that are committed and MASKs behind them
        text: list[int] = []

        def figure(masks: int) -> float:
            key = (len(text), masks)
            if key not in seen:
                seen[key] = predict(text, masks)
            return certainty(seen[key]) - slope * math.log(masks)

        slope, probes = 0.0, [n for n in lengths if n in (lengths[0], lengths[-1]) or n & (n - 1) == 0]
        slope = _slope([math.log(n) for n in probes], [figure(n) for n in probes])
        scores = {n: figure(n) for n in probes}
        masks = max(probes, key=lambda n: (scores[n], -n))
        while masks:
            least, most = max(1, lengths[0] - len(text)), lengths[-1] - len(text)
            masks = _climb(min(max(masks, least), most), least, most, figure)
            text.append(int(seen[len(text), masks][0].argmax()))
            masks -= 1
        return LengthChoice(len(text), scores, len(seen))


def confidence(log_probs: Tensor) -> float:
    """log p (n, V) -> the mean over positions of the highest probability."""
    return float(log_probs.amax(-1).exp().double().mean())


def certainty(log_probs: Tensor) -> float:
    """log p (n, V) -> the mean over positions of sum p ln p, minus the entropy in nats."""
    return float((log_probs.exp() * log_probs).nansum(-1).double().mean())  # nan: tokens of probability 0


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Points -> the slope of the line of least squares; 0 for a single point."""
    middle, height = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - middle) ** 2 for a in x)
    return sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0


def _climb(at: int, least: int, most: int, figure: Callable[[int], float]) -> int:
    """A whole number -> the local maximum of `figure` that steps of 1 lead to, within the limits."""
    while True:
        near = [n for n in (at, at - 1, at + 1) if least <= n <= most]
        best = max(near, key=figure)
        if best == at:
            return at
        at = best


def fit_bias(points: Mapping[int, float]) -> Bias:
    """Lengths and the mean confidences in holes of another right length -> the bias with the least squared error.

    As the program of CAL: start (1, 1.8, .6, .05, .3), limits (1, 2, 1, .5, .5). Raises RequestError for fewer than
    five lengths, which do not determine five numbers.
    """
    if len(points) < 5:
        raise RequestError(f"A bias is fitted to at least 5 lengths, and there are {len(points)}; give more lengths.")
    limit = torch.tensor([1.0, 2.0, 1.0, 0.5, 0.5], dtype=torch.float64)
    start = torch.tensor([0.99, 1.8, 0.6, 0.05, 0.3], dtype=torch.float64)
    free = (start / limit).logit().requires_grad_()
    n, y = (torch.tensor(list(values), dtype=torch.float64) for values in (points.keys(), points.values()))
    optimizer = torch.optim.LBFGS([free], max_iter=1000, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def error() -> Tensor:
        optimizer.zero_grad()
        a, b, c, d, rest = free.sigmoid() * limit
        squares = ((a * (-b * n).exp() + c * (-d * n).exp() + rest - y) ** 2).sum()
        squares.backward()
        return squares

    optimizer.step(error)  # pyright: ignore[reportArgumentType]  (the annotation of torch wants a float)
    return Bias(*(free.detach().sigmoid() * limit).tolist())


# ---- requests --------------------------------------------------------------------------------------------------------


def length_rule(text: str, folder: Path | None = None) -> LengthRule | None:
    """A name, perhaps with options, such as "cal:wait=2" -> the rule; None for the likelihood.

    `folder` is that of the checkpoint, which may have a bias. Raises RequestError for an unknown name or option, and
    for CAL without a bias.
    """
    name, _, rest = text.partition(":")
    pairs = {pair.partition("=")[0].strip(): pair.partition("=")[2].strip() for pair in rest.split(",") if pair}
    known: dict[str, tuple[str, ...]] = {LIKELIHOOD: (), "cal": ("bias", "start", "wait"), "lr-dllm": ()}
    if name not in known:
        raise RequestError(f"There is no length rule named '{name}'; {did_you_mean(name, known)}")
    for key in pairs:
        if key not in known[name]:
            takes = f"it takes {', '.join(known[name])}" if known[name] else "it takes none"
            raise RequestError(f"The length rule '{name}' has no option '{key}'; {takes}.")
    if name != "cal":
        return None if name == LIKELIHOOD else LRDLLM()
    options = Options(pairs, Context())
    return CAL(_bias(pairs.get("bias"), folder), options.count("start", 8), options.count("wait", 4))


def _bias(path: str | None, folder: Path | None) -> Bias:
    """A file that `unmask probe holes` wrote, or the folder of the checkpoint that may have it -> the bias."""
    file = to_path(path) if path is not None else None if folder is None else folder / BIAS_FILE
    if file is None or (path is None and not file.is_file()):
        raise RequestError(
            "The length rule cal needs the bias of this model, which has none in its folder; measure it with "
            "unmask probe holes CHECKPOINT --out bias.json, and give --length-rule cal:bias=bias.json."
        )
    return read_json(file, _Stored, RequestError, "write it again with unmask probe holes").bias


@dataclass(frozen=True, slots=True)
class _Stored:
    """What is read of a file that `unmask probe holes` wrote."""

    bias: Bias


def choose_length(
    filler: "Filler", sketch: Sketch, rule: LengthRule, constraint: Constraint
) -> tuple[tuple[int, ...], LengthChoice]:
    """A sketch with one hole of free length -> the lengths of all holes, and how it was chosen.

    Raises RequestError for several such holes.
    """
    free = [at for at, lengths in enumerate(sketch.holes) if len(lengths) > 1]
    if len(free) > 1:
        raise RequestError(
            f"This length rule chooses the length of one hole, and {len(free)} have a free length; set the others, "
            "such as [5], or use the length rule likelihood."
        )
    choice = rule(sketch.holes[free[0]], predictor(filler, sketch, free[0], constraint))
    return tuple(choice.length if at == free[0] else each[0] for at, each in enumerate(sketch.holes)), choice


def predictor(filler: "Filler", sketch: Sketch, hole: int, constraint: Constraint) -> Predict:
    """A sketch and the index of a hole -> the predictions in it, of what the constraint allows.

    Each pass is of one row without padding, so that they depend on nothing else; the other holes have their least
    length and stay masked.
    """
    denoiser, mask_id = measuring(filler.denoiser, filler.tokenizer), filler.tokenizer.mask_id
    lengths = [each[0] for each in sketch.holes]

    @torch.no_grad()
    def predict(begin: Sequence[int], masks: int) -> Tensor:
        lengths[hole] = len(begin) + masks
        span, row = sketch.span(lengths, hole), sketch.row(lengths, mask_id)
        row[span.start : span.start + len(begin)] = begin
        tokens = torch.tensor([row], device=filler.device)
        where = torch.zeros_like(tokens, dtype=torch.bool)
        where[0, span.start + len(begin) : span.stop] = True
        time = (tokens == mask_id).float().mean(-1) if denoiser.time_conditioned else None
        hidden = denoiser.hidden(tokens, valid=None, time=time, **selection(denoiser, where))
        logits = denoiser.logits(hidden[where])
        return clean_log_probs(logits.masked_fill(~constraint(tokens, where), -torch.inf), denoiser.mask_id).cpu()

    return predict
