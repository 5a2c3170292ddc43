"""The program of a child process of `unmask bench --against`: a workload of one checkout, timed some turns at a time.

It runs as a script with PYTHONPATH=CHECKOUT/src, and imports nothing of `unmask` but the few names below, from wherever
that checkout has them. The pipe of its first argument brings the workload (`pairs.Workload` as a dictionary), then the
number of turns of each request, and at last 0, which asks for the losses or the tokens.
"""

__all__ = ["MissingNameError", "library", "main"]

import statistics
import sys
import time
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_MODULES = {
    "Canvas": ("decode.canvas", "canvas"),
    "Decoder": ("decode.loop", "decode"),
    "DiTSettings": ("model.settings",),
    "Learned": ("policies.learned.policy",),
    "LowPrecision": ("model.inference", "denoiser"),
    "PolicyNetwork": ("policies.learned.network",),
    "PolicySettings": ("policies.learned.settings",),
    "Shape": ("bench.timing", "bench.shapes"),
    "build": ("model.load", "model.build"),
    "cached": ("model.cache",),
    "make": ("policies.registry",),
    "make_trainer": ("bench.train",),
    "prepare": ("run.machine",),
    "set_threads": ("run.machine",),
}
"""A name of the library: the modules of `unmask` that have it, the newest first."""


class MissingNameError(Exception):
    """The checkout has not a name that the workload needs; the message is the name."""


def library(name: str) -> Any:
    """A name of the library -> what this checkout has under it. Raises MissingNameError."""
    for module in _MODULES[name]:
        try:
            return getattr(import_module(f"unmask.{module}"), name)
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("unmask"):
                raise  # a library that the checkout needs
        except AttributeError:
            pass
    raise MissingNameError(name)


class _Training:
    """Steps of the trainer of `unmask train`; a turn is a step."""

    def __init__(self, work: dict[str, Any]) -> None:
        shape, dtype = library("Shape")(**work["shape"]), getattr(torch, work["dtype"])
        self.trainer = library("make_trainer")(shape, modulation=work["modulation"], dtype=dtype)
        self.parameters: int = self.trainer.plan.parameters
        _randomize(self.trainer.model.head.weight)  # with its zeros the losses would not depend on the network
        self.losses: list[float] = []

    def seconds(self, turns: int) -> tuple[float, float]:
        return _timed(self._step, turns)

    def _step(self) -> None:
        loss, _, _ = self.trainer.take_step()
        self.losses.append(float(loss))

    def result(self) -> list[float]:
        return self.losses


class _Decoding:
    """The passes of a text, and again from its start; a turn is a pass, which reveals a token."""

    def __init__(self, work: dict[str, Any]) -> None:
        network = _network(work)
        self.parameters = sum(parameter.numel() for parameter in network.parameters())
        self.start = _canvas(work, network.mask_id)
        dtype = getattr(torch, work["dtype"])
        denoiser: Any = network.lowered(dtype)  # in float32 too: its weights are packed then
        if dtype != torch.float32:
            denoiser = library("LowPrecision")(denoiser, dtype)
        if work["constant"]:
            denoiser = _Constant(denoiser, self.start.tokens)
        if work["cache"] != "none":
            denoiser = library("cached")(denoiser, work["cache"])
        self.decoder = library("Decoder")(denoiser, library("make")("confidence"), 0.0, block_size=work["block"])
        self.passes = work["shape"]["length"] - work["prompt"]  # of a whole text: one token a pass
        self.turn, self.canvas, self.state = 0, self.start, None

    def seconds(self, turns: int) -> tuple[float, float]:
        return _timed(self._step, turns)

    def _step(self) -> None:
        if self.turn % self.passes == 0:
            self.canvas, self.state = self.start, None
        self.canvas, self.state, _ = self.decoder.step(self.canvas, self.state)
        self.turn += 1

    def result(self) -> list[list[int]]:
        return self.decoder.decode(self.start).tokens.tolist()


