"""Name -> device, thread count and number format of a run, with a check that bfloat16 is safe and fast.

Some virtual machines report the AMX instructions of their processor but lose the tile state, so that the first bfloat16
matrix product through oneDNN kills the process. `prepare` tests this in a child process.
"""

__all__ = [
    "DtypeName",
    "Rates",
    "bfloat16_works",
    "choose_device",
    "choose_dtype",
    "fastest_threads",
    "keep_all_memory",
    "matmul_rates",
    "peak_bytes",
    "prepare",
    "processor_flags",
    "set_threads",
]

import ctypes
import faulthandler
import os
import resource
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from unmask.config import processor_facts
from unmask.errors import ConfigError
from unmask.ranges import Threads, check_value

DtypeName = Literal["auto", "float32", "bfloat16", "int8"]
"""Names for the number format of matrix products."""

_ISA_NAMES, _WITHOUT_AMX = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"), "AVX512_CORE_BF16"
_LEAST_SPEEDUP, _THREADS_GAIN = 1.2, 1.1
_NARROW = 256  # in narrower networks a row decodes no faster in bfloat16: the casts cost what the products gain
_USUAL_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_REPRODUCIBLE = "MKL_CBWR"  # conditional numerical reproducibility of MKL's matrix products
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc's names of what mallopt sets
_KEPT_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Rates:
    """Speed of square matrix products in GFLOP/s; `bf16` is None where bfloat16 products cannot be computed."""

    fp32: float
    bf16: float | None


@cache
def processor_flags() -> frozenset[str]:
    """The instruction-set flags that Linux reports for the first processor; empty on other systems."""
    return frozenset(processor_facts().get("flags", processor_facts().get("Features", "")).split())


def _vendor() -> str:
    return processor_facts().get("vendor_id", "")


def prepare() -> None:
    """Make matrix products safe and reproducible; call it before the first computation. Later calls do nothing.

    On an Intel processor MKL is set to compute a row of a product with the same bits for any number of rows. Otherwise,
    with two threads, they differ by 1e-6, and a row would decode differently in another batch. Measured cost: none.

    Where AMX is reported but fails, oneDNN is limited to AVX-512 in this process and its children, which only works
    before oneDNN's first use. Nothing is tested where AMX is absent or the user has chosen an instruction set.

    Freed memory of tensors up to 32 MB stays with the process, up to twice that. Otherwise glibc returns it to the
    system after nearly every operation, and takes it again page by page: up to 300 page faults of 3 us in a pass.
    """
    _keep_freed_memory()
    if _REPRODUCIBLE not in os.environ and "intel" in _vendor().lower() and "avx2" in processor_flags():
        os.environ[_REPRODUCIBLE] = "AVX512,STRICT" if "avx512f" in processor_flags() else "AVX2,STRICT"
    _prepare_once()


@cache
def _keep_freed_memory() -> None:
    """Set glibc's thresholds."""
    _set_allocator({_MMAP_THRESHOLD: _KEPT_BYTES, _TRIM_THRESHOLD: 2 * _KEPT_BYTES})


def keep_all_memory() -> None:
    """Let the process keep all freed memory, for training: each step takes what the last one freed, up to gigabytes."""
    _set_allocator({_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1})


def _set_allocator(values: dict[int, int]) -> None:
    """Set parameters of glibc's allocator; nothing elsewhere, or where the user has set one."""
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):  # musl has none
        for parameter, value in values.items():
            allocator.mallopt(parameter, value)


def bfloat16_works() -> bool:
    """Whether a bfloat16 matrix product on the processor returns; it may still be slow."""
    return _prepare_once()


@cache
def _prepare_once() -> bool:
    """Test bfloat16 in a child process; if that dies, limit oneDNN and test again. False if both die."""
    chosen_by_user = any(name in os.environ for name in _ISA_NAMES)
    if sys.platform != "linux" or "amx_tile" not in processor_flags() or chosen_by_user:
        return True
    if _child_survives():
        return True
    os.environ[_ISA_NAMES[0]] = _WITHOUT_AMX
    return _child_survives()


