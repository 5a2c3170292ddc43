"""Low-rank adaptation (LoRA, Hu et al., arXiv:2106.09685): a trained network -> the same with few trained parameters.

The product of a matrix W (E, D) becomes W x + alpha / rank * B A x with A (rank, D) and B (E, rank). W is frozen; B
begins as zero, so that nothing changes at first. Of the embedding the row of MASK alone is trained.
"""

__all__ = ["LowRank", "MaskRow", "add_low_rank", "merged"]

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.model.settings import in_int8
from unmask.noise import generator
from unmask.run.optim import full

_ADDED = frozenset({"down", "up", "row"})
_TERMS = 10  # of the seed: the first values of A


class LowRank(nn.Linear):
    """A frozen linear layer with a trained low-rank term; its parameters keep their names."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, draws: torch.Generator) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias, self.scale = layer.weight, layer.bias, alpha / rank
        wide = torch.rand(rank, layer.in_features, generator=draws).mul_(2).sub_(1).div_(math.sqrt(layer.in_features))
        home = torch.device("cpu") if layer.weight.is_meta else layer.weight.device  # a network that is filled later
        self.down = nn.Parameter(wide.to(home, layer.weight.dtype))  # A; uniform, as in the authors' program
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank, dtype=layer.weight.dtype, device=home))  # B

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (its name in torch)
        return super().forward(input) + self.scale * F.linear(F.linear(input, self.down), self.up)

    def whole(self) -> Tensor:
        """The matrix of the sum, W + alpha / rank * B A: a new tensor (E, D)."""
        return torch.addmm(full(self.weight), full(self.up), full(self.down), alpha=self.scale)


class MaskRow(nn.Embedding):
    """A frozen embedding whose row of MASK is trained."""

    def __init__(self, layer: nn.Embedding, mask_id: int) -> None:
        super().__init__(layer.num_embeddings, layer.embedding_dim, device="meta")
        self.weight, self.mask_id = layer.weight, mask_id
        self.row = nn.Parameter(layer.weight[mask_id].detach().clone())

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return torch.where((input == self.mask_id)[..., None], self.row, super().forward(input))

    def whole(self) -> Tensor:
        """The rows with that of MASK: a new tensor (V, D)."""
        rows = full(self.weight)
        rows[self.mask_id] = full(self.row)
        return rows


def add_low_rank(network: Any, rank: int, alpha: float, seed: int) -> None:
    """Freeze a transformer and add a term to each matrix of its blocks, but for routers, in place."""
    network.requires_grad_(False)
    draws = generator(seed, _TERMS)
    for name, layer in list(network.named_modules()):
        owner, _, leaf = name.rpartition(".")
        if isinstance(layer, nn.Linear) and in_int8(f"{name}.weight", 2):
            setattr(network.get_submodule(owner), leaf, LowRank(layer, rank, alpha, draws))
        elif isinstance(layer, nn.Embedding):
            setattr(network.get_submodule(owner), leaf, MaskRow(layer, network.mask_id))


def merged(network: nn.Module, *, kept: bool = True) -> dict[str, Tensor]:
    """A network with such layers -> the tensors of the ordinary network that computes the same, by name.

    All are new, whole and on the CPU, and a tensor with two names (tied weights) stays a single one. Where the network
    is divided, processes that have not `kept` them get nothing, as in `run.optim.copied_tensors`.
    """
    layers = dict(network.named_modules())
    copies: dict[int, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in network.state_dict(keep_vars=True).items():
        owner, _, leaf = name.rpartition(".")
        layer = layers[owner]
        changed = isinstance(layer, LowRank | MaskRow)
        if changed and leaf in _ADDED:
            continue
        if id(value) not in copies:
            whole = layer.whole() if changed and leaf == "weight" else full(value)
            copies[id(value)] = whole.cpu() if kept else whole.new_empty(0)
        tensors[name] = copies[id(value)]
    return tensors if kept else {}
