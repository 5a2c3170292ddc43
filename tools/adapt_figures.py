"""A causal model made bidirectional -> the figures of docs/results.md.

    python tools/adapt_figures.py speed smollm2-135m-instruct-q4_1 lora bfloat16
    python tools/adapt_figures.py curve smollm2-135m-instruct-q4_1 runs/smollm2
    PYTHONPATH=. python tools/adapt_figures.py texts runs/smollm2 wordnet --words american-english

speed: processor time and peak memory of training steps of 16 rows. curve: nats per token of held-out text by the
frequency of tokens (unigram), by the causal model (but for the first token of each row), by the bound before the first
step, and along the run with the same maskings. texts: what two models write after the words of the same held-out rows,
in the decoding of the second: the share of words in a dictionary, and the perplexity under the second's 3-gram model.
"""

__all__ = ["causal_nats", "main", "unigram_nats"]

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmask.api import load
from unmask.data.packed import Packed
from unmask.data.settings import DataSettings
from unmask.hf.names import locate
from unmask.model.load import load_denoiser
from unmask.train.session import Session, open_session, plan_session, recorded_run
from unmask.train.settings import AdaptSettings, TextRun, TrainSettings

_ROWS, _STEPS = 16, 3


@contextmanager
def _opened(run: TextRun, init: str) -> Generator[Session]:
    """A session that begins with `init` and writes nothing that stays."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(plan_session(run, init=init, out=f"{folder}/run", note=lambda _: None))
        yield session
        session.close()


def speed(init: str, tuning: Any, dtype: Any) -> None:
    """Print processor seconds, tokens per second and peak memory after each of a few steps."""
    train = TrainSettings(steps=_STEPS, batch=_ROWS, dtype=dtype, threads=1)
    run = TextRun(DataSettings("wordnet", length=128), train=train, adapt=AdaptSettings(tuning=tuning))
    with _opened(run, init) as session:
        session.trainer.model.train()
        for _ in range(_STEPS):
            began, read = time.process_time(), session.trainer.gauge.read
            session.trainer.take_step()[0].item()
            seconds = time.process_time() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            rate = (session.trainer.gauge.read - read) / seconds
            print(f"{tuning} {dtype}: {seconds:.1f} s, {rate:.0f} tokens/s, peak {peak:.1f} GB", flush=True)


def curve(init: str, path: str) -> None:
    """Print the bound of a run along its steps, and what it is compared with."""
    recorded = recorded_run(path)
    run = replace(recorded, train=replace(recorded.train, minutes=None, steps=1, warmup=None))  # not measured again
    with _opened(run, init) as session:
        corpus = session.corpus
        print(f"unigram {unigram_nats(corpus.train, corpus.valid, corpus.facts.vocab_size):.4f}", flush=True)
        print(f"causal  {causal_nats(locate(init), corpus.valid):.4f}", flush=True)
        bound = session.trainer.validate()
        print(f"step 0  {bound.nats_per_token:.4f} ± {bound.stderr:.4f} ({bound.sequences} x {bound.draws} maskings)")
    for facts in map(json.loads, (Path(path) / "metrics.jsonl").read_text().splitlines()):
        if "valid" in facts:
            print(f"step {facts['step']:<4} {facts['valid']:.4f} ± {facts['valid_stderr']:.4f}")


def unigram_nats(train: Packed, valid: Packed, size: int) -> float:
    """Training rows, held-out rows and the number of ids -> nats per held-out token, one added to each frequency."""
    counts = np.ones(size)
    np.add.at(counts, _tokens(train), 1)
    return float(-np.log(counts / counts.sum())[_tokens(valid)].mean())


def _tokens(rows: Packed) -> np.ndarray:
    batch = rows.batch(range(len(rows)))
    return batch.ids[batch.maskable]


@torch.no_grad()
def causal_nats(path: str, rows: Packed) -> float:
    """A causal checkpoint and rows -> nats per token, given the tokens before it in the row."""
    network: Any = load_denoiser(path, dtype=torch.float32, grow=True).denoiser
    nats, tokens = 0.0, 0
    for first in range(0, len(rows), _ROWS):
        batch = rows.batch(range(first, min(first + _ROWS, len(rows))))
        ids, wanted = torch.from_numpy(batch.ids), torch.from_numpy(batch.valid)
        wanted[:, 0] = False
        logits = network.logits(network.hidden(ids, valid=torch.from_numpy(batch.valid))[wanted])
        logits[:, network.mask_id] = -torch.inf
        nats += float(torch.nn.functional.cross_entropy(logits, ids[wanted], reduction="sum"))
        tokens += int(wanted.sum())
    return nats / tokens


def texts(first: str, second: str, words: Path, count: int) -> None:
    """Print the measures of two models and of the held-out rows, and a few texts of the first model."""
    from tools.text_model import Material, dictionary_of, ended, passages, perplexity, written

    from unmask.eval.text import known_words

    judge = Material.of(load(second, dtype="float32"))
    rows, dictionary, defaults = passages(judge.held_out)[:count], dictionary_of(words), judge.model.defaults
    names = ("policy", "block_size", "temperature", "top_p")
    decoding = {name: getattr(defaults, name) for name in names}
    of_rows = [(row.prompt, row.rest) for row in rows]
    for name in (first, second, "held-out rows"):
        pairs = of_rows
        if name != "held-out rows":
            material = replace(judge, model=load(name))
            done = written(material, rows, 0, decoding)
            decode = material.model.tokenizer.decode
            pairs = [(decode(r.tokens[: r.prompt]), decode(r.tokens[r.prompt :], inside=True)) for r in done]
        share = known_words((rest for _, rest in pairs), dictionary) or 0.0
        judged = [
            (judge.model.tokenizer.encode(prompt), ended(judge.model, rest, inside=True)) for prompt, rest in pairs
        ]
        print(f"{name}: {100 * share:.1f} % in the dictionary, perplexity {perplexity(judge, judged):.0f}")
        print(*(f"    {prompt}{rest}" for prompt, rest in pairs[:12]), sep="\n", flush=True)


def main() -> None:
    """Read the command line, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("speed")
    verb.add_argument("init")
    verb.add_argument("tuning", choices=("lora", "full"))
    verb.add_argument("dtype", choices=("float32", "bfloat16"))
    verb.set_defaults(run=speed)
    verb = verbs.add_parser("curve")
    verb.add_argument("init")
    verb.add_argument("path")
    verb.set_defaults(run=curve)
    verb = verbs.add_parser("texts")
    verb.add_argument("first")
    verb.add_argument("second")
    verb.add_argument("--words", type=Path, default=Path("/usr/share/dict/american-english"))
    verb.add_argument("--count", type=int, default=100)
    verb.set_defaults(run=texts)
    words = vars(parser.parse_args())
    words.pop("run")(**words)


if __name__ == "__main__":
    main()
