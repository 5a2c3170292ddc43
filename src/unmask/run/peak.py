"""A device and a number format -> its rate of matrix products, which the use of the machine is a share of."""

__all__ = ["peak_rate"]

import time
from functools import cache

import torch

from unmask.run.machine import matmul_rates

_KNOWN = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12}
"""Part of a GPU's name -> its rate in bfloat16 by the data sheet, without sparsity, in FLOP/s; the first that fits."""
_SIZE, _REPEATS = 4096, 8


def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of matrix products in `dtype`: by the data sheet for bfloat16 on a GPU that is known, else measured.

    On a processor it is measured with the threads of the process, for about 50 ms, once a process.
    """
    return _rate(device, dtype, torch.get_num_threads())


@cache
def _rate(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    if device.type == "cpu":
        rates = matmul_rates(threads)
        return 1e9 * (rates.bf16 if dtype == torch.bfloat16 and rates.bf16 is not None else rates.fp32)
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        if (known := next((rate for part, rate in _KNOWN.items() if part in name), None)) is not None:
            return known
    ones = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
    seconds = [_seconds(ones) for _ in range(2)][-1]  # the first product loads the library
    return 2 * _SIZE**3 * _REPEATS / seconds


def _seconds(ones: torch.Tensor) -> float:
    began = time.perf_counter()
    product = ones
    for _ in range(_REPEATS):
        product = ones @ ones
    product[0, 0].item()  # waits for the device
    return time.perf_counter() - began
