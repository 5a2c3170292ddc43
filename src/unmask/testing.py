"""For tests, here and in other projects: an exact denoiser, and checks of the contracts of a policy and a task.

Shapes: V real tokens (MASK is id V), L positions, B rows, N = V**L sequences.
"""

__all__ = ["TableDenoiser", "check_policy", "check_task", "random_language"]

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from unmask.batch import keep_rows
from unmask.decode.canvas import Canvas, Running, join
from unmask.decode.loop import Decoder, Step
from unmask.denoiser import Denoiser
from unmask.errors import ConfigError, PluginError, plugin_failure
from unmask.noise import generator
from unmask.policies.base import Decision, Needs, State, UnmaskingPolicy, View, needs_of, pair_of
from unmask.tasks.contract import check_task, require_maker

_LARGEST = 2**16  # most contexts in a table
_TURNS = 2_000  # most turns of a policy that hides tokens again, on eight positions


def random_language(vocabulary: int, length: int, seed: int = 0, sharpness: float = 1.5) -> Tensor:
    """Sizes and seed -> a random joint law (V,) * L in float64 with dependent tokens; sharpness 0 is uniform."""
    logits = torch.randn((vocabulary,) * length, generator=generator(seed), dtype=torch.float64)
    return (sharpness * logits).flatten().softmax(0).view(logits.shape)


