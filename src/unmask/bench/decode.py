"""The speed of decoding: by confidence in blocks, one token per pass, with each cache; and ancestral sampling.

Confidence decoding has the shape of the published loops, and is measured on one thread in CPU-seconds. The matmul rate
of a processor is that of a 1024-cubed product in the same rounds. Ancestral sampling has T grid steps, as `ddpm_cache`.
"""

__all__ = [
    "ancestral_cell",
    "bench_ancestral",
    "bench_blocks",
    "bench_feedback",
    "deviation",
    "feedback_cell",
    "floor_gflop",
    "randomised",
]

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from unmask.bench.timing import DECODE, FIELD, SOFT, Shape, measure, side_by_side
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.decode.propose import propose
from unmask.denoiser import Denoiser, Place, Wrapper, clean_log_probs
from unmask.disk.folders import DEFAULT_MODEL
from unmask.model.cache import cached
from unmask.model.dit import DiT
from unmask.model.inference import computing_in
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.model.soft import PlainMasks
from unmask.noise import generator
from unmask.policies.ancestral import Ancestral
from unmask.policies.registry import make
from unmask.run.machine import bfloat16_works

_PROMPT, _BLOCK, _MLP = 16, 32, 6
_CACHES = ("none", "prefix", "dual", "delayed")


def _network() -> DiT:
    """The network of FIELD with random weights; its MLP is widened to the published parameters and FLOPs."""
    settings = DiTSettings(FIELD.vocab, FIELD.vocab - 1, FIELD.length, FIELD.width, FIELD.blocks, FIELD.heads)
    network = build(settings).eval()
    for block in network.blocks:
        block.up = nn.Linear(FIELD.width, _MLP * FIELD.width)
        block.down = nn.Linear(_MLP * FIELD.width, FIELD.width)
    return randomised(network)


def randomised(network: DiT) -> DiT:
    """A network -> the same with random matrices."""
    random = generator(0)
    for name, value in network.named_parameters():
        if value.ndim > 1 and not name.startswith("embedding"):
            nn.init.normal_(value, std=value.shape[1] ** -0.5, generator=random)
    return network


def _canvas(rows: int, mask_id: int, length: int = FIELD.length) -> Canvas:
    tokens = torch.full((rows, length), mask_id)
    tokens[:, :_PROMPT] = torch.randint(mask_id, (rows, _PROMPT), generator=generator(0, 1))
    return Canvas.start(tokens, torch.arange(rows))


def _decoder(denoiser: Denoiser, cache: str) -> Decoder:
    inner = denoiser if cache == "none" else cached(denoiser, cache)
    return Decoder(inner, make("confidence"), 0.0, block_size=_BLOCK)


def floor_gflop(cache: str) -> float:
    """A cache -> the arithmetic of a whole decoding of FIELD, in GFLOP.

    It counts products with weights, attention, and at the positions whose logits are needed the head and what follows
    the attention of the last block.
    """
    d, length = FIELD.width, FIELD.length
    total = 0.0
    for start in range(0, length, _BLOCK):
        end = min(start + _BLOCK, length)
        for turn in range(end - max(start, _PROMPT)):
            left = end - max(start, _PROMPT) - turn
            partial = {"prefix": length - max(start, _PROMPT), "dual": end - max(start, _PROMPT)}
            partial["delayed"] = left + 1 + length - end
            rows = length if cache == "none" or turn == 0 or (cache == "delayed" and turn % 8 == 0) else partial[cache]
            total += FIELD.blocks * rows * (2 * (4 + 2 * _MLP) * d * d + 4 * length * d)
            total -= (rows - left) * 2 * (1 + 2 * _MLP) * d * d
            total += left * 2 * d * FIELD.vocab
    return total / 1e9


# ---- the loop alone ------------------------------------------------------------------------------------------------


