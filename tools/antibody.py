"""A model of antibodies on the task antibody-cdr3 -> recovery, germline-likeness and -log p of the CDR3s; a picture.

    unmask fetch sapiens && unmask fetch human-heavy-chains
    unmask frontier sapiens --task antibody-cdr3 --blocks full --workers 1 --out runs/cdr3
    python tools/antibody.py sapiens --sweep runs/cdr3 --plot cdr3.png

The table has what needs no model (the true CDR3s, the most frequent residue by length and position), and rules of a
sweep at several numbers of passes. Recovery and germline-likeness are of greedy decoding. Nats are -log p of the true
CDR3 a residue, where the rule decides the order and residues are drawn from the model; left to right and in random
order with one residue a pass this is what a bound on -log p is made of. Intervals are 95 % bootstraps over lineages.
The picture has all settings of the sweep on its left, and the rules of the table on its right.
"""

__all__ = ["Line", "interval", "main", "measured", "without_model"]

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from unmask.decode.rows import decode_rows, run_to_end
from unmask.eval.answer import answer_nats
from unmask.eval.frontier import resample
from unmask.noise import derive
from unmask.plots import new_figure, save_figure
from unmask.solve.settings import Setting
from unmask.solve.sweep import Bench, open_bench
from unmask.tasks.antibody import AntibodyCdr3, germline_likeness, most_frequent

RULES = {
    "confidence": [f"confidence:steps={k}" for k in (1, 2, 4, 8, 35)],
    "random": [f"random:steps={k}" for k in (2, 4, 8, 35)],
    "left-to-right": [f"left-to-right:steps={k}" for k in (2, 4, 8, 35)],
    "threshold": [f"threshold:threshold={p}" for p in (0.3, 0.5)],
    "entropy-bound": [f"entropy-bound:gamma={g}" for g in (3, 1)],
}
DIALS = (0.0, 0.3, 0.6, 0.8)
Interval = tuple[float, float, float]
"""A mean and its 95 % interval."""


class Line(NamedTuple):
    """A row of the table."""

    rule: str
    setting: str
    passes: float
    recovery: Interval
    germline: Interval
    nats: Interval | None
    """A residue; None where no model is asked."""


def interval(values: Sequence[float], weights: Sequence[float] | None = None) -> Interval:
    """Values -> their mean, weighted if there are weights, and its 95 % bootstrap interval over them."""
    x, w = np.asarray(values, float), np.ones(len(values)) if weights is None else np.asarray(weights, float)
    chosen = resample(len(x), 1000, 0)
    low, high = np.quantile((chosen @ (x * w)) / (chosen @ w), [0.025, 0.975])
    return float((x * w).sum() / w.sum()), float(low), float(high)


def without_model(task: AntibodyCdr3, bench: Bench) -> list[Line]:
    """The lines of the true CDR3s and of the most frequent residue, which are known from the training split."""
    known = [example.answer for example in task.examples("train", 1_000_000)]
    truth = [problem.example.answer for problem in bench.problems]
    guesses = [most_frequent(known, len(cdr3)) for cdr3 in truth]
    lines: list[Line] = []
    for name, texts in (("the true CDR3", truth), ("most frequent residue", guesses)):
        scores = [task.verify(p.example, text).score for p, text in zip(bench.problems, texts, strict=True)]
        lines.append(Line(name, "", 0.0, interval(scores), interval([germline_likeness(text) for text in texts]), None))
    return lines


def measured(bench: Bench, rule: str, setting: str) -> Line:
    """A setting on the problems of the bench -> its line of the table."""
    decoder, problems = bench.decoder(Setting(setting)), bench.problems
    seeds = [derive(bench.seed, n) for n in range(len(problems))]
    rows = [problem.row for problem in problems]
    filled = run_to_end(
        decode_rows(decoder, rows, seeds, pad_id=bench.tokenizer.pad_id, batch=256, device=bench.device)
    )
    texts = [
        bench.tokenizer.decode([row.tokens[at] for at in problem.holes])
        for problem, row in zip(problems, filled, strict=True)
    ]
    nats, _ = answer_nats(decoder, problems, bench.tokenizer, device=bench.device, seed=bench.seed)
    sizes = [len(problem.holes) for problem in problems]
    scores = [bench.task.verify(p.example, text).score for p, text in zip(problems, texts, strict=True)]
    return Line(
        rule,
        setting,
        float(np.mean([row.passes for row in filled])),
        interval(scores),
        interval([germline_likeness(text) for text in texts]),
        interval([total / size for total, size in zip(nats, sizes, strict=True)], sizes),
    )


