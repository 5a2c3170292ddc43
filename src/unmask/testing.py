"""For tests, here and in other projects: a model that is exactly right, and the contracts of a policy and a task.

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
from unmask.errors import ConfigError, PluginError
from unmask.noise import generator
from unmask.policies.base import Decision, Needs, State, UnmaskingPolicy, View, needs_of
from unmask.tasks.contract import check_task

_LARGEST = 2**16  # contexts in a table
_TURNS = 2_000  # a policy that hides again ends within so many on eight positions


def random_language(vocabulary: int, length: int, seed: int = 0, sharpness: float = 1.5) -> Tensor:
    """A joint distribution (V,) * L in float64 whose tokens depend on one another; sharpness 0 makes it uniform."""
    logits = torch.randn((vocabulary,) * length, generator=generator(seed), dtype=torch.float64)
    return (sharpness * logits).flatten().softmax(0).view(logits.shape)


class TableDenoiser:
    """The exact posterior p(x_0 | x_t) of a language small enough to enumerate: a perfect Denoiser.

    `hidden` is the log posterior itself (B, L, V + 1) in float64, MASK at -inf, and `logits` hands it on. Padding is
    summed over, so that a shorter row has the marginal law; a context that the language does not allow gets a uniform
    answer. With `time_conditioned` it insists on being told the time, and keeps what it was told in `told`.
    """

    def __init__(self, joint: Tensor, *, time_conditioned: bool = False) -> None:
        """`joint` is (V,) * L: the probability of each sequence. Raises ConfigError where it is no such thing."""
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
        self._posterior = self._enumerate()

    @property
    def mask_id(self) -> int:
        """V: the ids below it are the real tokens."""
        return self.joint.shape[0]

    @property
    def vocab_size(self) -> int:
        """V + 1."""
        return self.mask_id + 1

    @property
    def max_length(self) -> int:
        """L; the table knows rows of this length only."""
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
        """The log posterior (B, L, V + 1). Raises PluginError where the time is missing or was not asked for."""
        if (time is None) == self.time_conditioned:
            wanted = "wants" if self.time_conditioned else "takes no"
            raise PluginError(f"This denoiser {wanted} time; look at its time_conditioned before the call.")
        if time is not None:
            self.times.append(time.detach().clone())
        seen = tokens if valid is None else torch.where(valid, tokens, self.mask_id)
        place = self.vocab_size ** torch.arange(self.max_length - 1, -1, -1)
        return self._posterior[(seen * place).sum(-1)]

    def logits(self, hidden: Tensor) -> Tensor:
        """What `hidden` gave."""
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


def check_policy(
    make_policy: Callable[[], UnmaskingPolicy],
    *,
    temperature: float = 0.0,
    block_size: int | None = None,
    seed: int = 0,
    denoiser: Denoiser | None = None,
) -> None:
    """Drive a policy through every promise it makes; `make_policy` makes a new one each time it is called.

    It reveals eligible positions only, each pass writes something, decoding ends, prompts and padding stay, the same
    seed gives the same text, a row does not depend on the rows beside it, may join them while they are under way, and
    goes on in the middle from its canvas and state alone. `denoiser` is a table of eight positions by default; another,
    a cache for one, is made for at least 32, and its promises are tried with the policy's. Raises PluginError, in a
    sentence, for the first that fails.
    """
    model = TableDenoiser(random_language(2, 8, seed)) if denoiser is None else denoiser
    mask_id = model.mask_id

    def decoder() -> Decoder:
        return Decoder(model, _Watched(make_policy()), temperature, 1.0, block_size)

    canvas = _example(mask_id, seed, 1 if denoiser is None else 4)
    whole, _ = _drive(decoder(), canvas)
    who = repr(make_policy())
    _same(_drive(decoder(), canvas)[0], whole, f"{who} does not give the same text for the same seed")
    for row in range(len(whole.seed)):
        one = torch.tensor([row])
        _same(
            _drive(decoder(), canvas.keep(one))[0], whole.keep(one), f"{who} writes a row differently when it is alone"
        )
    early, late = torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])
    for passes in (1, 2, 3):
        left, state = _drive(decoder(), canvas, passes=passes)
        _same(_drive(decoder(), left, state)[0], whole, f"{who} does not go on as before when it is resumed")
        begun = _drive(decoder(), canvas.keep(early), passes=passes)
        joined = _joined(decoder(), *begun, canvas.keep(late))
        _same(
            joined, whole.keep(torch.cat([early, late])), f"{who} writes a row differently when it joins others midway"
        )


class _Watched:
    """A policy under observation: what it is given must stay as it is, what it answers must have the right form."""

    def __init__(self, policy: UnmaskingPolicy) -> None:
        self.policy = policy

    def __repr__(self) -> str:
        return repr(self.policy)

    @property
    def looks(self) -> bool:
        return self.policy.looks

    @property
    def needs(self) -> Needs:
        return needs_of(self.policy)

    def __call__(self, view: View, state: State) -> tuple[Decision, State]:
        given = view.keep(torch.arange(len(view.step)))
        decision, new = self.policy(given, state)
        for f in fields(view):
            one, other = getattr(given, f.name), getattr(view, f.name)
            if one is not None and not torch.equal(torch.nan_to_num(one), torch.nan_to_num(other)):
                raise PluginError(f"{self!r} changed view.{f.name}; a policy reads its view and writes nothing in it.")
        if decision.reveal.dtype != torch.bool or decision.reveal.shape != view.eligible.shape:
            raise PluginError(
                f"{self!r} answered with a reveal of {decision.reveal.dtype} {tuple(decision.reveal.shape)}; "
                f"it has to be a bool for each position, {tuple(view.eligible.shape)}."
            )
        if decision.time is not None and (self.looks or not bool(((decision.time > 0) & (decision.time <= 1)).all())):
            raise PluginError(f"{self!r} gave a time; only a policy with looks = False does, and it lies in (0, 1].")
        return decision, new


def _example(mask_id: int, seed: int, times: int) -> Canvas:
    """Rows with no prompt, a prompt at the left, scattered holes, a single hole, and padding; repeated `times`."""
    holes = ("11111111", "00011111", "10110111", "00000100", "11111100", "11111111")
    open_ = torch.tensor([[place == "1" for place in row] for row in holes]).repeat(1, times)
    given = torch.randint(mask_id, open_.shape, generator=generator(seed, 1))
    valid = torch.ones_like(open_)
    valid[4, 8 * times - 2 :] = False
    seeds = torch.arange(len(open_)) + 1000 * seed
    return Canvas.start(torch.where(open_, mask_id, given), seeds, valid)


def _drive(decoder: Decoder, canvas: Canvas, state: State = None, passes: int = -1) -> tuple[Canvas, State]:
    """So many passes, or all; `state` goes in and comes out as that of the unfinished rows, in their order."""
    rows = decoder.unfinished(canvas).nonzero().squeeze(-1)
    while len(rows) and passes != 0:
        part, state, step = decoder.step(canvas.keep(rows), state)
        _inspect(decoder, canvas.keep(rows), part, step)
        canvas, passes = canvas.put(rows, part), passes - 1
        left = decoder.unfinished(part)
        rows, state = rows[left], keep_rows(state, left)
    return canvas, state


def _inspect(decoder: Decoder, before: Canvas, after: Canvas, step: Step) -> None:
    """One turn: something was written in each row, and nothing was touched but what was masked or hidden again."""
    changed = after.tokens != before.tokens
    free = ((before.tokens == decoder.denoiser.mask_id) & before.valid) | step.remasked
    if bool((changed & ~free).any()):
        raise PluginError(f"{decoder.policy!r} changed a token that stood already; it may only fill what is masked.")
    if bool((step.remasked & ~before.written).any()):
        raise PluginError(f"{decoder.policy!r} hid a token of the prompt; it may only hide what was written.")
    if step.decision.done is not None:
        if int(after.turn.max()) > _TURNS:
            raise PluginError(f"{decoder.policy!r} is not done after {_TURNS} turns; it has to say so at some time.")
    elif not bool(changed.any(-1).all()):
        raise PluginError(
            f"{decoder.policy!r} spent a pass on a row and wrote nothing; each pass has to reveal something."
        )


def _joined(decoder: Decoder, begun: Canvas, state: State, fresh: Canvas) -> Canvas:
    """Rows that join others midway, all decoded to the end: the old above the fresh.

    The fresh rows come with the state of another row, which they have to forget.
    """
    going = decoder.unfinished(begun)
    old, new = int(going.sum()), len(fresh.seed)
    another = keep_rows(state, torch.zeros(new, dtype=torch.int64)) if old else None
    both = join(Running(begun.keep(going), state if old else None), Running(fresh, another))
    done, _ = _drive(decoder, *both)
    left, right = (Running(part) for part in (done.keep(torch.arange(old)), done.keep(old + torch.arange(new))))
    return join(Running(begun.put(going.nonzero().squeeze(-1), left.canvas)), right).canvas


def _same(found: Canvas, wanted: Canvas, complaint: str) -> None:
    """The two canvases agree in every bit of tokens, log-probabilities and passes."""
    for name in ("tokens", "log_prob", "passes"):
        if not torch.equal(getattr(found, name).nan_to_num(), getattr(wanted, name).nan_to_num()):
            raise PluginError(f"{complaint}; it may depend on its view, the row's own state and view.noise alone.")