class TableDenoiser:
    """An exact Denoiser: the posterior p(x_0 | x_t) of a language small enough to enumerate.

    `hidden` is the log posterior (B, L, V + 1) in float64, MASK at -inf, and `logits` returns it unchanged. Padding is
    summed over, so that a shorter row has the marginal law; a context of probability zero has a uniform posterior. With
    `time_conditioned` each call requires the time, and `times` lists the times of all calls. It has no attention; for
    policies that read one it is made up: larger between near positions, and to tokens of a low id.
    """

    def __init__(self, joint: Tensor, *, time_conditioned: bool = False) -> None:
        """`joint` is (V,) * L: the probability of each sequence. Raises ConfigError if it is no distribution."""
        if joint.ndim < 1 or len(set(joint.shape)) != 1 or (joint.shape[0] + 1) ** joint.ndim > _LARGEST:
            raise ConfigError(
                f"A joint of shape {tuple(joint.shape)} cannot be made a table; "
                f"give (V,) * L with (V + 1)**L of at most {_LARGEST}."
            )
        if bool((joint < 0).any()) or abs(float(joint.double().sum()) - 1) > 1e-6:
            raise ConfigError("A joint has to be a distribution; give probabilities of at least 0 that sum to 1.")
        self.joint = joint.double()
        self.time_conditioned = time_conditioned
        self.times: list[Tensor] = []
        self.maps: list[Tensor] | None = None
        self._posterior = self._enumerate()

    @property
    def mask_id(self) -> int:
        """V; the ids below it are the real tokens."""
        return self.joint.shape[0]

    @property
    def vocab_size(self) -> int:
        """V + 1."""
        return self.mask_id + 1

    @property
    def max_length(self) -> int:
        """L; all rows have this length."""
        return self.joint.ndim

    def sequences(self) -> Tensor:
        """All sequences (N, L), in the order of `joint.flatten()`."""
        return torch.ones(self.joint.shape).nonzero()

    def hidden(
        self,
        tokens: Tensor,
        *,
        valid: Tensor | None = None,
        time: Tensor | None = None,
        positions: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B, L) -> log posterior (B, L, V + 1). Raises PluginError where a time is missing or not expected."""
        if (time is None) == self.time_conditioned:
            rule = "requires a" if self.time_conditioned else "takes no"
            raise PluginError(f"This denoiser {rule} time; check its time_conditioned before the call.")
        if time is not None:
            self.times.append(time.detach().clone())
        if self.maps is not None:
            self.maps.append(_nearness(tokens))
        seen = tokens if valid is None else torch.where(valid, tokens, self.mask_id)
        digits = self.vocab_size ** torch.arange(self.max_length - 1, -1, -1)
        return self._posterior[(seen * digits).sum(-1)]

    def logits(self, hidden: Tensor) -> Tensor:
        """The output of `hidden`, unchanged."""
        return hidden

    def _enumerate(self) -> Tensor:
        """The log posterior of every context: ((V + 1)**L, L, V + 1)."""
        contexts = torch.ones((self.vocab_size,) * self.max_length).nonzero()
        sequences = self.sequences()
        fits = ((contexts[:, None] == sequences) | (contexts == self.mask_id)[:, None]).all(-1)
        one_hot = torch.nn.functional.one_hot(sequences, self.vocab_size).double()
        mass = ((fits * self.joint.flatten()) @ one_hot.flatten(1)).view(*contexts.shape, self.vocab_size)
        total = mass.sum(-1, keepdim=True)
        uniform = (torch.arange(self.vocab_size) < self.mask_id) / self.mask_id
        return torch.where(total > 0, mass / total.clamp(min=torch.finfo(torch.float64).tiny), uniform).log()


def _nearness(tokens: Tensor) -> Tensor:
    """Tokens (B, L) -> a made-up attention (B, L, L), each row of which sums to 1."""
    places = torch.arange(tokens.shape[1])
    weights = 1.0 / (1 + (places[:, None] - places).abs() + tokens[:, None])
    return weights / weights.sum(-1, keepdim=True)


def check_policy(
    make_policy: Callable[[], UnmaskingPolicy],
    *,
    temperature: float = 0.0,
    block_size: int | None = None,
    seed: int = 0,
    denoiser: Denoiser | None = None,
) -> None:
    """Check the whole contract of a policy; `make_policy` returns a new one at each call.

    The contract: it reveals eligible positions only, each pass writes a token, decoding ends, prompts and padding stay,
    the same seed gives the same text, and a row does not depend on the other rows, also when it joins them midway or is
    resumed from its canvas and state. `denoiser` is a table of eight positions by default; any other, for example a
    cache, has at least 32 positions, and its contract is checked too. Raises PluginError, in a sentence, for the first
    rule that is broken.
    """
    require_maker(make_policy, "make_policy", "policy")
    model = TableDenoiser(random_language(2, 8, seed)) if denoiser is None else denoiser
    mask_id = model.mask_id

    def decoder() -> Decoder:
        return Decoder(model, _CheckedPolicy(make_policy()), temperature, 1.0, block_size)

    canvas = _example(mask_id, seed, 1 if denoiser is None else 4)
    whole, _ = _drive(decoder(), canvas)
    name = repr(make_policy())
    _same(_drive(decoder(), canvas)[0], whole, f"{name} does not give the same text for the same seed")
    for row in range(len(whole.seed)):
        index = torch.tensor([row])
        _same(
            _drive(decoder(), canvas.keep(index))[0],
            whole.keep(index),
            f"{name} writes a row differently when it is alone",
        )
    early, late = torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])
    for passes in (1, 2, 3):
        left, state = _drive(decoder(), canvas, passes=passes)
        _same(_drive(decoder(), left, state)[0], whole, f"{name} does not go on as before when it is resumed")
        begun = _drive(decoder(), canvas.keep(early), passes=passes)
        joined = _joined(decoder(), *begun, canvas.keep(late))
        _same(
            joined, whole.keep(torch.cat([early, late])), f"{name} writes a row differently when it joins others midway"
        )


class _CheckedPolicy:
    """A policy whose calls are checked: it must not change its view, and its decisions must have the right form."""

    def __init__(self, policy: UnmaskingPolicy) -> None:
        self.policy = policy

    def __repr__(self) -> str:
        return repr(self.policy)

    @property
    def looks(self) -> bool:
        return getattr(self.policy, "looks", True)

    @property
    def needs(self) -> Needs:
        return needs_of(self.policy)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        copy = view.keep(torch.arange(len(view.step)))
        with plugin_failure(f"The policy {self!r}"):
            decision, new = pair_of(self.policy(copy, state))
        for field in fields(view):
            after, before = getattr(copy, field.name), getattr(view, field.name)
            if isinstance(after, Tensor) and not torch.equal(torch.nan_to_num(after), torch.nan_to_num(before)):
                raise PluginError(
                    f"{self!r} changed view.{field.name}; a policy reads its view and writes nothing in it."
                )
        if decision.reveal.dtype != torch.bool or decision.reveal.shape != view.eligible.shape:
            raise PluginError(
                f"{self!r} returned a reveal of {decision.reveal.dtype} {tuple(decision.reveal.shape)}; "
                f"it has to be a bool for each position, {tuple(view.eligible.shape)}."
            )
        if decision.time is not None and (self.looks or not bool(((decision.time > 0) & (decision.time <= 1)).all())):
            raise PluginError(f"{self!r} gave a time; only a policy with looks = False does, and it lies in (0, 1].")
        return decision, new


def _example(mask_id: int, seed: int, times: int) -> Canvas:
    """Rows with no prompt, a prompt at the left, scattered holes, a single hole, and padding; `times` as long."""
    holes = ("11111111", "00011111", "10110111", "00000100", "11111100", "11111111")
    open_ = torch.tensor([[mark == "1" for mark in row] for row in holes]).repeat(1, times)
    tokens = torch.randint(mask_id, open_.shape, generator=generator(seed, 1))
    valid = torch.ones_like(open_)
    valid[4, 8 * times - 2 :] = False
    seeds = torch.arange(len(open_)) + 1000 * seed
    return Canvas.start(torch.where(open_, mask_id, tokens), seeds, valid)


def _drive(decoder: Decoder, canvas: Canvas, state: State = None, passes: int = -1) -> tuple[Canvas, State]:
    """Decode for `passes` passes, or to the end; `state` is that of the unfinished rows, in their order."""
    rows = decoder.unfinished(canvas).nonzero().squeeze(-1)
    while len(rows) and passes != 0:
        part, state, step = decoder.step(canvas.keep(rows), state)
        _inspect(decoder, canvas.keep(rows), part, step)
        canvas, passes = canvas.put(rows, part), passes - 1
        left = decoder.unfinished(part)
        rows, state = rows[left], keep_rows(state, left)
    return canvas, state


def _inspect(decoder: Decoder, before: Canvas, after: Canvas, step: Step) -> None:
    """Check one turn: it wrote a token in each row, and changed only positions that were masked or are hidden again."""
    changed = after.tokens != before.tokens
    free = ((before.tokens == decoder.denoiser.mask_id) & before.valid) | step.remasked
    if bool((changed & ~free).any()):
        raise PluginError(
            f"{decoder.policy!r} changed a token that was written before; it may only fill masked positions."
        )
    if bool((step.remasked & ~before.written).any()):
        raise PluginError(f"{decoder.policy!r} hid a token of the prompt; it may only hide written tokens.")
    if step.decision.done is not None:
        if int(after.turn.max()) > _TURNS:
            raise PluginError(f"{decoder.policy!r} is not done after {_TURNS} turns; `done` has to become True.")
    elif not bool(changed.any(-1).all()):
        raise PluginError(
            f"{decoder.policy!r} spent a pass on a row and wrote nothing; each pass has to reveal something."
        )


def _joined(decoder: Decoder, begun: Canvas, state: State, fresh: Canvas) -> Canvas:
    """Begun rows, their state and new rows -> all rows decoded to the end, the new ones below.

    The new rows start with the state of another row, which a policy has to ignore.
    """
    unfinished = decoder.unfinished(begun)
    old, new = int(unfinished.sum()), len(fresh.seed)
    another = keep_rows(state, torch.zeros(new, dtype=torch.int64)) if old else None
    both = join(Running(begun.keep(unfinished), state if old else None), Running(fresh, another))
    done, _ = _drive(decoder, *both)
    left, right = (Running(part) for part in (done.keep(torch.arange(old)), done.keep(old + torch.arange(new))))
    return join(Running(begun.put(unfinished.nonzero().squeeze(-1), left.canvas)), right).canvas


def _same(canvas: Canvas, expected: Canvas, complaint: str) -> None:
    """Raise PluginError unless tokens, log-probabilities, passes and row-passes are equal in every bit."""
    for name in ("tokens", "log_prob", "passes", "row_passes"):
        if not torch.equal(getattr(canvas, name).nan_to_num(), getattr(expected, name).nan_to_num()):
            raise PluginError(f"{complaint}; it may depend on its view, the row's own state and view.noise alone.")
