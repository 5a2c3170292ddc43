"""A run of `unmask train adapt` -> what its curve is compared with, and the curve, in nats per token of held-out text.

    python tools/adapt_figures.py runs/wordnet-1 --init smollm2-135m-instruct-q4_1

unigram: tokens by their frequency in the training part. causal: -log p of the checkpoint that the run began with, of
each token but the first of a row. step 0: the bound before the first step, with the maskings of the run.
"""

__all__ = ["causal_nats", "main", "unigram_nats"]

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unmask.data.packed import Packed
from unmask.hf.names import locate
from unmask.model.load import load_denoiser
from unmask.train.session import open_session, plan_session, recorded_run

_ROWS = 16


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


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--init", required=True)
    words = parser.parse_args()
    recorded = recorded_run(words.run)
    run = replace(recorded, train=replace(recorded.train, minutes=None, steps=1, warmup=None))  # not measured again
    with tempfile.TemporaryDirectory() as folder:
        planned = plan_session(run, init=words.init, out=f"{folder}/run", note=lambda _: None)
        session = open_session(planned)
        corpus = session.corpus
        print(f"unigram {unigram_nats(corpus.train, corpus.valid, corpus.facts.vocab_size):.4f}", flush=True)
        print(f"causal  {causal_nats(locate(words.init), corpus.valid):.4f}", flush=True)
        bound = session.trainer.validate()
        print(f"step 0  {bound.nats_per_token:.4f} ± {bound.stderr:.4f} ({bound.sequences} x {bound.draws} maskings)")
        session.close()
    for line in (Path(words.run) / "metrics.jsonl").read_text().splitlines():
        facts = json.loads(line)
        if "valid" in facts:
            print(f"step {facts['step']:<4} {facts['valid']:.4f} ± {facts['valid_stderr']:.4f}")


if __name__ == "__main__":
    main()
