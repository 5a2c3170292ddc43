"""The public API: a checkpoint -> a model that generates text, fills holes, compares choices and measures bounds."""

__all__ = ["Filling", "Generation", "Model", "bundled", "load"]

import os
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import torch

from unmask import ranges
from unmask.data.packed import Packed
from unmask.decode.canvas import constraints_of
from unmask.decode.constraint import Constraints
from unmask.decode.loop import Decoder
from unmask.decode.options import Defaults, make_decoder, measuring, row_options, writable
from unmask.decode.rows import Snapshot, Source, Written, slide
from unmask.denoiser import Denoiser, Trainable
from unmask.disk.checkpoint import Checkpoint
from unmask.disk.folders import DEFAULT_MODEL, bundled
from unmask.errors import RequestError
from unmask.fill.holes import Choice, Fill, Filler
from unmask.fill.matching import Constraining, continued, verified
from unmask.hf.masked import open_denoiser
from unmask.model.inference import computing_in
from unmask.noise import row_seeds
from unmask.objective.bound import Bound, validate
from unmask.objective.masked import objective_of, parameterization
from unmask.policies.base import UnmaskingPolicy
from unmask.process import MaskedDiffusion
from unmask.results import Filling, Generation, finished, hole_texts
from unmask.run.machine import DtypeName, choose_device, choose_dtype, prepare, set_threads
from unmask.text.tokenizer import Tokenizer

_DECODING = ("block_size", "cache", "guidance", "feedback", "suppress", "passes", "alternatives")


@ranges.checked
def load(
    name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    device: str = "auto",
    dtype: DtypeName = "auto",
    threads: ranges.Threads | None = None,
) -> "Model":
    """A checkpoint or run folder, folder of a published model, or name (bundled, cached, of the hub) -> a model.

    `dtype` is the format of products. Weights are held in float32 for float32 and below `STORED_FROM` parameters; else
    as stored, and "auto" computes in that. "int8": matrices of a transformer in int8, products in bfloat16.
    """
    prepare()
    set_threads(threads)
    target = choose_device(device)
    loaded = open_denoiser(name_or_path, str(target), dtype)
    chosen = choose_dtype(dtype, target, loaded.denoiser.width, next(loaded.denoiser.parameters()).dtype)
    return Model(loaded.denoiser, loaded.process, loaded.tokenizer, loaded.checkpoint, target, chosen)


