"""What a finished row is worth: right, and soon (arXiv:2512.09106, eq. 3.1)."""

__all__ = ["rewards"]

from typing import Literal

from torch import Tensor


def rewards(
    scores: Tensor, passes: Tensor, length: Tensor, alpha: Tensor, kind: Literal["product", "sum"] = "product"
) -> Tensor:
    """(R,) each: score in [0, 1], passes, positions that were to fill, price of speed.

    product: score * ((L - passes + 1) / L) ** alpha, 1 for a right answer in one pass; at alpha 0 the score alone.
    sum: score - alpha * passes / L, which rewards a fast wrong answer; the paper's ablation.
    """
    if kind == "sum":
        return scores - alpha * passes / length
    return scores * ((length - passes.clamp(max=length) + 1) / length) ** alpha
