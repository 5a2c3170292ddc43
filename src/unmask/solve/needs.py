"""What decoding with a transformer needs, by arithmetic from its settings: memory, operations, hours, disk.

An operation is an addition or a multiplication. Only matrix products are counted; attention is counted for all
positions, as for a network without a cache. Nothing is allocated.
"""

__all__ = ["PROMPT", "RATE", "Needs", "needs_of"]

from dataclasses import dataclass

from unmask.model.settings import TransformerSettings

PROMPT = 200
"""Tokens of a prompt: the longest that the released program of arXiv:2512.09106 keeps."""
RATE = 1e14
"""Operations in a second, for the hours that are printed: 100 TFLOP/s. Time on another machine is proportional."""
_COPIES = 2  # of the logits of a pass in float32: 2.0 to 2.1 were measured for rules and for a learned policy


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes and operations of a decoding in which `batch` rows go through the network at once."""

    parameters: int
    weights: dict[str, int]
    """Bytes by format: bfloat16 and int8."""
    cache: int
    """Bytes of the keys and values of a row, where a cache is used."""
    pass_bytes: int
    """Bytes of a pass, about: activations of a block, and two copies of the logits."""
    pass_operations: float
    """Operations of a pass of one row."""
    most: int
    """Passes of a row at most: one for each position to fill."""

    def hours(self, rows: float, passes: float) -> float:
        """Rows and passes of each -> hours at RATE."""
        return rows * passes * self.pass_operations / RATE / 3600


def needs_of(s: TransformerSettings, *, length: int, block: int, batch: int, prompt: int = PROMPT) -> Needs:
    """A transformer, positions to fill in a row, those of a block, rows at once, and the length of prompts -> needs.

    A mixture of experts is counted as if each block had one feed-forward.
    """
    keys, queries = s.kv_heads * s.head, s.heads * s.head
    matrices = s.blocks * (2 * s.width * (queries + keys) + 3 * s.width * s.inner)
    rows = s.blocks * (queries + 2 * keys + 2 * s.width + 2 * s.inner)  # of all matrices: an int8 scale each
    table = s.vocab_size * s.width
    small = s.width * (2 * s.blocks + 1) + s.blocks * ((queries + 2 * keys) * s.qkv_bias + 2 * s.head * s.qk_norm)
    parameters = matrices + table * (1 if s.tied else 2) + small
    seen = prompt + length
    products = 2 * matrices * seen + 4 * s.blocks * seen**2 * queries + 2 * table * min(block, length)
    logits = batch * min(block, length) * s.vocab_size * 4
    return Needs(
        parameters,
        {"bfloat16": 2 * parameters, "int8": 2 * (parameters - matrices) + matrices + 4 * rows},
        2 * 2 * s.blocks * keys * seen,
        batch * seen * 2 * (4 * s.width + 3 * s.inner) + _COPIES * logits,
        products,
        length,
    )
