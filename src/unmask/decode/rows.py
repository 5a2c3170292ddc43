"""Many texts through one decoder: the options of a request, grouping, padding, and windows that slide over a long text.

Rows of the same padded length decode together, so that a row meets the same shapes, and gets the same bits, whatever
else is in the request. A text longer than the model's window is written semi-autoregressively (MDLM 4.2): a window is
filled, its last part becomes the prompt of the next.
"""

__all__ = [
    "NO_OPTIONS",
    "Decoding",
    "Filled",
    "RowOptions",
    "Snapshot",
    "Written",
    "decode_rows",
    "make_decoder",
    "row_options",
    "run_to_end",
    "slide",
]

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypedDict, TypeVar

import torch
from torch import Tensor

from unmask.batch import pad_ids, padded_size
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder, Step
from unmask.decode.propose import check_sampling
from unmask.denoiser import Denoiser, Guided, Suppressed, clean_log_probs
from unmask.errors import RequestError
from unmask.limits import require_rows, sentences
from unmask.model.cache import cached
from unmask.noise import derive
from unmask.policies.base import UnmaskingPolicy
from unmask.policies.learned.policy import Learned
from unmask.policies.options import Context
from unmask.policies.registry import make
from unmask.process import Schedule
from unmask.ranges import BlockSize, Dial, Guidance, Natural, Passes, check_value, checked
from unmask.text.tokenizer import Tokenizer
from unmask.trace.recorder import Recorder

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class RowOptions:
    """Options that may differ between rows, one entry a row; None leaves it to the policy or the decoder."""

    dial: Sequence[float] | None = None
    temperature: Sequence[float] | None = None
    top_p: Sequence[float] | None = None
    constraint: Sequence[int] | None = None
    """Which of the decoder's constraints."""

    def keep(self, rows: Sequence[int]) -> "RowOptions":
        """Those of some rows, by index, which may come more than once."""
        return RowOptions(**{name: [values[row] for row in rows] for name, values in self._present()})

    def tensors(self, device: torch.device) -> dict[str, Tensor]:
        """By name, for `Canvas.start`: (B,) each, without those that are None."""
        return {
            name: torch.tensor(values, dtype=torch.int64 if name == "constraint" else torch.double, device=device)
            for name, values in self._present()
        }

    def _present(self) -> list[tuple[str, Sequence[Any]]]:
        pairs = [(f.name, getattr(self, f.name)) for f in fields(self)]
        return [(name, values) for name, values in pairs if values is not None]


NO_OPTIONS = RowOptions()
"""Rows that leave everything to the policy and the decoder."""


class Snapshot(NamedTuple):
    """The state of some rows after a pass."""

    rows: tuple[int, ...]  # their places in the request
    starts: tuple[int, ...]  # where in its text each row's window begins, in tokens
    lengths: tuple[int, ...]  # how many positions of the window are the row's own; the rest is padding
    canvas: Canvas
    step: Step


@dataclass(slots=True)
class Written:
    """A row as it grows: `tokens` from the prompt on, with a log-probability for each token that was written."""

    tokens: list[int]
    prompt: int
    log_probs: list[float] = field(default_factory=list)
    passes: int = 0
    stopped: bool = False  # at EOS


class Filled(NamedTuple):
    """A row whose MASKs have become tokens."""

    tokens: list[int]
    log_probs: list[float]  # nan where the token was given
    passes: int


def decode_rows(
    decoder: Decoder,
    rows: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    pad_id: int,
    batch: int,
    device: torch.device,
    places: Sequence[int] | None = None,
    starts: Sequence[int] | None = None,
    options: RowOptions = NO_OPTIONS,
) -> Generator[Snapshot, None, list[Filled]]:
    """Fill the MASKs of each row; yields after each pass, returns the rows in their order.

    `places` and `starts` are what the snapshots say of the rows; by default their index and 0. `options` has
    an entry a row.
    """
    padded = [padded_size(len(row)) for row in rows]
    groups = [[i for i, n in enumerate(padded) if n == size] for size in sorted(set(padded))]
    filled: dict[int, Filled] = {}
    for group in (g[at : at + batch] for g in groups for at in range(0, len(g), batch)):
        tokens, valid = pad_ids([rows[i] for i in group], pad_id, device)
        seed = torch.tensor([seeds[i] for i in group], device=device)
        canvas = Canvas.start(tokens, seed, valid, **options.keep(group).tensors(device))
        where = tuple(i if places is None else places[i] for i in group)
        first = tuple(0 if starts is None else starts[i] for i in group)
        for canvas, step in decoder.steps(canvas):
            yield Snapshot(where, first, tuple(len(rows[i]) for i in group), canvas, step)
        for line, i in enumerate(group):
            n = len(rows[i])
            filled[i] = Filled(
                canvas.tokens[line, :n].tolist(), canvas.log_prob[line, :n].tolist(), int(canvas.passes[line])
            )
    return [filled[i] for i in range(len(rows))]


