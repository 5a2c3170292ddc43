"""What a turn of the decoding loop has before its pass, and what it gets from it. Shapes as in `decode.loop`."""

__all__ = ["Ahead", "Seen", "place_of", "scattered", "watched"]

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from unmask.decode.canvas import Canvas
from unmask.denoiser import Denoiser, Guided, Place, Wrapper
from unmask.errors import RequestError
from unmask.policies.base import Decided, View

Result = TypeVar("Result")


class Ahead(NamedTuple):
    """A turn before its pass; the lists are what the program knows of it."""

    canvas: Canvas
    view: View
    decided: Decided | None  # by a policy that does not look
    where: Tensor  # (B, L) bool: the positions at which the head runs
    open: list[bool]  # rows that are unfinished
    left: list[bool]  # the same, or those that are unfinished after this turn where it is decided
    counts: list[int]  # of `where` in each row
    whole: bool  # whether no row has padding
    temperature: list[float]
    top_p: list[float]
    constraint: list[int]
    sizes: list[int] | None  # see `Caching.sizes`

    def keep(self, rows: Tensor) -> "Ahead":
        """Of the rows (B,) bool that have a count what their pass needs."""
        sizes = self.sizes and [size for size, count in zip(self.sizes, self.counts, strict=True) if count]
        where = self.where[rows]
        return self._replace(canvas=self.canvas.keep(rows), view=self.view.keep(rows), where=where, sizes=sizes)


class Seen(NamedTuple):
    """Log-probabilities of the proposals, and for traces the most probable tokens."""

    log_prob: Tensor  # (B, L) of the proposals
    candidates: Tensor | None = None
    candidate_log_probs: Tensor | None = None


def place_of(canvas: Canvas, view: View) -> Place:
    """Rows and their View -> what a cache may use."""
    return Place(view.eligible | view.erasable, view.masked, canvas.step)


def scattered(where: Tensor, rows: Tensor, empty: float = 0) -> Tensor:
    """Rows (N, K) at the N places of `where` (B, L), `empty` elsewhere: (B, L, K)."""
    return rows.new_full((*where.shape, rows.shape[-1]), empty).masked_scatter(where[..., None], rows)


def watched(denoiser: Denoiser, share: float, valid: Tensor, run: Callable[[], Result]) -> tuple[Result, Tensor]:
    """A pass -> its result, and the mean attention (B, L, L) over heads and the last `share` of the layers.

    `valid` (B, L) is False on padding. Raises RequestError for a network that does not give its attention.
    """
    inner = denoiser
    while isinstance(inner, Wrapper) and not isinstance(inner, Guided):
        inner = inner.inner
    network = cast(Any, inner)
    if not hasattr(network, "maps"):
        raise RequestError(
            f"{type(network).__name__} does not give its attention, which this policy reads; choose another policy, or "
            "a model of our own (architecture dit) without guidance."
        )
    network.maps = maps = list[Tensor]()
    try:
        result = run()
    finally:
        network.maps = None
    last = maps[-max(1, round(share * len(maps))) :]
    return result, torch.stack(last).mean(0) * (valid[:, None] & valid[..., None])
