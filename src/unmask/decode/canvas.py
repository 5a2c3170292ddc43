"""Rows being written: the state that the decoding loop carries from turn to turn. Shapes: B rows, L positions."""

__all__ = ["Canvas"]

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Canvas:
    """Rows being written. Every field has the rows as its first axis, so that rows can be picked and put back."""

    tokens: Tensor  # (B, L) int64, MASK where nothing is written yet
    valid: Tensor  # (B, L) bool, False on padding
    seed: Tensor  # (B,) int64: all randomness of the row
    written: Tensor  # (B, L) bool, by us, not by the prompt
    log_prob: Tensor  # (B, L) float32, clean log-probability of a written token at the pass that wrote it, else nan
    margin: Tensor  # (B, L) likewise, nan where the policy did not look
    entropy: Tensor  # (B, L) likewise
    passes: Tensor  # (B,) int64 forward passes so far
    turn: Tensor  # (B,) int64 turns so far: passes, and decisions of nothing that needed no pass
    origin: Tensor  # (B,) the first position to fill, where the first block begins; -1 before the first turn
    block: Tensor  # (B,) the block being filled, -1 before the first turn
    step: Tensor  # (B,) turns spent in that block
    total: Tensor  # (B,) positions it had to fill
    open: Tensor  # (B,) bool, the policy is not done with that block, whether or not a MASK is left in it
    dial: Tensor  # (B,) float32 from 0 (accurate) to 1 (fast), for policies that have one; nan leaves it to the policy

    @classmethod
    def start(cls, tokens: Tensor, seed: Tensor, valid: Tensor | None = None, dial: Tensor | None = None) -> "Canvas":
        """tokens (B, L) with MASK where something is wanted, seed (B,), valid (B, L) where rows are padded; dial (B,)
        where a policy has one and is not to choose itself."""
        zero, unknown = torch.zeros_like(seed), torch.full(tokens.shape, torch.nan, device=tokens.device)
        everywhere = torch.ones_like(tokens, dtype=torch.bool)
        return cls(
            tokens,
            everywhere if valid is None else valid,
            seed,
            ~everywhere,
            unknown,
            unknown,
            unknown,
            zero,
            zero,
            zero - 1,
            zero - 1,
            zero,
            zero,
            zero.bool(),
            unknown[:, 0] if dial is None else dial.float(),
        )

    def keep(self, rows: Tensor) -> "Canvas":
        """Some of the rows, as a canvas of their own."""
        return Canvas(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def put(self, rows: Tensor, part: "Canvas") -> "Canvas":
        """This canvas with `part` in the places `rows`."""
        return Canvas(
            **{f.name: getattr(self, f.name).index_copy(0, rows, getattr(part, f.name)) for f in fields(self)}
        )
