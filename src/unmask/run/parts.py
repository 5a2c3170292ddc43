"""Tensors that may be divided among processes (DTensors): the part in this process, the whole, and back.

A DTensor is known by its methods, since importing its class takes a second, which a single process need not spend.
"""

__all__ = ["divided", "full", "parts_of", "placed_as"]

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


def placed_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, equal in all processes -> the same divided as `like` is; itself where that is not divided."""
    if not divided(like) or tensor.ndim == 0:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    held = cast(Any, like)
    return distribute_tensor(tensor.to(like.device), held.device_mesh, held.placements, src_data_rank=None)