def _child_survives() -> bool:
    """Fork a child that multiplies bfloat16 matrices; True if it succeeds, False if it dies or hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forking with threads; the child computes in one thread
        child = os.fork()
    if child == 0:
        _multiply_and_exit()
    _, status = os.waitpid(child, 0)
    return status == 0


def _multiply_and_exit() -> None:
    """The child's work; never returns and prints nothing, even where an illegal instruction kills it."""
    code = 1
    try:
        import resource

        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGILL, signal.SIGSEGV, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(30)
        torch.set_num_threads(1)  # the parent's thread pool does not exist in a forked child
        with torch.inference_mode():
            for size in (32, 128, 512, 512):
                ones = torch.ones(size, size, dtype=torch.bfloat16)
                product = ones @ ones
                torch.nn.functional.linear(ones, ones, ones[0])
                code = 0 if float(product[-1, -1]) == size else 1
                if code:
                    break
    finally:
        os._exit(code)


def set_threads(count: int | None) -> int:
    """Set the number of torch's threads (None: torch's own choice) -> the number in use.

    Raises ConfigError for a count that is out of range.
    """
    if count is not None:
        check_value("threads", count, Threads)
        torch.set_num_threads(count)
    return torch.get_num_threads()


@cache
def fastest_threads() -> int:
    """The faster number of threads on the machine as it is now: one, or torch's own choice; measured once a process.

    Threads wait for each other after every operation. Where another process has one of their processors, all wait for
    it, and one thread is faster. Small operations in the size of a block's are timed in turn with either number, by the
    clock, for at most 0.1 s. A number in OMP_NUM_THREADS or MKL_NUM_THREADS is kept. Bits of a pass do not depend on
    the number, in float32 (`prepare`) and in bfloat16 (`unmask.model.inference`); training records it.
    """
    most = torch.get_num_threads()
    if most == 1 or any(name in os.environ for name in _USUAL_THREADS):
        return most
    left, right = torch.ones(256, 256), torch.ones(1024, 256).t()
    seconds = {1: 0.0, most: 0.0}
    began = time.perf_counter()
    try:
        with torch.inference_mode():
            for turn in range(12):
                for count in seconds:
                    torch.set_num_threads(count)
                    torch.mm(left, right)
                    start = time.perf_counter()
                    for _ in range(4):
                        torch.mm(left, right).relu_()
                    seconds[count] += (time.perf_counter() - start) * (turn > 0)  # the first makes the threads
                if turn > 1 and time.perf_counter() - began > 0.1:
                    break
    finally:
        torch.set_num_threads(most)
    return most if _THREADS_GAIN * seconds[most] < seconds[1] else 1


def choose_device(name: str) -> torch.device:
    """Name ("auto", "cpu", "cuda", "cuda:N", "mps" or any other torch device) -> the device.

    "auto" is CUDA where there is a GPU, otherwise the processor. It is never MPS, which has no float64.
    Raises ConfigError for a name that torch does not have and for a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if _cuda_count() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device '{name}' is unknown: give auto, cpu, cuda, cuda:N or mps.") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "cuda":
        return _checked_cuda(device, name)
    if device.type == "mps" and torch.backends.mps.is_available():
        return device
    present = torch.accelerator.current_accelerator()
    if present is not None and present.type == device.type:
        return device
    raise ConfigError(f"device '{name}' is not present on this machine: use --device cpu, or auto.")


def _cuda_count() -> int:
    """Number of usable CUDA devices; 0, without a warning, where the driver is too old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _checked_cuda(device: torch.device, name: str) -> torch.device:
    """The CUDA device if it exists. Raises ConfigError, with the existing devices, otherwise."""
    count = _cuda_count()
    if count == 0:
        built = torch.backends.cuda.is_built()
        reason = "torch finds no usable GPU" if built else "this torch was built without CUDA"
        raise ConfigError(f"device '{name}' is not available ({reason}): use --device cpu, or auto.")
    if device.index is not None and device.index >= count:  # pyright: ignore[reportUnnecessaryComparison]
        raise ConfigError(f"device '{name}' does not exist: this machine has cuda:0 to cuda:{count - 1}.")
    return device


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far in bytes: of the process on a processor, of torch's allocator on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    own = _high_water_bytes()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit if own is None else own


