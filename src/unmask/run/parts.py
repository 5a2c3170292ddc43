"""Tensors that may be divided among processes (DTensors): the part in this process, and the whole.

A DTensor is known by its methods, since importing its class takes a second, which a single process need not spend.
"""

__all__ = ["divided", "full", "parts_of"]

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor


def divided(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, of which this process holds a part."""
    return hasattr(tensor, "full_tensor")


def parts_of(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Tensors -> of each the part that this process holds, in the same memory: itself where it is not divided.

    What is done element by element needs no communication, and costs less than on DTensors.
    """
    return [cast(Any, tensor).to_local() if divided(tensor) else tensor for tensor in tensors]


def full(tensor: Tensor) -> Tensor:
    """A tensor -> the whole of it, a copy. All processes that hold parts of it call this together."""
    whole = tensor.detach()
    return cast(Any, whole).full_tensor() if divided(whole) else whole.clone()
