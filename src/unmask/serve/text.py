"""A row as it is written -> the text that a client can have: what is written from its beginning on without a gap.

Positions are written in any order, and text streams from left to right: so a stream has the longest written beginning.
It never takes a letter back. Held back are a character of which bytes are missing, and what may be the beginning of a
text at which the client wants to stop. A policy that hides tokens again keeps back the block that is being filled.
"""

__all__ = ["TextRow", "TokenFact"]

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from unmask.decode.rows import Written
from unmask.serve.job import Progress
from unmask.text.tokenizer import Tokenizer

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_CONTEXT = 32  # tokens of the prompt that are decoded with the text


class TokenFact(NamedTuple):
    """A written token, and how probable it was at the pass that wrote it."""

    token: int
    log_prob: float
    best: list[tuple[int, float]]
    """The most probable tokens of that pass with their log-probabilities, where they were asked for."""


class TextRow:
    """The continuation of a prompt as it grows; `advance` after each pass, `finish` at the end."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        *,
        typed: Mapping[int, str] | None = None,
        stops: Sequence[str] = (),
        ends: frozenset[int] = frozenset(),
        hides: bool = False,
        facts: bool = False,
        most: int | None = None,
    ) -> None:
        """`ends`: ids at which the text ends. `hides`: whether the policy may hide tokens again. `facts`: whether to
        keep `TokenFact`s. `most`: tokens behind the prompt that are the text; None: all."""
        self.tokenizer, self.prompt, self.typed = tokenizer, list(prompt), dict(typed or {})
        self.stops, self.ends, self.hides, self.most = tuple(stops), ends, hides, most
        self.facts: dict[int, TokenFact] | None = {} if facts else None
        """By position in the whole text."""
        self.text = ""
        """What a client can have so far."""
        self.tokens: list[int] = []
        """The written tokens of the beginning, without one that ends the text."""
        self.stopped = False
        """Whether the text is over: at an end token or at one of `stops`."""
        self.passes = 0
        # how a token is written depends on those just before it, so the others are not decoded after each pass
        begin = max(0, len(self.prompt) - _CONTEXT)
        self._context = self.prompt[begin:]
        self._shown = {at - begin: shown for at, shown in self.typed.items() if at >= begin}
        self._head = tokenizer.text(self._context, self._shown)

    def advance(self, progress: Progress) -> str:
        """What a pass did -> the text that it adds."""
        self.passes = progress.passes
        if self.facts is not None:
            self._note(progress)
        end = progress.settled if self.hides else len(progress.tokens)
        return self._extend(progress.tokens[:end], over=False)

    def finish(self, written: Written) -> str:
        """The finished row -> the rest of the text."""
        self.passes = written.passes
        rest = self._extend(written.tokens, over=True)
        self.stopped = self.stopped or written.stopped
        return rest

    def draft(self, tokens: Sequence[int]) -> str:
        """The text if these were its tokens, up to the first MASK; nothing of it is kept."""
        text = self._read(self._beginning(tokens)[0])
        return text[: self._stop(text)]

    def _note(self, progress: Progress) -> None:
        """Keep the facts of the tokens that this pass wrote."""
        assert self.facts is not None
        turn = progress.turn()
        step, canvas = turn.step, turn.canvas
        for at in step.revealed[0].nonzero().squeeze(-1).tolist():
            best: list[tuple[int, float]] = []
            if step.candidates is not None and step.candidate_log_probs is not None:
                values = step.candidate_log_probs[0, at]
                pairs = zip(step.candidates[0, at].tolist(), values.tolist(), strict=True)
                best = [pair for pair in pairs if pair[1] > -torch.inf]
            fact = TokenFact(int(canvas.tokens[0, at]), float(canvas.log_prob[0, at]), best)
            self.facts[turn.starts[0] + at] = fact

    def _extend(self, tokens: Sequence[int], *, over: bool) -> str:
        """The tokens from the prompt on -> the text that they add to `text`."""
        if self.stopped:
            return ""
        self.tokens, ended = self._beginning(tokens)
        self.stopped = ended
        over = over or ended
        text = self._read(self.tokens)
        text = self._cut(text if over else text.rstrip(_UNKNOWN), over)
        if not text.startswith(self.text):  # a later token changed how an earlier one is written
            return ""
        added, self.text = text[len(self.text) :], text
        while self.stopped and not ended and self.tokens and self._read(self.tokens[:-1]).startswith(text):
            self.tokens.pop()  # the text at which it stops, and what was written behind it
        return added

    def _beginning(self, tokens: Sequence[int]) -> tuple[list[int], bool]:
        """The tokens from the prompt on -> those before the first MASK or end token, and whether it is an end token."""
        beginning: list[int] = []
        for token in tokens[len(self.prompt) :][: self.most]:
            if token == self.tokenizer.mask_id or token in self.ends:
                return beginning, token in self.ends
            beginning.append(token)
        return beginning, False

    def _read(self, tokens: list[int]) -> str:
        """Tokens behind the prompt -> their text, with the space before the first one."""
        whole = self.tokenizer.text([*self._context, *tokens], self._shown)
        return whole[len(self._head) :] if whole.startswith(self._head) else self.tokenizer.text(tokens)

    def _stop(self, text: str) -> int | None:
        """Where the first stop text begins in a text; None without one."""
        return min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=None)

    def _cut(self, text: str, over: bool) -> str:
        """A text -> the part before the first stop text; without what may become one, unless it is over."""
        if (at := self._stop(text)) is not None:
            self.stopped = True
            return text[:at]
        if over or self.stopped:
            return text
        held = max(
            (n for stop in self.stops for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])),
            default=0,
        )
        return text[: len(text) - held]
