"""What a person imports: a model that generates, fills holes, and says how well it knows a text."""

__all__ = ["Generation", "Model", "bundled", "load", "unigram_entropy"]

import math
import time
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unmask.assets.models import bundled, locate
from unmask.bound import Bound
from unmask.data.packed import Packed
from unmask.decode import Decoder
from unmask.denoiser import Denoiser, Guided, LowPrecision, Suppressed
from unmask.errors import RequestError
from unmask.model.cache import cached
from unmask.model.dit import DiT
from unmask.noise import derive
from unmask.policies.base import UnmaskingPolicy
from unmask.policies.registry import make
from unmask.process import MaskedDiffusion
from unmask.run.checkpoint import Checkpoint
from unmask.run.machine import choose_device, choose_dtype, prepare, set_threads
from unmask.text.template import Hole, parse_template
from unmask.text.tokenizer import Tokenizer
from unmask.train.folder import load_denoiser
from unmask.train.validate import validate
from unmask.windows import Snapshot, Written, decode_rows, slide


@dataclass(frozen=True, slots=True)
class Generation:
    """Samples. Lists have one entry a sample; log-probabilities are in nats, of the tokens that were written."""

    texts: list[str]
    tokens: list[list[int]]
    log_probs: list[list[float]]
    passes: list[int]
    seconds: float
    entropy: float
    """Unigram entropy of the written tokens in nats, over all samples: a low one unmasks repetition."""


def load(
    name_or_path: str = "shakespeare", *, device: str = "auto", dtype: str = "auto", threads: int | None = None
) -> "Model":
    """A model from a checkpoint folder, a run folder, or the name of a bundled checkpoint.

    Raises RequestError or CheckpointError, in one sentence, for what cannot be loaded.
    """
    prepare()
    set_threads(threads)
    place = choose_device(device)
    loaded = load_denoiser(locate(name_or_path), str(place))
    kind = choose_dtype(dtype, place)  # pyright: ignore[reportArgumentType]
    return Model(loaded.denoiser, loaded.process, loaded.tokenizer, loaded.checkpoint, place, kind)


