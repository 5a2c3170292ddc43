"""The public API: a checkpoint -> a model that generates text, fills holes, compares choices and measures bounds."""

__all__ = ["Filling", "Generation", "Model", "bundled", "load", "unigram_entropy"]

import math
import time
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import numpy as np
import torch

from unmask.data.packed import Packed
from unmask.decode.canvas import constraints_of
from unmask.decode.constraint import Constraint, Constraints
from unmask.decode.loop import Decoder
from unmask.decode.rows import Decoding, Snapshot, Written, make_decoder, row_options, run_to_end, slide
from unmask.denoiser import Denoiser, Trainable, computing_in
from unmask.disk.checkpoint import Checkpoint
from unmask.disk.folders import bundled, locate
from unmask.errors import RequestError
from unmask.fill.holes import Attempt, Choice, Fill, Filler
from unmask.model.load import load_denoiser
from unmask.noise import row_seeds
from unmask.objective.bound import Bound, validate
from unmask.objective.masked import Masked
from unmask.policies.base import UnmaskingPolicy
from unmask.process import MaskedDiffusion
from unmask.ranges import Count, Dial, Draws, Seed, Temperature, Threads, TopP, checked
from unmask.run.machine import DtypeName, choose_device, choose_dtype, prepare, set_threads
from unmask.text.tokenizer import Tokenizer
from unmask.trace.events import Trace
from unmask.trace.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Generation:
    """Samples. Lists have one entry a sample; log-probabilities are of the written tokens, in nats."""

    texts: list[str]
    tokens: list[list[int]]
    log_probs: list[list[float]]
    passes: list[int]
    seconds: float
    entropy: float
    """Unigram entropy of the written tokens in nats, over all samples; a low value means repetition."""
    trace: Trace | None = field(default=None, kw_only=True)
    """The trace of decoding, if it was requested."""


@dataclass(frozen=True, slots=True)
class Filling(Generation):
    """Texts whose holes were filled; log-probabilities of the template's tokens are 0."""

    holes: list[list[str]]
    """The written text of each hole."""
    attempts: list[list[Attempt]]
    """The decoded combinations of lengths, the best (the sample) first; empty without free lengths."""


@checked
def load(
    name_or_path: str = "shakespeare",
    *,
    device: str = "auto",
    dtype: DtypeName = "auto",
    threads: Threads | None = None,
) -> "Model":
    """A checkpoint folder, a run folder, or the name of a bundled checkpoint -> a model.

    `dtype` is the format of matrix products. Weights are held in float32 if `dtype` is float32 or the checkpoint has
    fewer than `unmask.model.load.STORED_FROM` parameters. Larger checkpoints keep the format that they are stored in,
    and "auto" then computes in it. Raises RequestError or CheckpointError if it is missing or cannot be read.
    """
    prepare()
    set_threads(threads)
    target = choose_device(device)
    loaded = load_denoiser(locate(name_or_path), str(target), torch.float32 if dtype == "float32" else None)
    held = next(loaded.denoiser.parameters()).dtype
    if dtype == "auto" and held == torch.bfloat16:
        dtype = "bfloat16"  # refused in a sentence where it would kill the process
    chosen = held if dtype == "auto" and held != torch.float32 else choose_dtype(dtype, target)
    return Model(loaded.denoiser, loaded.process, loaded.tokenizer, loaded.checkpoint, target, chosen)