class _Constant(Wrapper):
    """A denoiser that returns stored values without computing: the time of a pass is then that of the loop."""

    def __init__(self, inner: Denoiser, canvas: Canvas) -> None:
        super().__init__(inner)
        with torch.no_grad():
            stored = inner.hidden(canvas.tokens)
            object.__setattr__(self, "stored", stored)
            object.__setattr__(self, "stored_logits", inner.logits(stored[0]))

    stored: Tensor
    stored_logits: Tensor

    def hidden(self, tokens: Tensor, **options: Tensor | None) -> Tensor:
        return self.stored

    def logits(self, hidden: Tensor) -> Tensor:
        return self.stored_logits[: len(hidden)]


def _split(denoiser: Denoiser, rounds: int) -> dict[str, float]:
    """Milliseconds of a pass in the first block without a cache: in the network with its head, in the reductions over
    the vocabulary, and in the rest of the loop (bookkeeping)."""
    canvas = _canvas(1, denoiser.mask_id)
    whole, loop = _decoder(denoiser, "none"), _decoder(_Constant(denoiser, canvas), "none")
    canvas, state, _ = whole.step(canvas)
    logits = loop.denoiser.logits(torch.empty(_BLOCK - 1, 1))  # of the positions of the block that are left

    def reductions() -> None:
        proposal = propose(logits, denoiser.mask_id, None, 0.0, 1.0)
        proposal.log_probs.exp().mul_(proposal.log_probs).nansum(-1)

    works: dict[str, Callable[[], object]] = {
        "warm-up": lambda: whole.step(canvas, state),  # as in bench/policy.py
        "pass": lambda: whole.step(canvas, state),
        "loop": lambda: [loop.step(canvas, state) for _ in range(10)],
        "reductions": lambda: [reductions() for _ in range(10)],
    }
    seconds, _ = side_by_side(works, 4 * rounds)
    ms = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    loop_ms, reductions_ms = ms["loop"] / 10, ms["reductions"] / 10
    after = max(0.0, loop_ms - reductions_ms)
    parts = {"network_ms": ms["pass"] - loop_ms, "reductions_ms": reductions_ms, "bookkeeping_ms": after}
    return {"pass_ms": ms["pass"], **parts, "after_share": after / ms["pass"]}


# ---- the deviation of caches ---------------------------------------------------------------------------------------


@torch.no_grad()
def deviation(denoiser: Denoiser, cache: str, canvas: Canvas, block_size: int = _BLOCK) -> dict[str, float]:
    """A cache -> its deviation from uncached passes, along an uncached greedy decoding of rows that end together.

    Over the positions that may be revealed: the largest difference of a probability, the mean total variation, and the
    share whose best token differs. Then the share of final tokens that differ if the cache is used for the decoding.
    """
    policy, caching, memory = make("confidence"), cached(denoiser, cache), None
    exact = Decoder(denoiser, policy, 0.0, block_size=block_size)
    largest, variation, differing, count = 0.0, 0.0, 0, 0
    final = canvas
    for final, step in exact.steps(canvas):
        before = torch.where(step.revealed, denoiser.mask_id, final.tokens[step.rows])
        place = Place(step.view.eligible | step.view.erasable, step.view.masked, step.view.step)
        hidden, memory = caching.recall(before, place, memory, valid=final.valid[step.rows])
        approximate = _log_probs(denoiser, hidden, step.view.eligible)
        true = _log_probs(denoiser, denoiser.hidden(before, valid=final.valid[step.rows]), step.view.eligible)
        gap = (approximate.exp() - true.exp()).abs()
        largest, variation = max(largest, float(gap.max())), variation + float(gap.sum(-1).sum()) / 2
        differing += int((approximate.argmax(-1) != true.argmax(-1)).sum())
        count += len(approximate)
    decoded = Decoder(caching, policy, 0.0, block_size=block_size).decode(canvas)
    written = final.written & decoded.written
    return {
        "largest_probability_gap": largest,
        "mean_total_variation": variation / count,
        "best_token_differs": differing / count,
        "final_tokens_differ": float((decoded.tokens != final.tokens)[written].double().mean()),
    }


