"""Both strands of DNA: training on either of them, and a denoiser whose prediction is averaged over both.

A sequence and its reverse complement (the letters from last to first, A and T exchanged, C and G exchanged) are the
same molecule. `EitherStrand` trains on one of them at random, as the published models do (Caduceus, arXiv:2403.03234).
`BothStrands` makes the prediction exactly equivariant: p(RC x) = RC p(x). It is a wrapper for trained networks and no
network of its own: in training each step would take two passes, so that at equal operations the network would see half
of the tokens, and augmentation has the same expectation at no cost.
"""

__all__ = ["BothStrands", "EitherStrand", "complement_of", "over_both_strands", "reverse_complement"]

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unmask.denoiser import Denoiser, Wrapper
from unmask.errors import RequestError
from unmask.model.soft import two_pass
from unmask.noise import uniform
from unmask.objective.base import Draw, Loss, Objective, Rows, Turn
from unmask.text.tokenizer import Tokenizer

_STREAM = 11  # of the seed: which strand a row of training has
_PAIRS = {"A": "T", "C": "G", "G": "C", "T": "A", "N": "N"}


def complement_of(tokenizer: Tokenizer) -> tuple[int, ...]:
    """A tokenizer of DNA -> the id of the complement of each id; special tokens are their own.

    Raises RequestError where tokens are not the letters A, C, G, T, and perhaps N.
    """
    special = {*tokenizer.special_ids, *tokenizer.missing(tokenizer.vocab_size)}
    if tokenizer.stand_in is not None:
        special.add(tokenizer.stand_in)
    letters = {tokenizer.piece(token): token for token in range(tokenizer.vocab_size) if token not in special}
    if not {"A", "C", "G", "T"} <= letters.keys() <= _PAIRS.keys():
        raise RequestError(
            "A reverse complement is of DNA, and the tokens here are not the letters A, C, G and T: use the tokenizer "
            "dna (--data.tokenizer dna) and a text of DNA."
        )
    table = list(range(tokenizer.vocab_size))
    for letter, token in letters.items():
        table[token] = letters[_PAIRS[letter]]
    return tuple(table)


def _mirror(tokens: Tensor, valid: Tensor | None) -> Tensor:
    """Rows (B, L) -> the position (B, L) that each position has on the other strand; padding stays where it is."""
    positions = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    if valid is None:
        return positions.flip(-1)
    return torch.where(valid, valid.sum(-1, keepdim=True) - 1 - positions, positions)


def reverse_complement(tokens: Tensor, complement: tuple[int, ...], valid: Tensor | None = None) -> Tensor:
    """Ids (B, L), where MASK may be among them -> those of the other strand; `valid` (B, L) is False on padding."""
    table = torch.tensor(complement, device=tokens.device)
    return table[tokens].gather(1, _mirror(tokens, valid))


@dataclass(frozen=True, slots=True)
class EitherStrand:
    """An Objective that trains on the reverse complement of each row with probability 1/2.

    The bound is that of `inner`. The strand of a row is a function of the seed, the step and its index in the batch.
    """

    inner: Objective
    complement: tuple[int, ...]

    def draw(self, seed: int, step: int, rows: Tensor, total: int, maskable: Tensor) -> Draw:
        """That of `inner`, and whether each row is read from the other strand (B,) bool."""
        number = uniform(torch.tensor(seed), torch.tensor(step), rows, _STREAM)
        return (*self.inner.draw(seed, step, rows, total, maskable), number < 0.5)

    def loss(self, model: Any, rows: Rows, draw: Draw) -> Loss:
        """The loss of `inner` on these strands; what was drawn for a position goes with it to the other strand."""
        *drawn, turned = draw
        device = rows.ids.device
        at = torch.where(turned[:, None], _mirror(rows.ids, rows.valid), torch.arange(rows.ids.shape[1], device=device))
        ids = torch.where(turned[:, None], torch.tensor(self.complement, device=device)[rows.ids], rows.ids)
        moved = Rows(ids.gather(1, at), rows.maskable.gather(1, at), rows.valid)
        return self.inner.loss(model, moved, tuple(x.gather(1, at) if x.dim() == 2 else x for x in drawn))

    def bound(self, model: Any, rows: Rows, turn: Turn) -> Loss:
        """That of `inner`, on the rows as they are."""
        return self.inner.bound(model, rows, turn)


@dataclass(frozen=True)
class BothStrands(Wrapper):
    """A denoiser whose logits are the mean of those of a sequence and of its reverse complement: p(RC x) = RC p(x).

    A pass costs two, run as one batch of 2 B rows; `hidden` is (B, L, 2 D), both side by side. By Hoelder's inequality
    the bound is at most the mean of those of the two strands. Raises RequestError for a network that reads from left to
    right: the two passes would then see what they predict.
    """

    complement: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.causal_block or self.shifted:
            raise RequestError(
                "A prediction over both strands needs a network that attends to all positions; this one reads from "
                "left to right, so that one strand would see what the other predicts."
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
        """As `Denoiser.hidden`. Raises RequestError for positions of its own."""
        if positions is not None:
            raise RequestError("Both strands have the positions 0 to L - 1: leave positions out.")
        mirror = _mirror(tokens, valid)
        both = torch.cat([tokens, torch.tensor(self.complement, device=tokens.device)[tokens].gather(1, mirror)])
        valid, time = (None if x is None else torch.cat([x, x]) for x in (valid, time))
        where = None if where is None else torch.cat([where, where.gather(1, mirror)])
        forward, backward = super().hidden(both, valid=valid, time=time, where=where, **options).chunk(2)
        return torch.cat([forward, backward.gather(1, mirror[..., None].expand_as(backward))], -1)

    def hidden_at(self, tokens: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Raises RequestError: a cache keeps one pass, and here there are two."""
        raise RequestError("A cache cannot serve predictions over both strands, which run two passes; leave one out.")

    def logits(self, hidden: Tensor) -> Tensor:
        forward, backward = (super(BothStrands, self).logits(half) for half in hidden.chunk(2, -1))
        return (forward + backward[..., torch.tensor(self.complement, device=hidden.device)]) / 2


def over_both_strands(denoiser: Denoiser, tokenizer: Tokenizer) -> BothStrands:
    """A denoiser of DNA and its tokenizer -> its predictions over both strands. Raises RequestError as both do."""
    return BothStrands(two_pass(denoiser), complement_of(tokenizer))
