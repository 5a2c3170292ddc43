"""A model in training -> a text that it writes, and what is looked at between validations.

A sample changes nothing in the run: its randomness is a function of the seed of the run, the weights are the averaged
ones for as long as it takes, and torch's global generator is not used.
"""

__all__ = ["Look", "Sample", "sample_values", "write_sample"]

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import torch

from unmask.data.packed import Corpus
from unmask.decode.options import make_decoder
from unmask.decode.rows import run_to_end, slide
from unmask.denoiser import Trainable
from unmask.objective.bound import Bound
from unmask.process import Schedule

_PROMPT, _NEW = 16, 48  # tokens of a sample of plain text
_TEMPERATURE = 0.7
_MOST_PASSES = 32


class Sample(NamedTuple):
    """A held-out text that was continued, or a held-out prompt that was answered."""

    prompt: str
    text: str
    """What the model wrote."""
    answer: str | None
    """The right answer; None for plain text."""


def write_sample(model: Trainable, corpus: Corpus, schedule: Schedule, device: torch.device, seed: int) -> Sample:
    """A model in eval mode and a corpus -> a sample, always of the first held-out row.

    Of a pair the answer is written over as many positions as the right one has, as in training, most confident first
    and without randomness. Of plain text the first 16 tokens are continued by up to 48, by the entropy-bounded sampler
    at temperature 0.7.
    """
    tokenizer, rows = corpus.tokenizer, corpus.valid
    first, last = int(rows.first[0]), int(rows.last[0])
    ids = [int(token) for token in rows.ids[0, :last]]
    start = first if corpus.facts.paired else min(_PROMPT, rows.length // 4, last)
    count = last - first if corpus.facts.paired else min(_NEW, rows.length - start)
    policy = f"confidence:steps={min(count, _MOST_PASSES)}" if corpus.facts.paired else "entropy-bound:gamma=1"
    decoder = make_decoder(model, tokenizer, schedule, device, policy)
    decoder = replace(decoder, temperature=0.0 if corpus.facts.paired else _TEMPERATURE)
    stream = slide(
        decoder,
        [ids[:start]],
        [count],
        [seed],
        window=model.max_length,
        stride=model.max_length,
        pad_id=tokenizer.pad_id,
        eos_id=tokenizer.eos_id if corpus.facts.paired else None,
        batch=1,
        device=device,
    )
    written = run_to_end(stream)[0].tokens[start:]
    answer = tokenizer.decode(ids[first:]) if corpus.facts.paired else None
    return Sample(tokenizer.decode(ids[:start]), tokenizer.decode(written, start > 0), answer)


class Look(NamedTuple):
    """What is measured between validations: a bound from few maskings, a sample, or both."""

    bound: Bound | None
    sample: Sample | None

    def values(self) -> Mapping[str, float | str | None]:
        """For metrics.jsonl."""
        bound = {} if self.bound is None else {"valid": self.bound.nats_per_token, "valid_stderr": self.bound.stderr}
        return {**bound, **({} if self.sample is None else sample_values(self.sample))}


def sample_values(sample: Sample) -> dict[str, str]:
    """A sample -> its texts by name, for metrics.jsonl."""
    named = {"sample_prompt": sample.prompt, "sample": sample.text, "sample_answer": sample.answer}
    return {name: text for name, text in named.items() if text is not None}
