"""The Denoiser protocol: tokens -> p(x_0 | x_t), split into a network and a vocabulary head; protocols and wrappers.

`hidden` runs the network, `logits` the vocabulary head. With this split the head, the softmax and every other tensor of
width V are computed only at the positions that need them. Shapes: B batch, L positions, D width, V vocabulary.
"""

__all__ = [
    "Attending",
    "Caching",
    "Denoiser",
    "Guided",
    "Place",
    "Selecting",
    "Suppressed",
    "Trainable",
    "Wrapper",
    "attending",
    "clean_log_probs",
    "clean_mass",
    "selection",
]

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, cast, runtime_checkable

import torch
from torch import Tensor, nn

from unmask.errors import RequestError
from unmask.ranges import Guidance, check_value


@runtime_checkable
class Denoiser(Protocol):
    """A bidirectional network that predicts clean tokens from a partly masked sequence.

    `vocab_size` is V, the number of ids of the head, MASK included; `max_length` is the longest sequence that it
    supports (None: no limit); `time_conditioned` is True if `hidden` needs `time`. It may have attributes more:
    `causal_block`, the size of the blocks of block-causal attention (0: a position attends to all), and `shifted`, True
    if the prediction for position i needs a pass at position i - 1; `frame`, the ids of the start and end tokens that
    it puts around every text itself; `parameterization`, what its logits are (`DiTSettings`), by default "subs";
    `begins`, True if a shifted one predicts the first token of a text at its own position, where it sees MASK; and
    `soft`, the number of tokens in its soft masks, 0 for none: its `hidden`, `hidden_at` and `recall` take `feedback`;
    `two_pass`, True if it runs a network with soft masks twice for each prediction (`unmask.model.soft`).
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def mask_id(self) -> int: ...
    @property
    def max_length(self) -> int | None: ...
    @property
    def time_conditioned(self) -> bool: ...

    def hidden(
        self,
        tokens: Tensor,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        positions: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B, L) int64 -> hidden states (B, L, D).

        `valid` (B, L) is False on padding, which is never attended to; positions from `max_length` on have to be
        padding in every row. `time` (B,) in (0, 1] is the expected share of masked tokens, 1 - alpha(t). `positions`
        (B, L) are the positions of the tokens (default 0 .. L-1). `prompt` (B, L) bool marks the tokens of the prompt,
        for wrappers such as `Guided`; a network ignores it.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D), at any positions -> logits (..., V): a new tensor, which the caller may change."""
        ...


@runtime_checkable
class Selecting(Denoiser, Protocol):
    """A denoiser whose `hidden` and `hidden_at` take `where` (B, A) bool: the positions whose hidden states are needed.

    The others are arbitrary. What a position gets does not depend on which others are needed, in training to rounding.
    """

    @property
    def selects(self) -> bool: ...


class Trainable(Denoiser, Protocol):
    """A denoiser that objectives can fit and checkpoints can hold: a torch.nn.Module with the members below.

    `settings` is a frozen dataclass of plain values; its class names the architecture (`unmask.model.load.register`),
    and the two rebuild the network. The members from `training` on are those of nn.Module that the library uses.

    The trainer sets `dropout_keys` (2, B) int64 before each pass: of each row of the pass, what its dropout is a
    function of, beside the site and the position (`unmask.model.layers`: `site_keys`, then `join`). A network drops in
    training mode only, and nothing where the keys are None; one without dropout ignores them.
    """

    settings: Any
    dropout_keys: Tensor | None
    training: bool

    @property
    def max_length(self) -> int: ...
    @property
    def width(self) -> int:
        """D, the size of the hidden states."""
        ...

    def lowered(self, dtype: torch.dtype) -> Self:
        """The network itself with the weights of its matrix products held in `dtype`, so that autocast in that dtype
        has nothing to convert; one that has no such weights returns itself unchanged."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    def to(self, device: torch.device) -> Self: ...


@runtime_checkable
class Attending(Denoiser, Protocol):
    """A denoiser that can run at some positions, with keys and values of earlier passes at the others."""

    def hidden_at(
        self,
        tokens: Tensor,
        at: Tensor | None = None,
        kept: tuple[Tensor, ...] = (),
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        length: int = 0,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Tokens (B, A) at positions `at` (B, A), distinct in a row -> (B, A, D), and `kept` with new values there.

        Without `at` and `kept` it is `hidden` at all A = L positions, equal in every bit. The tensors of `kept` have
        the rows first and then the positions (B, L, ...); none is written to. `valid` is (B, L). With `at` and no
        `kept`, what is not computed is zero, and `length` is L.
        """
        ...