def _log_probs(denoiser: Denoiser, hidden: Tensor, where: Tensor) -> Tensor:
    return clean_log_probs(denoiser.logits(hidden[where]), denoiser.mask_id)


# ---- the cells -----------------------------------------------------------------------------------------------------


def _works(denoiser: Denoiser, rows: int, caches: tuple[str, ...]) -> dict[str, Callable[[], object]]:
    canvas = _canvas(rows, denoiser.mask_id)
    decoders = {name: _decoder(denoiser, name) for name in caches}
    return {f"{name} x{rows}": (lambda d=d: d.decode(canvas)) for name, d in decoders.items()}


def _cells(denoiser: Denoiser, dtype: torch.dtype, rounds: int) -> list[dict[str, Any]]:
    """One cell per cache at batch 1; for two caches also the seconds of a row at batch 8, relative to batch 1."""
    works = _works(denoiser, 1, _CACHES) | _works(denoiser, 8, ("none", "dual"))
    seconds, rates = side_by_side(works, rounds)
    rate = statistics.median(rates)
    tokens = FIELD.length - _PROMPT
    cells: list[dict[str, Any]] = []
    for cache in _CACHES:
        times = seconds[f"{cache} x1"]
        cell: dict[str, Any] = {
            "shape": asdict(FIELD),
            "dtype": str(dtype).removeprefix("torch."),
            "cache": cache,
            "threads": 1,
            "passes_per_row": tokens,
            "cpu_seconds": statistics.median(times),
            "passes_per_second": tokens / statistics.median(times),
            "cpu_seconds_per_token": statistics.median(times) / tokens,
            "fp32_rate": rate,
            "floor_cpu_seconds": floor_gflop(cache) / rate,
        }
        if f"{cache} x8" in seconds:
            pairs = zip(seconds[f"{cache} x8"], times, strict=True)
            cell["row_at_batch_8"] = statistics.median(batch / 8 / single for batch, single in pairs)
        cells.append(cell)
    return cells


def _deviations(denoiser: Denoiser, shape: Shape, canvas: Canvas) -> list[dict[str, Any]]:
    """One cell per cache with its deviation."""
    return [{"shape": asdict(shape), "cache": name} | deviation(denoiser, name, canvas) for name in _CACHES[1:]]


def _bundled() -> list[dict[str, Any]]:
    """The deviations of the caches on a trained model: the bundled one, with four short prompts."""
    import unmask

    model = unmask.load(dtype="float32", device="cpu", threads=1)
    s = model.network.settings
    shape = Shape(DEFAULT_MODEL, s.width, s.blocks, s.heads, s.vocab_size, min(128, s.max_length), 4)
    tokens = torch.full((shape.batch, shape.length), s.mask_id)
    text = model.tokenizer.encode("river: a large stream")[:_PROMPT]
    tokens[:, : len(text)] = torch.tensor(text)
    tokens[:, len(text)] = torch.arange(shape.batch)  # so that the rows differ
    return _deviations(model.denoiser, shape, Canvas.start(tokens, torch.arange(shape.batch)))


