"""Weights of one byte, by torchao: a layer -> the same with its weight in int8 and a scale (float32) for each row.

Products multiply by the weight that is converted back, so that it saves memory and no time on processors.
"""

__all__ = ["int8_weights"]

import importlib
import logging
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unmask.errors import RequestError

_ELEMENTS = 1 << 17  # that are rounded at a time, since the intermediate values are in float32


def int8_weights() -> Callable[[nn.Linear], None]:
    """-> the function that replaces the weight of a layer, in place. Raises RequestError where torchao is missing."""
    try:
        with _quiet():
            library: Any = importlib.import_module("torchao.quantization")
    except ImportError as error:
        raise RequestError("--dtype int8 needs torchao: pip install 'unmask[int8]'.") from error
    config = library.Int8WeightOnlyConfig(granularity=library.PerRow(), set_inductor_config=False, version=2)

    def quantise(layer: nn.Linear) -> None:
        weight = layer.weight.detach()
        whole = _quantised(library, config, weight[:1])
        for name in ("qdata", "scale", "zero_point"):
            first = getattr(whole, name)
            setattr(whole, name, first.new_empty((len(weight), *first.shape[1:])))
        rows = max(1, _ELEMENTS // weight.shape[1])
        for start in range(0, len(weight), rows):
            part = _quantised(library, config, weight[start : start + rows])
            for name in ("qdata", "scale", "zero_point"):
                getattr(whole, name)[start : start + rows] = getattr(part, name)
        shape = (whole.qdata, whole.scale, whole.block_size, weight.dtype)
        layer.weight = nn.Parameter(library.Int8Tensor(*shape, zero_point=whole.zero_point), requires_grad=False)

    return quantise


def _quantised(library: Any, config: Any, weight: torch.Tensor) -> Any:
    """Some rows of a weight -> their Int8Tensor."""
    layer = nn.Linear(*reversed(weight.shape), bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    library.quantize_(layer, config, filter_fn=lambda module, _: module is layer)
    quantised = layer.weight
    del layer.weight  # torchao makes the layer refer to itself: it would be freed late
    return quantised


@contextmanager
def _quiet() -> Generator[None]:
    """Context in which torchao does not report, when it is imported, which of its GPU kernels this machine lacks."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