def selection(denoiser: Denoiser, where: Tensor | None, feedback: Any = None) -> dict[str, Any]:
    """A denoiser and the positions whose hidden states are needed -> the argument that says so, if it takes it.

    With the `feedback` of a pass before, for a denoiser with soft masks, also that argument.
    """
    chosen = {} if where is None or not getattr(denoiser, "selects", False) else {"where": where}
    return chosen if feedback is None else chosen | {"feedback": feedback}


class Place(NamedTuple):
    """The state of decoding that a cache may use."""

    block: Tensor  # (B, L) bool: positions that the policy may reveal or hide in this pass
    masked: Tensor  # (B, L) bool: still MASK
    step: Tensor  # (B,) number of earlier passes in this block; 0 in the first


@runtime_checkable
class Caching(Denoiser, Protocol):
    """A denoiser with a memory of earlier passes, which is an argument and a result: a tensor or a tuple of tensors.

    Rows are the first dimension, so that rows can leave, join and resume; the decoding loop keeps the memory with the
    state of the policy. A row is ignored where `place.step == 0`; a row of zeros is an empty memory.
    """

    def recall(
        self,
        tokens: Tensor,
        place: Place,
        memory: Any,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        prompt: Tensor | None = None,
        sizes: list[int] | None = None,
        feedback: Any = None,
    ) -> tuple[Tensor, Any]:
        """Tokens (B, L) and a memory, None at first -> hidden states (B, L, D) and the new memory.

        The hidden states are exact or approximate at each MASK of `place.block`, and arbitrary elsewhere. `sizes` are
        the values of `sizes()` for these arguments, where the caller has read them.
        """
        ...

    def sizes(self, tokens: Tensor, place: Place, memory: Any) -> Tensor:
        """The number of positions that `recall` computes in each row, (B,) int64."""
        ...


def clean_log_probs(logits: Tensor, mask_id: int, *, keep: bool = True) -> Tensor:
    """Logits (..., V) -> log p(x_0) (..., V) in float32, with probability zero for MASK (SUBS, MDLM 3.2.3).

    Visible tokens are copied (SUBS) without arithmetic. Without `keep` the logit of MASK is overwritten, not a copy's.
    """
    logits = logits.to(torch.float32, copy=keep)
    logits[..., mask_id] = -torch.inf  # a scalar: an index tensor would be a transfer to the device
    return logits.log_softmax(-1)


def clean_mass(logits: Tensor, mask_id: int, parameterization: str) -> Tensor:
    """Logits (N, V) and what they are -> the sum of the prediction over all tokens but MASK, (N,) float32.

    1 for "subs"; 1 - p(MASK) for "d3pm"; for "sedd" the sum of the scores times (1 - alpha) / alpha.
    """
    if parameterization == "sedd":
        scores = (logits.float() - math.log(logits.shape[-1] - 1)).exp()
        return scores.sum(-1) - scores[:, mask_id]
    if parameterization == "d3pm":
        return 1 - logits.float().softmax(-1)[:, mask_id]
    return logits.new_ones(len(logits), dtype=torch.float32)


def _inherited(name: str) -> Any:
    """The name of an attribute -> the property of a wrapper with the value of the inner denoiser; 0 without one."""
    return property(lambda wrapper: getattr(wrapper.inner, name, 0))


