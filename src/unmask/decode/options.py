"""The options of a request: a policy and what goes with it -> a decoder; numbers -> the options of each row."""

__all__ = ["NO_OPTIONS", "Defaults", "RowOptions", "make_decoder", "measuring", "row_options", "writable"]

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, cast

import torch
from torch import Tensor

from unmask.decode.loop import Decoder
from unmask.decode.propose import check_sampling
from unmask.denoiser import Denoiser, Guided, Suppressed, clean_log_probs
from unmask.disk.checkpoint import Checkpoint
from unmask.errors import ArgumentError, RequestError
from unmask.model.cache import cached
from unmask.model.soft import PlainMasks, two_pass
from unmask.model.zoo.read import FAMILIES
from unmask.objective.masked import parameterization
from unmask.policies.base import UnmaskingPolicy, needs_of
from unmask.policies.learned.policy import Learned
from unmask.policies.options import Context
from unmask.policies.registry import make
from unmask.process import Schedule
from unmask.ranges import BlockSize, Dial, Guidance, Natural, Passes, Temperature, TopP, check_value, checked, shown
from unmask.text.chat import chat_ids
from unmask.text.published import Chat
from unmask.text.tokenizer import Tokenizer

_USUAL: dict[str, dict[str, Any]] = {
    "ar": {"policy": "left-to-right", "block_size": 1},
    "d3pm": {"policy": "reverse"},
    "sedd": {"policy": "reverse"},
}
"""Decoding of models that are no MDLM, by what they predict."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """The decoding of a request that names none: "decoding" in the config.json of a checkpoint, else these values."""

    policy: str = "random"
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    block_size: BlockSize | None = None
    """Goes with `policy`: where another one is named, all positions are one block, but in block-causal attention."""
    family: str | None = None
    """The family of a published model, which has the template of conversations."""
    start: int | None = None
    """The token that begins a text."""

    @classmethod
    def of(cls, checkpoint: Checkpoint | None, network: Denoiser | None = None) -> "Defaults":
        """A checkpoint and its network -> its defaults. Raises CheckpointError for values that cannot be."""
        usual = Defaults(**_USUAL.get(parameterization(network), {}))
        if checkpoint is None:
            return usual
        recorded = checkpoint.fact(Defaults, "config.json", "decoding")
        family = checkpoint.fact(str, "config.json", "family") or checkpoint.fact(str, "config.json", "model", "family")
        if family not in FAMILIES:
            return recorded or usual
        start = checkpoint.fact(int, "config.json", "model", "start_id")
        return replace(recorded or Defaults(**FAMILIES[family].decoding), family=family, start=start)

    @property
    def chat(self) -> Chat | None:
        """The template of conversations; None for a model that has none."""
        return None if self.family is None else FAMILIES[self.family].chat

    def prompt_ids(self, tokenizer: Tokenizer, denoiser: Denoiser, texts: Sequence[str], chat: bool) -> list[list[int]]:
        """Prompts -> their ids: each as a user's message in the model's template if `chat`, else as they are.

        An empty prompt of a shifted denoiser, which cannot write the first token of a text, is the token that begins
        one. Raises RequestError where the model has no template.
        """
        template = self.chat
        if chat and template is None:
            raise RequestError("This model has no template of conversations; leave out --chat.")
        if chat and template is not None:
            return [chat_ids(tokenizer, template, [("user", text)]) for text in texts]
        return [row or self.first(denoiser) for row in tokenizer.encode_batch(texts)]

    def first(self, denoiser: Denoiser) -> list[int]:
        """What stands before a text whose first token is to be predicted: the start token, if the denoiser is shifted.

        Nothing for other denoisers, and for models that have no start token.
        """
        return [] if self.start is None or not getattr(denoiser, "shifted", False) else [self.start]

    def rule(
        self, denoiser: Denoiser, policy: str | UnmaskingPolicy | None, size: int | None
    ) -> tuple[str | UnmaskingPolicy, int | None]:
        """Policy and block size of a request -> the same, with the defaults for what is None.

        The default block size is for the default policy; for any policy with block-causal attention, whose first blocks
        cannot see what is behind them.
        """
        usual = size is None and (policy is None or getattr(denoiser, "causal_block", 0))
        return self.policy if policy is None else policy, self.block_size if usual else size

    def applied(self, decoder: Decoder, temperature: float | None, top_p: float | None) -> Decoder:
        """A decoder -> the same with temperature and top-p, those of the defaults where they are None."""
        return replace(
            decoder,
            temperature=self.temperature if temperature is None else temperature,
            top_p=self.top_p if top_p is None else top_p,
        )


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
    feedback: bool | None = None,
    suppress: Sequence[int | str] = (),
    passes: Passes | None = None,
    alternatives: Natural = 0,
) -> Decoder:
    """The loop over a denoiser with a policy, by name or itself; the options hold for all rows.

    Args:
        block_size: positions that are filled before the next begin; None: a single block.
        cache: "prefix", "dual" or "delayed" (see `unmask.model.cache`); None runs every position again, but for
            block-causal attention in blocks, whose cache "causal" is exact.
        guidance: the scale of classifier-free guidance towards the prompt (see `unmask.denoiser.Guided`).
        feedback: whether a pass sees what the last one predicted; by default for a network with soft masks alone.
        suppress: tokens that are never written: ids, or texts of one token each.
        passes: a budget that a calibrated learned policy turns into its dial: forward passes a row, on average.
        alternatives: so many of the most probable tokens of each position that was looked at are in the steps.

    Raises RequestError for what does not go together.
    """
    plain, denoiser = denoiser, _fed(denoiser, feedback)
    context = Context(schedule, lambda: _unigram(plain, device), getattr(plain, "parameterization", "") or "subs")
    rule = make(policy, context) if isinstance(policy, str) else _usable(policy)
    if passes is not None:
        rule = _within(rule, passes, policy if isinstance(policy, str) else repr(policy))
    if suppress:
        denoiser = Suppressed(denoiser, tuple(_token(tokenizer, token) for token in suppress))
    if guidance:
        denoiser = Guided(denoiser, guidance)
    plainly = not guidance and not (needs_of(rule).written or needs_of(rule).ahead or needs_of(rule).attention)
    if cache is None and block_size and plainly and getattr(denoiser, "causal_block", 0):
        cache = "causal"
    if cache is not None:
        denoiser = cached(denoiser, cache)
        if denoiser.needs_blocks and block_size is None:
            raise RequestError(
                f"The cache '{cache}' saves nothing in a single block; give block_size, or the cache 'delayed'."
            )
    return Decoder(denoiser, rule, block_size=block_size, alternatives=alternatives)


def writable(denoiser: Denoiser, tokenizer: Tokenizer) -> Denoiser:
    """A denoiser -> the same, which never writes an id that is no part of a text.

    These are the ids that have no token (the padding rows of published models), and where the network itself puts a
    start and an end token around a text (`frame`), those two, padding and the unknown token.
    """
    ids = tokenizer.missing(denoiser.vocab_size)
    if frame := getattr(denoiser, "frame", None):
        ids += (*frame, tokenizer.pad_id, *([] if tokenizer.unknown_id is None else [tokenizer.unknown_id]))
    return Suppressed(denoiser, tuple(sorted({*ids} - {denoiser.mask_id}))) if ids else denoiser


def measuring(denoiser: Denoiser, tokenizer: Tokenizer) -> Denoiser:
    """What `writable` returned -> the same for texts that are measured, which can have the unknown token.

    With soft masks it runs twice for each prediction, see `unmask.model.soft.TwoPass`.
    """
    if isinstance(denoiser, Suppressed) and tokenizer.unknown_id in denoiser.ids:
        denoiser = replace(denoiser, ids=tuple(token for token in denoiser.ids if token != tokenizer.unknown_id))
    return two_pass(denoiser)


def _fed(denoiser: Denoiser, feedback: bool | None) -> Denoiser:
    """A denoiser -> the same, with plain masks if `feedback` is False. Raises RequestError where it cannot be True."""
    soft = getattr(denoiser, "soft", 0)
    if feedback and not soft:
        raise RequestError(
            "This model was not trained with soft masks, and feedback would be input of a kind that it has never seen; "
            "leave feedback out, or train it with them first: unmask train --init CHECKPOINT --model.soft 3."
        )
    return PlainMasks(denoiser) if soft and feedback is False else denoiser


def _usable(policy: Any) -> UnmaskingPolicy:
    """A policy that is no name -> the same. Raises ArgumentError for a class of policies, and for what is none."""
    if isinstance(policy, type):
        raise ArgumentError(f"policy is the class {policy.__name__}; give an object of it, {policy.__name__}().")
    if not callable(policy):
        raise ArgumentError(
            f"policy is {shown(policy)}; give a name (unmask list policies), or a policy: an object that is called "
            "with (view, state) (see unmask.policies.base)."
        )
    return cast(UnmaskingPolicy, policy)


def row_options(
    decoder: Decoder,
    count: int,
    *,
    dial: float | Sequence[float] | None,
    temperature: float | Sequence[float] | None,
    top_p: float | Sequence[float] | None,
    passes: float | None,
) -> RowOptions:
    """The options of `count` rows, each from one number or one a row; None leaves it to the decoder.

    Raises RequestError where there are not as many numbers as rows, for a number that cannot be, for a dial where the
    policy has none, or beside a budget of `passes`.
    """
    rows = RowOptions(
        dial=None if dial is None else _one_a_row("dials", dial, count),
        temperature=None if temperature is None else _one_a_row("temperatures", temperature, count),
        top_p=None if top_p is None else _one_a_row("values of top_p", top_p, count),
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
    if isinstance(values, int | float | Real):
        return [float(values)] * count
    if len(values) != count:
        raise RequestError(f"{len(values)} {name} were given for {count} rows; give one number, or one a row.")
    return [float(value) for value in values]


def _within(rule: UnmaskingPolicy, passes: float, name: str) -> UnmaskingPolicy:
    """A learned policy whose dial keeps to a budget. Raises RequestError for a policy that has none."""
    if not isinstance(rule, Learned) or not (rule.calibration or rule.tables):
        raise RequestError(
            f"'{name}' cannot keep to {passes:g} passes; a calibrated learned policy can (inside a compound: "
            f"learned:from=...,passes={passes:g})."
        )
    return replace(rule, dial=rule.dial_for(passes))


def _token(tokenizer: Tokenizer, token: int | str) -> int:
    """The id of a token given as an id or a text. Raises RequestError for a text that is not one token."""
    if isinstance(token, int | Integral):
        return int(token)
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