class Model:
    """A denoiser with its tokenizer. Make one with `unmask.load`."""

    def __init__(
        self,
        network: Trainable,
        process: MaskedDiffusion,
        tokenizer: Tokenizer,
        checkpoint: Checkpoint | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.network = network.to(device).eval()
        self.process, self.tokenizer, self.checkpoint = process, tokenizer, checkpoint
        self.device, self.dtype = device, dtype
        self.denoiser: Denoiser = computing_in(self.network, dtype)

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.network.parameters())
        return f"Model({count:,} parameters, window {self.window} tokens, {self.tokenizer.vocab_size} token ids)"

    @property
    def window(self) -> int:
        """The number of positions of the network."""
        return self.network.max_length

    # ---- writing --------------------------------------------------------------------------------------------------

    @checked
    def decoder(
        self,
        policy: str | UnmaskingPolicy = "random",
        *,
        temperature: Temperature = 1.0,
        top_p: TopP = 1.0,
        **decoding: Unpack[Decoding],
    ) -> Decoder:
        """A policy -> the decoding loop over this model; `policy` is a name such as "ancestral:steps=64" or an object.

        Temperature and top-p, as in `stream`, are for rows whose canvas has no values of its own. Raises RequestError
        for options that cannot be combined.
        """
        decoder = make_decoder(self.denoiser, self.tokenizer, self.process.schedule, self.device, policy, **decoding)
        return replace(decoder, temperature=temperature, top_p=top_p)

    def generate(self, prompts: str | Sequence[str] = "", *, trace: bool = False, **options: Any) -> Generation:
        """Continue each prompt; the options are those of `stream`. With `trace` the result has a trace."""
        start = time.perf_counter()
        recorder = self.recorder() if trace else None
        rows = run_to_end(self.stream(prompts, **options), recorder)
        result = self._collect(rows, time.perf_counter() - start)
        return result if recorder is None else replace(result, trace=self.trace(recorder, rows, **options))

    @checked
    def stream(
        self,
        prompts: str | Sequence[str] = "",
        *,
        length: Count = 128,
        policy: str | UnmaskingPolicy = "random",
        temperature: Temperature | Sequence[Temperature] = 1.0,
        top_p: TopP | Sequence[TopP] = 1.0,
        dial: Dial | Sequence[Dial] | None = None,
        stride: Count | None = None,
        seed: Seed | Sequence[Seed] = 0,
        stop_at_eos: bool = True,
        constraint: Constraints = None,
        batch: Count = 32,
        **decoding: Unpack[Decoding],
    ) -> Generator[Snapshot, None, list[Written]]:
        """Continue each prompt by `length` tokens, yielding the canvas after each pass.

        Beyond the model's window the text is written in windows that slide by `stride` tokens (default: half a window).
        `seed` is one number, from which each row gets its own by its place, or one a row. `temperature` (0 takes the
        most probable token, 1 samples from the model), `top_p` (below 1: sample from the smallest set of most probable
        tokens with this joint probability), `dial` (0 accurate, 1 fast; for a policy that has one) and `constraint`
        (which tokens may be written where; that of `only` leaves EOS out) are one, or one a row. A row's text depends
        on its seed, prompt and options alone. Other options: `Decoding`. The generator returns the finished rows.
        Raises RequestError for impossible requests.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        step = self.window // 2 if stride is None else stride
        rules, numbers = constraints_of(constraint, len(texts))
        decoder = replace(self.decoder(policy, **decoding), constraints=rules)
        if not texts:
            raise RequestError("There is no prompt; give at least one, which may be empty.")
        if not 0 < step <= self.window:
            raise RequestError(f"stride is {step}; give 1 to {self.window} tokens, the model's window.")
        options = row_options(
            decoder, len(texts), dial=dial, temperature=temperature, top_p=top_p, passes=decoding.get("passes")
        )
        return slide(
            decoder,
            self.tokenizer.encode_batch(texts),
            [length] * len(texts),
            row_seeds(seed, len(texts)),
            window=self.window,
            stride=step,
            pad_id=self.tokenizer.pad_id,
            eos_id=self.tokenizer.eos_id if stop_at_eos else None,
            batch=batch,
            device=self.device,
            options=replace(options, constraint=numbers),
        )

    def recorder(self, template: str | None = None) -> Recorder:
        """The recorder of a stream of this model, or of `stream_fill` with a template."""
        return Recorder(self.tokenizer.mask_id, None if template is None else self.filler.old(template))

    def trace(
        self,
        recorder: Recorder,
        rows: Sequence[Written],
        *,
        policy: str | UnmaskingPolicy = "random",
        seed: int | Sequence[int] = 0,
        block_size: int | None = None,
        **_: Any,
    ) -> Trace:
        """A recorder and the rows that a stream returned -> the trace; the options are those of the stream."""
        from unmask.tasks.sudoku import drawn_as  # tasks are needed for traces alone

        name = "" if self.checkpoint is None else self.checkpoint.folder.name
        run = (self.checkpoint and self.checkpoint.run) or {}
        return recorder.trace(
            [row.tokens for row in rows],
            self.tokenizer.piece,
            self.tokenizer.part,
            policy=policy if isinstance(policy, str) else repr(policy),
            seed=seed if isinstance(seed, int) else tuple(seed),
            checkpoint=name,
            block_size=block_size,
            **drawn_as(str(run.get("settings", {}).get("data", {}).get("source"))),
        )

    def _collect(self, rows: Sequence[Written], seconds: float) -> Generation:
        written = [row.tokens[row.prompt :] for row in rows]
        return Generation(
            [self.tokenizer.decode(row.tokens) for row in rows],
            [row.tokens for row in rows],
            [row.log_probs for row in rows],
            [row.passes for row in rows],
            seconds,
            unigram_entropy(written),
        )

    # ---- filling --------------------------------------------------------------------------------------------------

    def fill(self, template: str, *, trace: bool = False, **options: Any) -> "Filling":
        """Fill the holes of a text such as "To be or [5] to be" (five tokens); options as for `stream_fill`."""
        start = time.perf_counter()
        recorder = self.recorder(template) if trace else None
        rows = run_to_end(self.stream_fill(template, **options), recorder)
        result = self._filling(rows, time.perf_counter() - start)
        return result if recorder is None else replace(result, trace=self.trace(recorder, rows, **options))

    @checked
    def stream_fill(
        self,
        template: str,
        *,
        policy: str | UnmaskingPolicy = "random",
        temperature: Temperature | Sequence[Temperature] = 1.0,
        top_p: TopP | Sequence[TopP] = 1.0,
        dial: Dial | Sequence[Dial] | None = None,
        count: Count = 1,
        seed: Seed | Sequence[Seed] = 0,
        draws: Draws = 32,
        constraint: Constraints = None,
        batch: Count = 32,
        **decoding: Unpack[Decoding],
    ) -> Generator[Snapshot, None, list[Fill]]:
        """Fill the holes of `template` (see text.template) `count` times, yielding the canvas after each pass.

        Where a length is free every combination of lengths is decoded, and the one whose whole text has the least bound
        on -log p, measured by `draws` random maskings, is returned; Fill.attempts has them all. Special tokens, EOS
        among them, are never written. The other options are as in `stream`, one a row for each of `count` texts.
        Raises RequestError for a template without holes, one longer than the model's window, or one with too many
        combinations of lengths.
        """
        sketch = self.filler.sketch(template, count)
        rules, numbers = constraints_of(constraint, count)
        decoder = replace(self.decoder(policy, **decoding), constraints=tuple(map(self.filler.writable, rules)))
        options = row_options(
            decoder, count, dial=dial, temperature=temperature, top_p=top_p, passes=decoding.get("passes")
        )
        options = replace(options, constraint=numbers)
        return self.filler.stream(sketch, decoder, row_seeds(seed, count), options, draws=draws, batch=batch)

    def canvas_of(self, template: str) -> list[int]:
        """The token ids of a template, MASK in its holes; a hole of free length has its least."""
        sketch = self.filler.sketch(template)
        return sketch.row([lengths[0] for lengths in sketch.holes], self.tokenizer.mask_id)

    def only(self, characters: str) -> Constraint:
        """Characters such as "0123456789" -> a constraint for `stream` and `fill`: only tokens made of them."""
        return self.filler.only(characters)

    @checked
    def score(
        self, template: str, choices: Sequence[str], *, orders: Draws = 32, seed: Seed = 0, batch: Count = 32
    ) -> list[Choice]:
        """How probable each choice is where the template has a [?]: score("The king is [?]", ["dead", "here"]).

        A choice's nats are the bound on -log p of its tokens given the rest of the text, the mean over the orders in
        which they can be revealed: over all of them where the tokens are few, else over `orders` random ones. The
        probabilities are shares of exp(-nats); choices may have different lengths, and a longer one usually
        has more nats. Other holes stay hidden. Raises RequestError for what cannot be compared.
        """
        return self.filler.score(template, choices, orders=orders, seed=seed, batch=batch)

    @property
    def filler(self) -> Filler:
        """The object that fills holes and compares choices."""
        return Filler(self.denoiser, self.tokenizer, self.window, self.device)

    def _filling(self, rows: Sequence[Fill], seconds: float) -> "Filling":
        return Filling(
            [self.tokenizer.decode(row.tokens) for row in rows],
            [row.tokens for row in rows],
            [row.log_probs for row in rows],
            [row.passes for row in rows],
            seconds,
            unigram_entropy([token for hole in row.holes for token in hole] for row in rows),
            [[self.tokenizer.decode(hole) for hole in row.holes] for row in rows],
            [row.attempts for row in rows],
        )

    # ---- measuring ------------------------------------------------------------------------------------------------

    @checked
    def bound(self, texts: str | Sequence[str], *, draws: Count = 16, seed: Seed = 0, batch: Count = 32) -> Bound:
        """Texts -> the bound on their -log p; each is cut into windows, with `draws` random maskings a window.

        Raises RequestError if there is no token.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        ids = self.tokenizer.encode_batch(texts)
        rows = [row[at : at + self.window] for row in ids for at in range(0, len(row), self.window)]
        if not rows:
            raise RequestError("There is no text to measure: every text given is empty.")
        table = np.full((len(rows), self.window), self.tokenizer.pad_id, np.int64)
        for line, row in enumerate(rows):
            table[line, : len(row)] = row
        last = np.array([len(row) for row in rows], np.int32)
        size = sum(len(text.encode()) for text in texts)
        packed = Packed(table, np.zeros(len(rows), np.int32), last, size, int(last.sum()))
        return self.bound_packed(packed, draws=draws, seed=seed, batch=batch)

    @checked
    def bound_packed(
        self, packed: Packed, *, limit: Count | None = None, draws: Count = 1, seed: Seed = 0, batch: Count = 32
    ) -> Bound:
        """Rows packed by `data.prepare` -> their bound, of all or of the first `limit`."""
        masked, options = Masked(self.process), dict[str, Any](limit=limit, draws=draws, batch=batch, seed=seed)
        return validate(self.denoiser, masked, packed, self.device, **options).checked()


def unigram_entropy(samples: Iterable[Iterable[int]]) -> float:
    """Samples -> the entropy in nats of the distribution of their tokens; 0 without tokens."""
    counts = Counter(token for sample in samples for token in sample)
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values()) if total else 0.0