@dataclass(frozen=True)
class Wrapper:
    """A denoiser around another; a subclass changes a part of its behaviour.

    Wrappers are nested as `cache(Suppressed(LowPrecision(network)))`: a cache is the outermost.
    """

    inner: Denoiser

    def __post_init__(self) -> None:
        if isinstance(self.inner, Caching):
            raise RequestError(
                f"{type(self).__name__} cannot go around {type(self.inner).__name__}: a cache is the outermost wrapper."
            )

    vocab_size, mask_id, max_length = map(_inherited, ("vocab_size", "mask_id", "max_length"))
    time_conditioned = _inherited("time_conditioned")
    selects, causal_block, shifted, frame = map(_inherited, ("selects", "causal_block", "shifted", "frame"))
    parameterization, begins = map(_inherited, ("parameterization", "begins"))
    soft, two_pass = map(_inherited, ("soft", "two_pass"))

    def hidden(self, tokens: Tensor, *, where: Tensor | None = None, **options: Any) -> Tensor:
        """As `Denoiser.hidden`, with the other arguments that the inner denoiser takes."""
        return self.inner.hidden(tokens, **options, **selection(self.inner, where))

    def hidden_at(
        self, tokens: Tensor, *rest: Any, where: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `Attending`, if the inner denoiser supports it: see `attending`."""
        inner = cast(Attending, self.inner)
        return inner.hidden_at(tokens, *rest, **options, **selection(inner, where))

    def logits(self, hidden: Tensor) -> Tensor:
        return self.inner.logits(hidden)


@dataclass(frozen=True)
class Suppressed(Wrapper):
    """A denoiser that never writes the tokens `ids`: their logits are -inf.

    Raises RequestError for an id that the denoiser does not have, or if no token is left.
    """

    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        for token in self.ids:
            if not 0 <= token < self.vocab_size:
                raise RequestError(f"Token {token} cannot be suppressed; ids run from 0 to {self.vocab_size - 1}.")
        if len({*self.ids, self.mask_id}) == self.vocab_size:
            raise RequestError("Every token would be suppressed; leave at least one to write.")

    def logits(self, hidden: Tensor) -> Tensor:
        logits = super().logits(hidden)
        return logits.index_fill_(-1, torch.tensor(self.ids, dtype=torch.int64, device=logits.device), -torch.inf)


@dataclass(frozen=True)
class Guided(Wrapper):
    """Unsupervised classifier-free guidance towards the prompt (SMDM, arXiv:2410.18514; LLaDA, arXiv:2502.09992).

    logits = unconditional + (scale + 1) * (conditional - unconditional), where the unconditional pass sees MASK in
    place of the prompt. A pass costs two, run as one batch of 2 B rows; `hidden` is (B, L, 2 D), both side by side. A
    time-conditioned denoiser gets the same time in both. A token with a logit of -inf in either keeps the conditional
    logit. Raises RequestError for a scale below 0, and for soft masks.
    """

    scale: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_value("guidance", self.scale, Guidance, RequestError)
        if self.soft:
            raise RequestError(
                "Guidance does not go with soft masks: the pass without the prompt has no last pass of its own. Leave "
                "guidance out, or decode with plain masks: --feedback off, in Python feedback=False."
            )

    def hidden(
        self,
        tokens: Tensor,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        positions: Tensor | None = None,
        prompt: Tensor | None = None,
        where: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """As `Denoiser.hidden`. Raises RequestError without `prompt`."""
        if prompt is None:
            raise RequestError("Guidance has to know which tokens are the prompt; pass prompt (B, L).")
        both = torch.cat([tokens, tokens.masked_fill(prompt, self.mask_id)])
        valid, time, positions, where = (
            None if x is None else torch.cat([x, x]) for x in (valid, time, positions, where)
        )
        hidden = super().hidden(both, valid=valid, time=time, positions=positions, where=where, **options)
        return torch.cat(hidden.chunk(2), -1)

    def hidden_at(self, tokens: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Raises RequestError: a cache keeps one pass, and guidance has two."""
        return attending(self).hidden_at(tokens, *rest, **options)

    def logits(self, hidden: Tensor) -> Tensor:
        conditional, unconditional = (super(Guided, self).logits(half) for half in hidden.chunk(2, -1))
        guided = conditional + self.scale * (conditional - unconditional)
        return torch.where(conditional.isfinite() & unconditional.isfinite(), guided, conditional)


def attending(denoiser: Denoiser) -> Attending:
    """A denoiser -> the same, typed as `Attending`. Raises RequestError if it cannot keep keys and values."""
    inner = denoiser
    while isinstance(inner, Wrapper):
        if isinstance(inner, Guided):
            raise RequestError("A cache cannot serve guidance, which runs two passes; leave out one of them.")
        inner = inner.inner
    if not isinstance(inner, Attending) or not isinstance(denoiser, Attending):
        raise RequestError(f"{type(inner).__name__} keeps no keys and values; decode it without a cache.")
    return denoiser
