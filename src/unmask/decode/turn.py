"""What a turn of the decoding loop has before its pass, and what it gets from it. Shapes as in `decode.loop`."""

__all__ = ["Ahead", "Seen", "place_of", "scattered"]

from typing import NamedTuple

from torch import Tensor

from unmask.decode.canvas import Canvas
from unmask.denoiser import Place
from unmask.policies.base import Decided, View


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