def _high_water_bytes() -> int | None:
    """The peak memory that Linux reports of this program; getrusage's also has that of the process that started it."""
    try:
        lines = Path("/proc/self/status").read_text(errors="replace").splitlines()
        facts = dict(line.split(":", 1) for line in lines if ":" in line)
        return int(facts["VmHWM"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return None


def choose_dtype(
    name: DtypeName, device: torch.device, width: int | None = None, held: torch.dtype = torch.float32
) -> torch.dtype:
    """Name and device -> the format of matrix products; "auto" is bfloat16 where that is safe and faster, else float32.

    On the processor "faster" is measured (about 50 ms, once a process): a product is at least 1.2 times as fast on one
    thread, in processor seconds, so that other work does not change the choice. `width` is that of a network that is to
    decode: where it is below 256, "auto" is float32. "auto" is the 16 bit format that weights are `held` in, and else
    never float16, whose range is too small for the weights of the objective. "int8" is about weights: their products
    are in bfloat16. Raises ConfigError for another name, for bfloat16 where it would kill the process, and for float16
    on a processor.
    """
    if name not in get_args(DtypeName):
        raise ConfigError(f"dtype '{name}' is not possible: give auto, float32, bfloat16 or int8.")
    if name == "float32" or (name == "auto" and held == torch.float16):
        if name == "auto" and device.type == "cpu":
            raise ConfigError("The weights are float16, which processors do not compute in: give --dtype float32.")
        return held if name == "auto" else torch.float32
    if name in ("bfloat16", "int8") or (name == "auto" and held == torch.bfloat16):
        _refuse_unusable_bfloat16(device)
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    narrow = width is not None and width < _NARROW
    return torch.bfloat16 if device.type == "cpu" and not narrow and _speedup() >= _LEAST_SPEEDUP else torch.float32


def _refuse_unusable_bfloat16(device: torch.device) -> None:
    """Raise ConfigError where bfloat16 cannot be computed on `device`."""
    if device.type == "cpu" and not bfloat16_works():
        raise ConfigError(
            "dtype bfloat16 cannot be used: this machine reports AMX but the instructions fail, and oneDNN was in "
            f"use before unmask could switch them off; use float32, or set {_ISA_NAMES[0]}={_WITHOUT_AMX} "
            "before Python starts."
        )
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError(f"dtype bfloat16 is not supported by {torch.cuda.get_device_name(device)}: use float32.")


@cache
def _speedup() -> float:
    """Speed of a bfloat16 product over a float32 product on the processor; 0 where bfloat16 is absent or unsafe."""
    if not processor_flags() & {"avx512_bf16", "amx_bf16", "bf16"}:
        return 0.0
    rates = matmul_rates(1, time.thread_time)
    return 0.0 if rates.bf16 is None else rates.bf16 / rates.fp32


def matmul_rates(threads: int | None, clock: Callable[[], float] = time.perf_counter) -> Rates:
    """Thread count (None: as set now) -> measured speed of the processor's matrix products; takes about 50 ms.

    The speeds are medians of interleaved repetitions, so that another process on the machine slows both formats alike.
    `clock` returns seconds; with one thread it may be `time.thread_time`, which does not count other processes.
    """
    before = torch.get_num_threads()
    set_threads(threads)
    try:
        works = bfloat16_works()
        formats = [torch.float32, torch.bfloat16] if works else [torch.float32]
        pairs = [_operands(dtype) for dtype in formats]
        with torch.inference_mode():
            for left, right in pairs:
                torch.mm(left, right)
            rounds = [[_rate(left, right, clock) for left, right in pairs] for _ in range(9)]
    finally:
        torch.set_num_threads(before)
    medians = [statistics.median(column) for column in zip(*rounds, strict=True)]
    return Rates(medians[0], medians[1] if works else None)


def _operands(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two 512 by 512 matrices of ones, the second transposed as a layer's weight is."""
    return torch.ones(512, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype).t()


def _rate(left: Tensor, right: Tensor, clock: Callable[[], float]) -> float:
    """GFLOP/s of one product."""
    start = clock()
    torch.mm(left, right)
    seconds = max(clock() - start, 1e-9)
    return 2 * left.shape[0] * left.shape[1] * right.shape[1] / seconds / 1e9
