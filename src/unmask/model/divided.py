"""A network without memory that was divided among processes -> the same with its values: each process reads its rows.

Rows are cut as torch.chunk cuts them, as FSDP2 does: of n rows over k processes each has ceil(n / k), the last fewer.
"""

__all__ = ["fill_parts", "rows_of", "take_values"]

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unmask.batch import ceil_div
from unmask.disk.checkpoint import Checkpoint
from unmask.errors import CheckpointError
from unmask.limits import require_finite
from unmask.run.optim import divided, parts_of


def take_values(network: nn.Module) -> dict[str, Tensor]:
    """A network, parts of which are on the meta device -> the values of the others, which are put there too.

    They are parameters that no checkpoint holds: low-rank terms, the row of MASK, the scalars of soft masks.
    """
    values: dict[str, Tensor] = {}
    for name, param in list(network.named_parameters()):
        if not param.is_meta:
            owner, _, leaf = name.rpartition(".")
            values[name] = param.detach()
            setattr(network.get_submodule(owner), leaf, nn.Parameter(param.to("meta"), param.requires_grad))
    return values


def rows_of(tensor: Tensor) -> tuple[int, int]:
    """A tensor of a divided network -> the rows [first, last) of the whole that this process holds."""
    if not divided(tensor):
        return 0, len(tensor)
    held: Any = tensor
    processes = held.device_mesh.ndim - 1  # the last dimension of the mesh divides, the one before it copies
    each = ceil_div(len(tensor), held.device_mesh.size(processes))
    first = min(each * held.device_mesh.get_local_rank(processes), len(tensor))
    return first, min(first + each, len(tensor))


@torch.no_grad()
def fill_parts(
    network: Any,
    checkpoint: Checkpoint,
    values: Mapping[str, Tensor],
    rows: Mapping[str, tuple[int, Tensor]],
    device: torch.device,
) -> None:
    """Give a divided network on the meta device the tensors of a checkpoint and `values`, in memory of `device`.

    `rows` are single rows of parameters that differ from the stored ones: their index, and their values. Raises
    CheckpointError for a damaged file and for numbers that are not finite.
    """
    network.to_empty(device=device)
    held: dict[str, Tensor] = dict(network.named_parameters(remove_duplicate=False))
    for path, stored in checkpoint.layout.items():
        with ExitStack() as opened:
            try:
                file = opened.enter_context(safe_open(path, framework="pt"))
                for name, parts in stored.items():
                    for part in parts:
                        _read(file, name, part.rows, held[part.name], part.name, checkpoint)
            except SafetensorError as error:
                raise CheckpointError(f"{path} is damaged ({error}): copy or write the file again.") from error
    for name, value in values.items():
        first, last = rows_of(held[name])
        parts_of([held[name]])[0].copy_(value[first:last])
    for name, (row, value) in rows.items():
        first, last = rows_of(held[name])
        if first <= row < last:
            parts_of([held[name]])[0][row - first] = value.to(device)


def _read(file: Any, name: str, cut: tuple[int, int] | None, param: Tensor, ours: str, checkpoint: Checkpoint) -> None:
    """Read this process's rows of a parameter, which is stored as `name` or as the rows `cut` of that."""
    (own,), (first, last) = parts_of([param]), rows_of(param)
    start, end = cut if cut is not None else (0, file.get_slice(name).get_shape()[0])
    count = max(0, min(last, end - start) - first)
    value: Tensor = file.get_slice(name)[start + first : start + first + count]
    require_finite(value, ours, str(checkpoint.folder))
    own[:count].copy_(value)
    own[count:] = 0  # a row for MASK that the checkpoint does not have