class Model:
    """A denoiser with its tokenizer. Make one with `unmask.load`."""

    def __init__(
        self,
        network: DiT,
        process: MaskedDiffusion,
        tokenizer: Tokenizer,
        checkpoint: Checkpoint | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.network, self.process, self.tokenizer, self.checkpoint = (
            network.to(device).eval(),
            process,
            tokenizer,
            checkpoint,
        )
        self.device, self.dtype = device, dtype
        self.denoiser: Denoiser = (
            self.network if dtype == torch.float32 else LowPrecision(self.network.lowered(dtype), dtype)
        )

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.network.parameters())
        return f"Model({count:,} parameters, window {self.window} tokens, {self.tokenizer.vocab_size} token ids)"

    @property
    def window(self) -> int:
        """Positions the network was made for."""
        return self.network.settings.max_length

    # ---- writing --------------------------------------------------------------------------------------------------

    def decoder(
        self,
        policy: str | UnmaskingPolicy = "random",
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        block_size: int | None = None,
        cache: str | None = None,
        guidance: float = 0.0,
        suppress: Sequence[int | str] = (),
    ) -> Decoder:
        """The decoding loop over this model; `policy` is a name such as "ancestral:steps=64" or a policy itself.

        `cache` is "prefix", "dual" or "delayed" (see `unmask.model.cache`), `guidance` the scale of classifier-free
        guidance towards the prompt (see `unmask.denoiser.Guided`), `suppress` tokens that are never written: ids, or
        texts of one token each. Raises RequestError for what does not go together.
        """
        rule = make(policy, self.process.schedule) if isinstance(policy, str) else policy
        denoiser = self.denoiser
        if suppress:
            denoiser = Suppressed(denoiser, tuple(self._token(one) for one in suppress))
        if guidance:
            denoiser = Guided(denoiser, guidance)
        if cache is not None:
            denoiser = cached(denoiser, cache)
            if denoiser.needs_blocks and block_size is None:
                raise RequestError(
                    f"The cache '{cache}' saves nothing in a single block; give block_size, or the cache 'delayed'."
                )
        return Decoder(denoiser, rule, temperature, top_p, block_size)

    def _token(self, one: int | str) -> int:
        """The id of a token given as an id or a text. Raises RequestError for a text that is not one token."""
        if isinstance(one, int):
            return one
        special = {self.tokenizer.piece(i): i for i in self.tokenizer.special_ids}
        ids = [special[one]] if one in special else self.tokenizer.encode(one)
        if len(ids) != 1:
            raise RequestError(f"'{one}' is {len(ids)} tokens and cannot be suppressed; give a text of one token.")
        return ids[0]

    def generate(self, prompts: str | Sequence[str] = "", **options: Any) -> Generation:
        """Continue each prompt; the options are those of `stream`."""
        began = time.perf_counter()
        stream = self.stream(prompts, **options)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                return self._collect(end.value, time.perf_counter() - began)

    def stream(
        self,
        prompts: str | Sequence[str] = "",
        *,
        length: int = 128,
        policy: str | UnmaskingPolicy = "random",
        temperature: float = 1.0,
        top_p: float = 1.0,
        block_size: int | None = None,
        cache: str | None = None,
        guidance: float = 0.0,
        suppress: Sequence[int | str] = (),
        stride: int | None = None,
        seed: int | Sequence[int] = 0,
        stop_at_eos: bool = True,
        batch: int = 32,
    ) -> Generator[Snapshot, None, list[Written]]:
        """Continue each prompt by `length` tokens, yielding the canvas after each pass.

        Beyond the model's window the text is written in windows that slide by `stride` tokens (default: half a window).
        `seed` is one number, from which each row gets its own by its place, or one number a row. A row's text depends
        on its seed and prompt, not on the rows beside it; the other options are those of `decoder`. The generator
        returns the finished rows.
        Raises RequestError for what cannot be done.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        step = self.window // 2 if stride is None else stride
        decoder = self.decoder(
            policy,
            temperature=temperature,
            top_p=top_p,
            block_size=block_size,
            cache=cache,
            guidance=guidance,
            suppress=suppress,
        )
        if not texts:
            raise RequestError("There is no prompt; give at least one, which may be empty.")
        if length < 1:
            raise RequestError(f"length is {length}; give the number of tokens to write, at least 1.")
        if not 0 < step <= self.window:
            raise RequestError(f"stride is {step}; give 1 to {self.window} tokens, the model's window.")
        return slide(
            decoder,
            self.tokenizer.encode_batch(texts),
            [length] * len(texts),
            _row_seeds(seed, len(texts)),
            window=self.window,
            stride=step,
            pad_id=self.tokenizer.pad_id,
            eos_id=self.tokenizer.eos_id if stop_at_eos else None,
            batch=batch,
            device=self.device,
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

    def fill(self, template: str, **options: Any) -> Generation:
        """Fill the holes of a text such as "To be or [5] to be" (five tokens); options as for `stream_fill`."""
        began = time.perf_counter()
        stream = self.stream_fill(template, **options)
        while True:
            try:
                next(stream)
            except StopIteration as end:
                return self._collect(end.value, time.perf_counter() - began)

    def stream_fill(
        self,
        template: str,
        *,
        policy: str | UnmaskingPolicy = "random",
        temperature: float = 1.0,
        top_p: float = 1.0,
        count: int = 1,
        seed: int | Sequence[int] = 0,
        batch: int = 32,
    ) -> Generator[Snapshot, None, list[Written]]:
        """Fill the holes of `template` `count` times, yielding the canvas after each pass; EOS is never written.

        Raises RequestError for a template without holes, or one longer than the model's window.
        """
        if count < 1:
            raise RequestError(f"count is {count}; give at least 1.")
        row = self.canvas_of(template)
        decoder = self.decoder(policy, temperature=temperature, top_p=top_p)
        rows = yield from decode_rows(
            decoder,
            [row] * count,
            [derive(s, 0) for s in _row_seeds(seed, count)],
            pad_id=self.tokenizer.pad_id,
            batch=batch,
            device=self.device,
        )
        return [Written(r.tokens, 0, [0.0 if math.isnan(p) else p for p in r.log_probs], r.passes) for r in rows]

    def canvas_of(self, template: str) -> list[int]:
        """The token ids of a template, MASK in its holes."""
        row: list[int] = []
        for part in parse_template(template):
            row += [self.tokenizer.mask_id] * part.length if isinstance(part, Hole) else self.tokenizer.encode(part)
        if len(row) > self.window:
            raise RequestError(
                f"The template is {len(row)} tokens long and the model's window is {self.window}; "
                "shorten it or its holes."
            )
        return row

    # ---- measuring ------------------------------------------------------------------------------------------------

    def bound(self, texts: str | Sequence[str], *, draws: int = 16, seed: int = 0, batch: int = 32) -> Bound:
        """The bound on -log p of some texts, each cut into windows; `draws` random maskings a window.

        Raises RequestError where there is no token to measure.
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

    def bound_packed(
        self, packed: Packed, *, limit: int | None = None, draws: int = 1, seed: int = 0, batch: int = 32
    ) -> Bound:
        """The bound on rows that `data.prepare` has packed, all of them or the first `limit`."""
        return validate(
            self.denoiser, self.process, packed, self.device, limit=limit, draws=draws, batch=batch, seed=seed
        )


def unigram_entropy(samples: Iterable[Iterable[int]]) -> float:
    """Entropy in nats of the distribution of tokens over all samples together; 0 where there are none."""
    counts = Counter(token for sample in samples for token in sample)
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values()) if total else 0.0


def _row_seeds(seed: int | Sequence[int], count: int) -> list[int]:
    if isinstance(seed, int):
        return [derive(seed, row) for row in range(count)]
    if len(seed) != count:
        raise RequestError(f"{len(seed)} seeds were given for {count} rows; give one seed, or one a row.")
    return [int(s) for s in seed]