class Model(Constraining):
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
        self.device, self.dtype, self.defaults = device, dtype, Defaults.of(checkpoint, network)
        self.denoiser: Denoiser = writable(computing_in(self.network, dtype), tokenizer)
        self.objective = objective_of(parameterization(network), process)

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.network.parameters())
        return f"Model({count:,} parameters, window {self.window} tokens, {self.tokenizer.vocab_size} token ids)"

    @property
    def window(self) -> int:
        """The number of positions of the network."""
        return self.network.max_length

    @ranges.checked
    def decoder(
        self,
        policy: str | UnmaskingPolicy | None = None,
        *,
        temperature: ranges.Temperature | None = None,
        top_p: ranges.TopP | None = None,
        block_size: ranges.BlockSize | None = None,
        cache: str | None = None,
        guidance: ranges.Guidance = 0.0,
        feedback: bool | None = None,
        suppress: Sequence[int | str] = (),
        passes: ranges.Passes | None = None,
        alternatives: ranges.Natural = 0,
    ) -> Decoder:
        """A policy -> the decoding loop over this model; the arguments are those of `generate` and `stream`.

        Temperature and top-p are for rows whose canvas has none. Raises RequestError for what cannot be combined.
        """
        options = {name: value for name, value in locals().items() if name in _DECODING}
        options["policy"], options["block_size"] = self.defaults.rule(self.denoiser, policy, block_size)
        decoder = make_decoder(self.denoiser, self.tokenizer, self.process.schedule, self.device, **options)
        return self.defaults.applied(decoder, temperature, top_p)

    @ranges.checked
    def generate(
        self,
        prompts: str | Sequence[str] = "",
        *,
        length: ranges.Count = 128,
        policy: str | UnmaskingPolicy | None = None,
        temperature: ranges.Temperature | Sequence[ranges.Temperature] | None = None,
        top_p: ranges.TopP | Sequence[ranges.TopP] | None = None,
        seed: ranges.Seed | Sequence[ranges.Seed] = 0,
        dial: ranges.Dial | Sequence[ranges.Dial] | None = None,
        passes: ranges.Passes | None = None,
        stride: ranges.Count | None = None,
        block_size: ranges.BlockSize | None = None,
        cache: str | None = None,
        guidance: ranges.Guidance = 0.0,
        feedback: bool | None = None,
        suppress: Sequence[int | str] = (),
        constraint: Constraints = None,
        stop_at_eos: bool = True,
        chat: bool = False,
        batch: ranges.Count = 32,
        trace: bool = False,
    ) -> Generation:
        """`prompts`, a text or several that may be empty -> their continuations, with tokens and log-probabilities.

        A row's text depends on its seed, its prompt and its options alone; what is left out has the model's default.

        Args:
            length: tokens to write after each prompt. Beyond the model's window, windows slide over the text.
            policy: which tokens appear when: a name (`unmask list policies`) such as "margin:steps=12", or an object.
            temperature: 0 takes the most probable token, 1 samples from the model; one number, or one a row.
            top_p: below 1, sample from the smallest set of tokens with this joint probability; one, or one a row.
            seed: one number, from which each row gets its own by its place, or one a row.
            dial: 0 (accurate) to 1 (fast), for a policy that has a dial; one number, or one a row.
            passes: the mean number of forward passes a row, for a calibrated learned policy.
            stride: tokens that each later window adds; by default half a window.
            block_size: fill blocks of so many positions from left to right; with a named policy, by default one block.
            cache: "prefix", "dual" or "delayed" keep keys and values between passes (see `unmask.model.cache`).
            guidance: the scale of classifier-free guidance towards the prompt.
            feedback: whether a pass sees what the last one predicted, by default for models with soft masks alone.
            suppress: tokens that are never written: ids, or texts of one token each.
            constraint: which tokens may be written where (see `only`, whose constraint leaves EOS out), or one a row.
            stop_at_eos: end a text at its first EOS.
            chat: each prompt is a user's message in the conversation template of a published model.
            batch: rows that go through the network at once.
            trace: record every change of a position in the result's `trace`.

        Raises RequestError for impossible requests. An UnmaskWarning tells of characters that the model does not have.
        """
        return finished(self, self.stream, Generation.of, locals())

    @ranges.checked
    def stream(
        self,
        prompts: str | Sequence[str] = "",
        *,
        length: ranges.Count = 128,
        policy: str | UnmaskingPolicy | None = None,
        temperature: ranges.Temperature | Sequence[ranges.Temperature] | None = None,
        top_p: ranges.TopP | Sequence[ranges.TopP] | None = None,
        seed: ranges.Seed | Sequence[ranges.Seed] = 0,
        dial: ranges.Dial | Sequence[ranges.Dial] | None = None,
        passes: ranges.Passes | None = None,
        stride: ranges.Count | None = None,
        block_size: ranges.BlockSize | None = None,
        cache: str | None = None,
        guidance: ranges.Guidance = 0.0,
        feedback: bool | None = None,
        suppress: Sequence[int | str] = (),
        constraint: Constraints = None,
        stop_at_eos: bool = True,
        chat: bool = False,
        batch: ranges.Count = 32,
        alternatives: ranges.Natural = 0,
    ) -> Generator[Snapshot, None, list[Written]]:
        """`prompts` -> a snapshot after each pass of what `generate` writes: print its `text`.

        The snapshots have so many `alternatives` of each position that was looked at, the most probable tokens; the
        other arguments are those of `generate`. The generator returns the finished rows.
        """
        decoding = {name: value for name, value in locals().items() if name in _DECODING}
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        step = self.window // 2 if stride is None else stride
        rules, numbers = constraints_of(constraint, len(texts))
        decoder = replace(self.decoder(policy, **decoding), constraints=rules)
        if not texts:
            raise RequestError("There is no prompt; give at least one, which may be empty.")
        if not 0 < step <= self.window:
            raise RequestError(f"stride is {step}; give 1 to {self.window} tokens, the model's window.")
        options = row_options(decoder, len(texts), dial=dial, temperature=temperature, top_p=top_p, passes=passes)
        ids = self.defaults.prompt_ids(self.tokenizer, self.network, texts, chat)
        self.tokenizer.warn(texts)
        sizes: dict[str, Any] = {"window": self.window, "stride": step, "batch": batch, "device": self.device}
        rows = slide(
            *(decoder, ids, [length] * len(texts), row_seeds(seed, len(texts))),
            **sizes,
            pad_id=self.tokenizer.pad_id,
            eos_id=self.tokenizer.eos_id if stop_at_eos else None,
            source=Source(self.tokenizer, list(map(self.tokenizer.typed, texts, ids))),
            options=replace(options, constraint=numbers),
        )
        return rows if rules == (None,) else verified(rows, [rules[n] for n in numbers], continued(self.tokenizer))

    @ranges.checked
    def fill(
        self,
        template: str,
        *,
        count: ranges.Count = 1,
        policy: str | UnmaskingPolicy | None = None,
        temperature: ranges.Temperature | Sequence[ranges.Temperature] | None = None,
        top_p: ranges.TopP | Sequence[ranges.TopP] | None = None,
        seed: ranges.Seed | Sequence[ranges.Seed] = 0,
        dial: ranges.Dial | Sequence[ranges.Dial] | None = None,
        passes: ranges.Passes | None = None,
        draws: ranges.Draws = 32,
        length_rule: str = "likelihood",
        block_size: ranges.BlockSize | None = None,
        cache: str | None = None,
        guidance: ranges.Guidance = 0.0,
        feedback: bool | None = None,
        suppress: Sequence[int | str] = (),
        constraint: Constraints = None,
        batch: ranges.Count = 32,
        trace: bool = False,
    ) -> Filling:
        """Fill the holes of a text such as "To be or [5] to be" (five tokens) -> the texts, and what is in each hole.

        Where a length is free, as in [1-8], every combination of lengths is decoded, and the text with the least bound
        on -log p is returned; `attempts` has them all. Special tokens, EOS among them, are never written. The other
        arguments are those of `generate`. Raises RequestError for a template that cannot be filled.

        Args:
            template: a text with holes: [5], [1-8], or [=old words] for words to write anew (`unmask.text.template`).
            count: number of texts; `seed`, `temperature`, `top_p`, `dial` and `constraint` may have an entry for each.
            draws: random maskings of each text, by which lengths are compared.
            length_rule: "likelihood" as above; "cal" or "lr-dllm" (`unmask.fill.lengths`) choose a length beforehand.
        """
        return finished(self, self.stream_fill, Filling.of_fills, locals())

    @ranges.checked
    def stream_fill(
        self,
        template: str,
        *,
        count: ranges.Count = 1,
        policy: str | UnmaskingPolicy | None = None,
        temperature: ranges.Temperature | Sequence[ranges.Temperature] | None = None,
        top_p: ranges.TopP | Sequence[ranges.TopP] | None = None,
        seed: ranges.Seed | Sequence[ranges.Seed] = 0,
        dial: ranges.Dial | Sequence[ranges.Dial] | None = None,
        passes: ranges.Passes | None = None,
        draws: ranges.Draws = 32,
        length_rule: str = "likelihood",
        block_size: ranges.BlockSize | None = None,
        cache: str | None = None,
        guidance: ranges.Guidance = 0.0,
        feedback: bool | None = None,
        suppress: Sequence[int | str] = (),
        constraint: Constraints = None,
        batch: ranges.Count = 32,
        alternatives: ranges.Natural = 0,
    ) -> Generator[Snapshot, None, list[Fill]]:
        """Fill holes as `fill` does, yielding a snapshot after each pass; returns the rows. Arguments as there."""
        decoding = {name: value for name, value in locals().items() if name in _DECODING}
        sketch = self.filler.sketch(template, count)
        rules, numbers = constraints_of(constraint, count)
        decoder = replace(self.decoder(policy, **decoding), constraints=tuple(map(self.filler.writable, rules)))
        options = row_options(decoder, count, dial=dial, temperature=temperature, top_p=top_p, passes=passes)
        self.tokenizer.warn(sketch.texts)
        more: dict[str, Any] = {"draws": draws, "batch": batch, "rule": self.filler.rule(length_rule)}
        options = replace(options, constraint=numbers)
        rows = self.filler.stream(sketch, decoder, row_seeds(seed, count), options, **more)
        return verified(rows, [rules[n] for n in numbers], lambda row: hole_texts(row, self.tokenizer))

    def canvas_of(self, template: str) -> list[int]:
        """The token ids of a template, MASK in its holes; a hole of free length has its least."""
        return self.filler.sketch(template).shortest(self.tokenizer.mask_id)

    @ranges.checked
    def score(
        self,
        template: str,
        choices: Sequence[str],
        *,
        orders: ranges.Draws = 32,
        seed: ranges.Seed = 0,
        batch: ranges.Count = 32,
    ) -> list[Choice]:
        """How probable each choice is where the template has a [?]: score("The king is [?]", ["dead", "here"]).

        A choice's nats are the bound on -log p of its tokens given the rest, the mean over the orders in which they can
        be revealed: all where the tokens are few, else `orders` random ones. That of an autoregressive model is exact,
        of the choice and all after it. The probabilities are shares of exp(-nats). Other holes stay hidden.
        """
        return self.filler.score(template, choices, orders=orders, seed=seed, batch=batch)

    @property
    def filler(self) -> Filler:
        """The object that fills holes and compares choices."""
        first, folder = self.defaults.first(self.network), self.checkpoint and self.checkpoint.folder
        return Filler(self.denoiser, self.tokenizer, self.window, self.device, first, self.objective, folder)

    @ranges.checked
    def bound(
        self,
        texts: str | Sequence[str],
        *,
        draws: ranges.Count = 16,
        seed: ranges.Seed = 0,
        batch: ranges.Count = 32,
        stride: ranges.Count | None = None,
    ) -> Bound:
        """Texts -> the bound on their -log p, in windows with `draws` random maskings each, which slide by `stride`.

        Without it they share nothing. No bits per byte where characters have no token. Raises RequestError for no text.
        """
        ids = self.tokenizer.encode_batch(texts := [texts] if isinstance(texts, str) else list(texts))
        if not any(ids):
            raise RequestError("There is no text to measure: every text given is empty.")
        size = 0 if self.tokenizer.warn(texts) else sum(len(text.encode()) for text in texts)  # else of other bytes
        packed = Packed.cut(ids, self.window, self.tokenizer.pad_id, size, self.defaults.first(self.network), stride)
        return self.bound_packed(packed, draws=draws, seed=seed, batch=batch)

    @ranges.checked
    def bound_packed(
        self,
        packed: Packed | Sequence[Packed],
        *,
        limit: ranges.Count | None = None,
        draws: ranges.Count = 1,
        seed: ranges.Seed = 0,
        batch: ranges.Count = 32,
    ) -> Bound:
        """Packed rows, or parts of them -> their bound, of all or of the first `limit`; bits per byte are of all."""
        denoiser, stand_in = measuring(self.denoiser, self.tokenizer), self.tokenizer.stand_in
        options: dict[str, Any] = {"limit": limit, "draws": draws, "batch": batch, "seed": seed, "stand_in": stand_in}
        return validate(denoiser, self.objective, packed, self.device, **options).checked()
