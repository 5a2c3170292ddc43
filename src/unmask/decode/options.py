"""How a model is decoded, as a person asks for it: the options that generation, filling and sweeps have in common."""

__all__ = ["Decoding", "make_decoder", "row_options"]

from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

import torch
from torch import Tensor

from unmask.decode.loop import Decoder
from unmask.decode.propose import check_sampling
from unmask.decode.rows import RowOptions
from unmask.denoiser import Denoiser, Guided, Suppressed, clean_log_probs
from unmask.errors import RequestError
from unmask.model.cache import cached
from unmask.policies.base import UnmaskingPolicy
from unmask.policies.learned.policy import Learned
from unmask.policies.options import Context
from unmask.policies.registry import make
from unmask.process import Schedule
from unmask.text.tokenizer import Tokenizer


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


def make_decoder(
    denoiser: Denoiser,
    tokenizer: Tokenizer,
    schedule: Schedule,
    device: torch.device,
    policy: str | UnmaskingPolicy,
    *,
    block_size: int | None = None,
    cache: str | None = None,
    guidance: float = 0.0,
    suppress: Sequence[int | str] = (),
    passes: float | None = None,
    alternatives: int = 0,
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
        if not 0 <= value <= 1:
            raise RequestError(f"dial is {value:g}; give a number from 0 (accurate) to 1 (fast).")
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