def bench_blocks(rounds: int) -> Iterator[dict[str, Any]]:
    """All cells: every cache in each dtype that the machine supports, its deviation, and the cost of the loop."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = _network()
        cells = _cells(network, torch.float32, rounds)
        cells[0] |= _split(network, rounds)
        yield from cells
        yield from _deviations(network, FIELD, _canvas(4, network.mask_id))
        yield from _bundled()
        if bfloat16_works():
            lowered = computing_in(network, torch.bfloat16)
            cells = _cells(lowered, torch.bfloat16, rounds)
            cells[0] |= _split(lowered, rounds)
            yield from cells
    finally:
        torch.set_num_threads(threads)


def _sampled_network(shape: Shape, device: torch.device) -> DiT:
    """A network of the published shape, adaLN included; its head is random, so that the drawn tokens differ."""
    settings = DiTSettings(
        shape.vocab, shape.vocab - 1, shape.length, shape.width, shape.blocks, shape.heads, modulation="constant"
    )
    network = build(settings).to(device).eval()
    torch.nn.init.normal_(network.head.weight, std=0.05, generator=torch.Generator(device).manual_seed(0))
    return network


def ancestral_cell(
    shape: Shape, steps: int, rounds: int, *, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """One cell: tokens/s of `shape.batch` sequences on `steps` grid steps."""
    network = _sampled_network(shape, device)
    denoiser = computing_in(network, dtype)
    decoder = Decoder(denoiser, Ancestral(steps), temperature=1.0)
    masked = torch.full((shape.batch, shape.length), denoiser.mask_id, device=device)
    passes: list[float] = []

    def work() -> None:
        done = decoder.decode(Canvas.start(masked, torch.arange(shape.batch, device=device)))
        passes[:] = [float(done.passes.double().mean())]

    timing = measure(work, rounds, bf16=bfloat16_works(), device=device, warmup=1)
    tokens = shape.batch * shape.length
    return {
        "shape": asdict(shape),
        "steps": steps,
        "dtype": str(dtype).removeprefix("torch."),
        "passes_per_row": passes[0],
        "tokens_per_second": tokens / timing.seconds,
        "tokens_per_second_per_gflops": tokens * timing.per_fp32,
        **asdict(timing),
    }


def bench_ancestral(rounds: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """All cells: T = 128 and T = 1000, in each dtype that the machine supports."""
    for dtype in (torch.float32, *([torch.bfloat16] if bfloat16_works() else [])):
        for steps in (128, 1000):
            yield ancestral_cell(DECODE, steps, rounds, dtype=dtype, device=device)


# ---- soft masks ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def feedback_cell(shape: Shape, policy: str, rounds: int) -> dict[str, Any]:
    """The cost of soft masks: CPU-seconds of a pass with soft masks divided by those of the same pass with plain ones.

    The learned strength is 0, so that both write the same tokens in the same passes. A round is plain, soft, soft,
    plain; its ratio is that of the sums.
    """
    sizes = shape.length, shape.width, shape.blocks, shape.heads
    network = randomised(build(DiTSettings(shape.vocab, shape.vocab - 1, *sizes, soft=3)).eval())
    canvas = _canvas(shape.batch, network.mask_id, shape.length)
    soft, plain = (Decoder(denoiser, make(policy), 0.0) for denoiser in (network, PlainMasks(network)))
    final = soft.decode(canvas)
    assert torch.equal(final.tokens, plain.decode(canvas).tokens), "both decoders do the same work"
    works = {"plain": plain, "soft": soft, "soft again": soft, "plain again": plain}
    seconds, rates = side_by_side({name: (lambda d=d: d.decode(canvas)) for name, d in works.items()}, rounds)
    passes = float(final.passes.double().mean())
    pairs = {name: zip(seconds[name], seconds[f"{name} again"], strict=True) for name in ("plain", "soft")}
    sums = {name: [sum(pair) for pair in values] for name, values in pairs.items()}
    ratios = sorted(b / a for a, b in zip(sums["plain"], sums["soft"], strict=True))
    return {
        "shape": asdict(shape),
        "work": f"soft masks, {policy}",
        "passes_per_row": passes,
        "plain_pass_ms": 1e3 * statistics.median(sums["plain"]) / 2 / passes,
        "soft_pass_ms": 1e3 * statistics.median(sums["soft"]) / 2 / passes,
        "feedback_ratio": statistics.median(ratios),
        "least_ratio": ratios[0],
        "largest_ratio": ratios[-1],
        "fp32_rate": statistics.median(rates),
        "rounds": rounds,
    }


def bench_feedback(rounds: int) -> Iterator[dict[str, Any]]:
    """All cells: each shape of SOFT with a rule that looks and with one that does not, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for shape in SOFT:
            for policy in ("confidence:steps=16", "ancestral:steps=16"):  # the second does not look
                yield feedback_cell(shape, policy, rounds)
    finally:
        torch.set_num_threads(threads)