class _Policy:
    """Decisions of a learned policy; a turn is a pass with it less one of a threshold rule. Logits are stored."""

    def __init__(self, work: dict[str, Any]) -> None:
        network = _network(work)
        self.canvas = _canvas(work, network.mask_id)
        denoiser, decoder = _Constant(network, self.canvas.tokens), library("Decoder")
        policy = library("PolicyNetwork")(library("PolicySettings")(unit=float(work["shape"]["length"])))
        self.parameters = sum(parameter.numel() for parameter in policy.parameters())
        self.decoders = decoder(denoiser, library("Learned")(policy)), decoder(denoiser, library("make")("threshold"))

    def seconds(self, turns: int) -> tuple[float, float]:
        learned, rule = ((lambda d=d: d.step(self.canvas)) for d in self.decoders)
        pairs = [(_timed(learned, 1), _timed(rule, 1)) for _ in range(turns)]
        elapsed, cpu = (statistics.median(a[clock] - b[clock] for a, b in pairs) for clock in (0, 1))
        return elapsed, cpu

    def result(self) -> None:
        return None


class _Constant:
    """A denoiser that returns stored values without computing: the time of a pass is then that of the loop."""

    def __init__(self, network: Any, tokens: Tensor) -> None:
        self.vocab_size, self.mask_id, self.max_length = network.vocab_size, network.mask_id, network.max_length
        self.time_conditioned = False
        with torch.no_grad():
            self.stored = network.hidden(tokens)
            self.stored_logits = network.logits(self.stored).flatten(0, 1)

    def hidden(self, tokens: Tensor, **options: Any) -> Tensor:
        return self.stored

    def logits(self, hidden: Tensor) -> Tensor:
        return self.stored_logits[: len(hidden)]


def _network(work: dict[str, Any]) -> Any:
    """A workload -> its network with random weights, with an MLP of `mlp` * width."""
    shape = work["shape"]
    sizes = (shape[name] for name in ("length", "width", "blocks", "heads"))
    network = library("build")(library("DiTSettings")(shape["vocab"], shape["vocab"] - 1, *sizes)).eval()
    inner = work["mlp"] * shape["width"]
    for block in network.blocks:
        block.up, block.down = nn.Linear(shape["width"], inner), nn.Linear(inner, shape["width"])
    for name, value in network.named_parameters():
        if value.ndim > 1 and not name.startswith("embedding"):
            _randomize(value)
        elif value.ndim == 1 and name.endswith("bias"):
            nn.init.zeros_(value)
    return network


def _randomize(weight: Tensor) -> None:
    """Fill a weight (out, in) with normal numbers of variance 1 / in, the same for each weight of a shape."""
    nn.init.normal_(weight, std=weight.shape[1] ** -0.5, generator=torch.Generator().manual_seed(0))


def _canvas(work: dict[str, Any], mask_id: int) -> Any:
    """A workload -> rows of MASK after a random prompt."""
    rows, prompt = work["shape"]["batch"], work["prompt"]
    tokens = torch.full((rows, work["shape"]["length"]), mask_id)
    tokens[:, :prompt] = torch.randint(mask_id, (rows, prompt), generator=torch.Generator().manual_seed(1))
    return library("Canvas").start(tokens, torch.arange(rows))


def _timed(turn: Any, turns: int) -> tuple[float, float]:
    """A function -> elapsed and processor seconds of one of `turns` calls."""
    began, spent = time.perf_counter(), time.process_time()
    for _ in range(turns):
        turn()
    return (time.perf_counter() - began) / turns, (time.process_time() - spent) / turns


def main(handle: int) -> None:
    """File descriptor of a pipe -> answers to the requests that come through it, until a request is 0."""
    pipe = Connection(handle)
    work = pipe.recv()
    try:
        library("prepare")()
        library("set_threads")(work["threads"])
        workload = {"train": _Training, "decode": _Decoding, "policy": _Policy}[work["what"]](work)
    except MissingNameError as error:
        pipe.send({"missing": str(error)})
        return
    package = Path(str(sys.modules["unmask"].__file__)).parent
    pipe.send({"package": str(package), "parameters": workload.parameters})
    while turns := pipe.recv():
        pipe.send(workload.seconds(turns))
    pipe.send(workload.result())


if __name__ == "__main__":
    main(int(sys.argv[1]))