def _table(lines: Sequence[Line]) -> list[str]:
    """Lines -> a table as Markdown."""
    rows = ["| rule | passes | recovery | germline-likeness | nats a residue |", "|---|---|---|---|---|"]
    for line in lines:
        passes = f"{line.passes:.1f}" if line.passes else "-"
        cells = [_cell(line.recovery), _cell(line.germline), "-" if line.nats is None else _cell(line.nats)]
        rows.append(f"| {line.setting or line.rule} | {passes} | " + " | ".join(cells) + " |")
    return rows


def _cell(value: Interval) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*value)


def _picture(lines: Sequence[Line], sweep: Path | None, title: str, path: Path) -> None:
    """Recovery (left) and nats a residue (right) against passes."""
    figure = new_figure(11, 4.6)
    left, right = figure.subplots(1, 2)
    base = next(line for line in lines if line.rule == "most frequent residue")
    left.axhline(base.recovery[0], color="0.5", ls="--", lw=1, label="most frequent residue")
    if sweep is not None:
        passes, accuracy = np.array(_outcomes(sweep)).T
        left.plot(passes, accuracy, ".", color="0.75", ms=4, label="all settings of the sweep")
    for n, rule in enumerate(dict.fromkeys(line.rule for line in lines if line.passes)):
        points = sorted((line for line in lines if line.rule == rule), key=lambda line: line.passes)
        for axis, field in ((left, "recovery"), (right, "nats")):
            values: Any = np.array([getattr(line, field) for line in points])
            passes = [line.passes for line in points]
            axis.plot(passes, values[:, 0], "o-", ms=3, lw=1, color=f"C{n}", label=rule)
            axis.vlines(passes, values[:, 1], values[:, 2], color=f"C{n}", lw=0.7, alpha=0.5)
    for axis, name in ((left, "recovery of the true residues"), (right, "-log p of the true residues, nats a residue")):
        axis.set(xscale="log", xlabel="forward passes per CDR3", ylabel=name)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.25)
    figure.suptitle(title)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False)
    save_figure(path, figure)


def _outcomes(sweep: Path) -> list[tuple[float, float]]:
    """The folder of `unmask frontier` -> passes and mean score of each setting."""
    with (sweep / "frontier.csv").open(encoding="utf-8", newline="") as file:
        return [(float(row["passes"]), float(row["accuracy"])) for row in csv.DictReader(file)]


def main() -> None:
    """Measure, print the table, and write JSON and the picture where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--rules", nargs="*", default=list(RULES))
    parser.add_argument("--learned", nargs="*", default=[], help="folders of policies")
    parser.add_argument("--sweep", type=Path, help="folder of unmask frontier")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--plot", type=Path, help="PNG")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = open_bench(options.checkpoint, "antibody-cdr3", options.split, options.count, 0, 0.0, "cpu")
    settings = [(rule, setting) for rule in options.rules for setting in RULES[rule]]
    names = {folder: f"learned-{n}" for n, folder in enumerate(options.learned)}
    settings += [(names[folder], f"learned:from={folder},dial={dial}") for folder in names for dial in DIALS]
    lines = without_model(AntibodyCdr3(), bench)
    for rule, setting in settings:
        lines.append(measured(bench, rule, setting))
        print(_table(lines)[-1], flush=True)
    print("\n".join(["", f"{len(bench.problems)} lineages, {options.split}", *_table(lines)]))
    if options.out:
        options.out.write_text(json.dumps([line._asdict() for line in lines], indent=1) + "\n", encoding="utf-8")
    if options.plot:
        _picture(lines, options.sweep, f"{options.checkpoint}, {len(bench.problems)} CDR3s", options.plot)


if __name__ == "__main__":
    main()