def slide(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    new: Sequence[int],
    seeds: Sequence[int],
    *,
    window: int,
    stride: int,
    pad_id: int,
    eos_id: int | None,
    batch: int,
    device: torch.device,
    options: RowOptions = NO_OPTIONS,
) -> Generator[Snapshot, None, list[Written]]:
    """Write `new[i]` tokens after prompt i, or up to the first EOS; yields after each pass, returns the rows in order.

    A window holds at most `window` tokens. The first is filled to its end; each later one keeps the last
    `window - stride` tokens as its prompt and writes up to `stride`.
    """
    require_rows(len(new), sum(new) // max(len(new), 1))
    texts = [Written(list(prompt), len(prompt)) for prompt in prompts]
    turn = 0
    while True:
        open_ = [i for i, text in enumerate(texts) if not text.stopped and _missing(text, new[i])]
        if not open_:
            return texts
        starts, rows = [], []
        for i in open_:
            start = _window_start(texts[i], window, stride)
            room = window - (len(texts[i].tokens) - start)
            wanted = min(room, _missing(texts[i], new[i]))
            starts.append(start)
            rows.append([*texts[i].tokens[start:], *[decoder.denoiser.mask_id] * wanted])
        filled = yield from decode_rows(
            decoder,
            rows,
            [derive(seeds[i], turn) for i in open_],
            pad_id=pad_id,
            batch=batch,
            device=device,
            places=open_,
            starts=starts,
            options=options.keep(open_),
        )
        for i, start, row in zip(open_, starts, filled, strict=True):
            _take(texts[i], row, len(texts[i].tokens) - start, eos_id)
        turn += 1


@sentences()
def run_to_end(stream: Generator[Snapshot, None, list[Row]], recorder: Recorder | None = None) -> list[Row]:
    """Run a stream to its end, recorded where there is a recorder: its rows."""
    stream = stream if recorder is None else recorder.record(stream)
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value


def _missing(text: Written, new: int) -> int:
    return new - (len(text.tokens) - text.prompt)


def _window_start(text: Written, window: int, stride: int) -> int:
    """Where the next window begins: at 0 while the first is not full, else `window - stride` before the end."""
    length = len(text.tokens)
    fits = length < window if length == text.prompt else False
    return 0 if fits else max(0, length - (window - stride))


def _take(text: Written, row: Filled, start: int, eos_id: int | None) -> None:
    """Append what a window wrote from position `start` of it on, up to EOS."""
    text.passes += row.passes
    for token, log_prob in zip(row.tokens[start:], row.log_probs[start:], strict=True):
        if token == eos_id:
            text.stopped = True
            return
        text.tokens.append(token)
        text.log_probs.append(log_prob)


class Decoding(TypedDict, total=False):
    """The options of decoding beside the policy that hold for all rows; every one may be left out."""

    block_size: int | None
    """Positions that are filled before the next begin; None, the default, for a single block."""
    cache: str | None
    """"prefix", "dual" or "delayed" (see `unmask.model.cache`); None, the default, runs every position again."""
    guidance: float
    """The scale of classifier-free guidance towards the prompt (see `unmask.denoiser.Guided`); 0, the default: none."""
    suppress: Sequence[int | str]
    """Tokens that are never written: ids, or texts of one token each."""
    passes: float | None
    """A budget that a calibrated learned policy turns into its dial: forward passes a row, on average."""
    alternatives: int
    """So many of the most probable tokens of each position that was looked at are in the steps; 0 by default."""


@checked
def make_decoder(
    denoiser: Denoiser,
    tokenizer: Tokenizer,
    schedule: Schedule,
    device: torch.device,
    policy: str | UnmaskingPolicy,
    *,
    block_size: BlockSize | None = None,
    cache: str | None = None,
    guidance: Guidance = 0.0,
    suppress: Sequence[int | str] = (),
    passes: Passes | None = None,
    alternatives: Natural = 0,
) -> Decoder:
    """The loop over a denoiser with a policy, by name or itself; options as in `Decoding`.

    Raises RequestError for what does not go together."""
    plain = denoiser
    context = Context(schedule, lambda: _unigram(plain, device))
    rule = make(policy, context) if isinstance(policy, str) else policy
    if passes is not None:
        rule = _within(rule, passes, policy if isinstance(policy, str) else repr(policy))
    if suppress:
        denoiser = Suppressed(denoiser, tuple(_token(tokenizer, token) for token in suppress))
    if guidance:
        denoiser = Guided(denoiser, guidance)
    if cache is not None:
        denoiser = cached(denoiser, cache)
        if denoiser.needs_blocks and block_size is None:
            raise RequestError(
                f"The cache '{cache}' saves nothing in a single block; give block_size, or the cache 'delayed'."
            )
    return Decoder(denoiser, rule, block_size=block_size, alternatives=alternatives)


def row_options(
    decoder: Decoder,
    count: int,
    *,
    dial: float | Sequence[float] | None,
    temperature: float | Sequence[float],
    top_p: float | Sequence[float],
    passes: float | None,
) -> RowOptions:
    """The options of `count` rows, each from one number or one a row.

    Raises RequestError where there are not as many numbers as rows, for a number that cannot be, for a dial where the
    policy has none, or beside a budget of `passes`.
    """
    rows = RowOptions(
        dial=None if dial is None else _one_a_row("dials", dial, count),
        temperature=_one_a_row("temperatures", temperature, count),
        top_p=_one_a_row("values of top_p", top_p, count),
    )
    check_sampling(rows.temperature or (), rows.top_p or ())
    if rows.dial is None:
        return rows
    if passes is not None:
        raise RequestError("A dial and a number of passes were given, and each decides the speed; give one of the two.")
    if not hasattr(decoder.policy, "dial"):
        raise RequestError(
            "This policy has no dial; a learned one has. In a compound set it inside the name, as in "
            "'learned:from=automaton,dial=0.4 or confidence:steps=12'."
        )
    for value in rows.dial:
        check_value("dial", value, Dial, RequestError)
    return rows


def _one_a_row(name: str, values: float | Sequence[float], count: int) -> list[float]:
    """One number, or one a row -> one a row. Raises RequestError where there are not as many as rows."""
    if isinstance(values, int | float):
        return [float(values)] * count
    if len(values) != count:
        raise RequestError(f"{len(values)} {name} were given for {count} rows; give one number, or one a row.")
    return [float(value) for value in values]


def _within(rule: UnmaskingPolicy, passes: float, name: str) -> UnmaskingPolicy:
    """A learned policy whose dial keeps to a budget. Raises RequestError for a policy that has none."""
    if not isinstance(rule, Learned) or rule.calibration is None:
        raise RequestError(
            f"'{name}' cannot keep to {passes:g} passes; a calibrated learned policy can (inside a compound: "
            f"learned:from=...,passes={passes:g})."
        )
    return replace(rule, dial=rule.calibration.dial_for(passes))


def _token(tokenizer: Tokenizer, token: int | str) -> int:
    """The id of a token given as an id or a text. Raises RequestError for a text that is not one token."""
    if isinstance(token, int):
        return token
    special = {tokenizer.piece(i): i for i in tokenizer.special_ids}
    ids = [special[token]] if token in special else tokenizer.encode(token)
    if len(ids) != 1:
        raise RequestError(f"'{token}' is {len(ids)} tokens and cannot be suppressed; give a text of one token.")
    return ids[0]


@torch.no_grad()
def _unigram(denoiser: Denoiser, device: torch.device) -> Tensor:
    """How often each token occurs (V,), as the model itself has it: its mean answer to a canvas of MASKs."""
    tokens = torch.full((1, denoiser.max_length or 1), denoiser.mask_id, device=device)
    time = torch.ones(1, device=device) if denoiser.time_conditioned else None
    logits = denoiser.logits(denoiser.hidden(tokens, time=time)[0])
    return clean_log_probs(logits, denoiser.mask_id).exp().mean(0)
