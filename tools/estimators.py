"""Compare the estimators of the bound: the variance of the loss and of its gradient, and training curves.

    python tools/estimators.py variance CHECKPOINT        # a trained model, one batch, many maskings
    python tools/estimators.py curves --steps 1500 --seeds 1 2   # nano networks trained from scratch

It prints Markdown tables; docs/math.md has its output.
"""

import argparse
import math
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from unmask.api import load
from unmask.data.prepare import prepare
from unmask.data.settings import DataSettings
from unmask.model.load import build
from unmask.noise import generator
from unmask.objective.bound import Bound
from unmask.objective.masked import ESTIMATORS, Estimator, masking, nelbo
from unmask.run.loop import Listener
from unmask.run.machine import prepare as prepare_machine
from unmask.run.parallel import Group
from unmask.train.loop import StepReport, Trainer
from unmask.train.plan import make_plan
from unmask.train.session import run_objective
from unmask.train.settings import ModelChoice, TextRun, TrainSettings


def variance(checkpoint: str, batch: int, maskings: int) -> None:
    """Print the standard deviation over maskings of one batch: of the loss, and of the gradient over its mean."""
    model = load(checkpoint, dtype="float32")
    data = prepare(DataSettings(length=model.window), model.tokenizer).train
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


class _Validations(Listener[StepReport, Bound]):
    """A listener that keeps the validation bounds."""

    def __init__(self) -> None:
        self.bounds: list[tuple[int, float]] = []

    def validated(self, step: int, figure: Bound, best: bool) -> None:
        self.bounds.append((step, figure.nats_per_token))


def curves(steps: int, seeds: list[int], batch: int, length: int) -> None:
    """Print the validation bounds of a nano network trained with each estimator, everything else equal."""
    every = steps // 4
    print(f"nano network, shakespeare, batch {batch} x {length}, validation bound in nats/token, seeds {seeds}\n")
    print("| estimator | seed | " + " | ".join(f"step {every * i}" for i in range(1, 5)) + " |\n|---|---|" + "---|" * 4)
    for seed in seeds:
        for name in get_args(Estimator):
            run = TextRun(
                data=DataSettings(length=length),
                model=ModelChoice(size="nano", dropout=0.0),
                train=TrainSettings(
                    steps=steps, batch=batch, seed=seed, estimator=name, eval_every=every, patience=0, ema=0.99
                ),
            )
            corpus = prepare(run.data)
            plan = make_plan(run, corpus)
            listener = _Validations()
            with tempfile.TemporaryDirectory() as folder:
                model = build(plan.model, seed)
                objective = run_objective(run, corpus)
                Trainer(run, plan, corpus, model, objective, Path(folder), Group(), torch.float32).fit(listener)
            cells = " | ".join(f"{nats:.4f}" for _, nats in listener.bounds)
            print(f"| {name} | {seed} | {cells} |", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    variances = verbs.add_parser("variance")
    variances.add_argument("checkpoint")
    variances.add_argument("--batch", type=int, default=16)
    variances.add_argument("--maskings", type=int, default=64)
    training = verbs.add_parser("curves")
    training.add_argument("--steps", type=int, default=1500)
    training.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    training.add_argument("--batch", type=int, default=16)
    training.add_argument("--length", type=int, default=128)
    args = parser.parse_args()
    prepare_machine()
    if args.verb == "variance":
        variance(args.checkpoint, args.batch, args.maskings)
    else:
        curves(args.steps, args.seeds, args.batch, args.length)


if __name__ == "__main__":
    main()
