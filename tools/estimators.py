"""Compare the estimators of the bound: the variance of the loss and of its gradient over maskings of one batch.

    python tools/estimators.py CHECKPOINT

It prints a Markdown table; docs/math.md has its output. `unmask reproduce mdlm-estimators` has training curves.
"""

import argparse
import math
from dataclasses import replace

import numpy as np
import torch

from unmask.api import load
from unmask.data.prepare import prepare
from unmask.noise import generator
from unmask.objective.masked import ESTIMATORS, masking, nelbo
from unmask.run.machine import prepare as prepare_machine
from unmask.train.settings import trained_on


def variance(checkpoint: str, batch: int, maskings: int) -> None:
    """Print the standard deviation over maskings of one batch: of the loss, and of the gradient over its mean."""
    model = load(checkpoint, dtype="float32")
    trained = trained_on(model.checkpoint) if model.checkpoint else None
    if trained is None:
        raise SystemExit(f"{checkpoint} does not say what it was trained on; give a checkpoint of unmask train.")
    data = prepare(replace(trained.data, tokenizer="auto", vocab_size=None), model.tokenizer).valid
    rows = data.batch(np.arange(batch))
    ids, maskable = torch.from_numpy(rows.ids), torch.from_numpy(rows.maskable)
    params = list(model.network.parameters())
    print(f"{checkpoint}: batch {batch} x {model.window} tokens, {maskings} maskings\n")
    print("| estimator | mean loss | std of the loss | std of the gradient / its mean |\n|---|---|---|---|")
    for name in ESTIMATORS:
        losses, total, squares = [], None, 0.0
        for turn in range(maskings):
            hide, weight, _ = masking(name, model.process, maskable, generator(7, turn))
            loss = nelbo(model.denoiser, ids, hide, weight).sum() / maskable.sum()
            flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)])
            total = flat if total is None else total + flat
            squares += float(flat.square().sum())
            losses.append(loss.item())
        assert total is not None
        mean = total / maskings
        # |mean|^2 is biased upwards by the variance of the mean; both estimates are corrected for it
        spread = (squares / maskings - float(mean.square().sum())) * maskings / (maskings - 1)
        size = math.sqrt(max(float(mean.square().sum()) - spread / maskings, 1e-12))
        print(f"| {name} | {np.mean(losses):.4f} | {np.std(losses, ddof=1):.4f} | {math.sqrt(spread) / size:.2f} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--maskings", type=int, default=64)
    args = parser.parse_args()
    prepare_machine()
    variance(args.checkpoint, args.batch, args.maskings)


if __name__ == "__main__":
    main()
