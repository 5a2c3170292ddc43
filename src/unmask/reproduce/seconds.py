"""The cell that times a pass of a denoiser with each of several policies; and the report of seconds. Imports no torch.

Passes at equal accuracy need a trained denoiser (`plan.Timed`); the time of a pass needs none: `PassTimed` takes any
checkpoint.
"""

__all__ = ["SECONDS_CELLS", "SECONDS_RESULTS", "PassTimed", "seconds_section", "time_passes"]

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.output import markdown_table
from unmask.ranges import Count
from unmask.reproduce.text import TextCell

if TYPE_CHECKING:
    from unmask.reproduce.results import Results
    from unmask.solve.sweep import Outcome


@dataclass(frozen=True, slots=True)
class PassTimed(TextCell):
    """Processor seconds of the first pass over a window of MASKs, with each policy, while no other cell runs."""

    checkpoint: str
    """Any denoiser, trained or not."""
    policies: tuple[str, ...]
    """Rules by name; a learned policy of the default size, with random weights, is timed beside them."""
    batch: Count
    rounds: Count
    """Repetitions, of which the median is reported."""


@dataclass(frozen=True, slots=True)
class _Passes:
    """The result of a `PassTimed`."""

    seconds: dict[str, float]
    parameters: Count
    length: Count
    share: float


SECONDS_CELLS: dict[str, type[TextCell]] = {"passtimed": PassTimed}
SECONDS_RESULTS: dict[str, type[Any]] = {"passtimed": _Passes}
_OURS = "learned"


def time_passes(cell: PassTimed) -> dict[str, Any]:
    """A cell -> the median processor seconds of a pass with each policy; in each round every policy has its turn."""
    import torch

    from unmask.api import load
    from unmask.decode.canvas import Canvas
    from unmask.decode.loop import Decoder
    from unmask.policies.learned.network import PolicyNetwork
    from unmask.policies.learned.policy import Learned
    from unmask.policies.learned.settings import PolicySettings
    from unmask.policies.registry import make

    model = load(cell.checkpoint, device="cpu", dtype="float32", threads=1)
    denoiser, length = model.denoiser, model.window
    policies = {name: make(name) for name in cell.policies}
    policies[_OURS] = Learned(PolicyNetwork(PolicySettings(unit=float(length))))
    decoders = {name: Decoder(denoiser, policy) for name, policy in policies.items()}
    canvas = Canvas.start(torch.full((cell.batch, length), denoiser.mask_id), torch.arange(cell.batch))
    seconds = {name: list[float]() for name in decoders}
    wall, busy = time.perf_counter(), time.process_time()
    for round_ in range(cell.rounds + 1):
        for name, decoder in decoders.items():
            start = time.process_time()  # other processes disturb it less than the clock
            decoder.step(canvas)
            if round_:  # the first call is slow
                seconds[name].append(time.process_time() - start)
    share = (time.process_time() - busy) / (time.perf_counter() - wall)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    count = sum(parameter.numel() for parameter in model.network.parameters())
    return {"seconds": medians, "parameters": count, "length": length, "share": share}


# ---- report ----------------------------------------------------------------------------------------------------------

_TIMED = (
    "Milliseconds a problem, verifier included, one thread, median of the rounds. Each row also has, for each group, "
    "the fastest heuristic that is at least as accurate on the test problems, and its time divided by that of the "
    "policy (above 1 the policy is faster). Only heuristics on the frontier of their group in passes were timed. "
    "Accuracy and passes are of all test problems; times are of the first problems, of which the table has the number. "
    "The share is processor time divided by elapsed time: well below 100 % other processes disturbed the measurement."
)
_PASSES = (
    "Processor milliseconds of a pass over a whole window of MASKs, one thread, median of the rounds. In brackets is "
    "the time with the learned policy divided by this one: in equal time a rule can take so many times as many passes."
)


def seconds_section(results: "Results") -> list[str]:
    """Results -> the lines of the section: a row for each dial value, batch and arena, and the times of passes."""
    from unmask.eval.frontier import POSITION_FREE, POSITION_FREE_ANY, REFERENCES
    from unmask.reproduce.plan import Timed

    names = (POSITION_FREE, POSITION_FREE_ANY, REFERENCES)
    cells = results.cells.values()
    timed, passes = [c for c in cells if isinstance(c, Timed)], [c for c in cells if isinstance(c, PassTimed)]
    if not timed and not passes:
        return []
    rows = [row for cell in timed for row in _timings(results, cell, names)]
    head = ["test", "batch", "problems (share)", "alpha", "accuracy @ passes", "ms", *names]
    lines = ["## Seconds", "", _TIMED, "", *markdown_table(head, rows)]
    return [*lines, "", _PASSES, "", *_passes(results, passes)] if passes else lines


def _timings(results: "Results", cell: Any, names: Sequence[str]) -> list[list[str]]:
    """A `Timed` -> a row for each dial value; its state if it is not done."""
    from unmask.eval.frontier import grouped
    from unmask.reproduce.results import outcomes_of

    first = [f"{Path(cell.arena.checkpoint).name}, {cell.arena.task}", str(cell.batch)]
    if not results.done(cell.name):
        return [[*first, results.state(cell), *[""] * (3 + len(names))]]
    timed, measured = results.records[cell.name].result, results.records[cell.measured].result
    seconds: Mapping[str, float] = timed["seconds"]
    groups = grouped(outcomes_of(results.records[cell.against].result))
    rows: list[list[str]] = []
    for alpha, policy in zip(measured["alphas"], outcomes_of(measured), strict=True):
        own = seconds.get(policy.setting.key)
        if own is None:
            continue  # only the dial values of `results.shown` are timed
        accuracy = f"{policy.accuracy:.3f} @ {policy.mean_passes:.2f}"
        row = [*first, f"{timed['problems']} ({timed['share']:.0%})", f"{alpha:g}", accuracy, f"{own * 1e3:.2f}"]
        rows.append([*row, *(_fastest(policy, groups.get(name, []), seconds, own) for name in names)])
    return rows


def _fastest(policy: "Outcome", rules: "list[Outcome]", seconds: Mapping[str, float], own: float) -> str:
    """The fastest timed rule that is at least as accurate as a policy, which takes `own` seconds a problem."""
    accurate = [rule for rule in rules if rule.accuracy >= policy.accuracy and rule.setting.key in seconds]
    if not accurate:
        return "none as accurate"
    best = min(accurate, key=lambda rule: seconds[rule.setting.key])
    return f"{seconds[best.setting.key] * 1e3:.2f} (x{seconds[best.setting.key] / own:.2f}) {best.setting.key}"


def _passes(results: "Results", cells: list[PassTimed]) -> list[str]:
    """A row for each denoiser and batch: the time of a pass with each policy."""
    rules = list(dict.fromkeys(name for cell in cells for name in cell.policies))
    rows: list[list[str]] = []
    for cell in cells:
        first = [Path(cell.checkpoint).name, str(cell.batch)]
        if not results.done(cell.name):
            rows.append([*first, results.state(cell), *[""] * (len(rules) + 2)])
            continue
        result = results.records[cell.name].result
        seconds: Mapping[str, float] = result["seconds"]
        own, facts = seconds[_OURS], f"{result['parameters']:,}, {result['length']}"
        each = [f"{seconds[name] * 1e3:.2f} (x{own / seconds[name]:.3f})" if name in seconds else "" for name in rules]
        rows.append([*first, facts, *each, f"{own * 1e3:.2f}", f"{result['share']:.0%}"])
    head = ["denoiser", "batch", "parameters, window", *(f"{name}: ms" for name in rules), "learned: ms", "share"]
    return markdown_table(head, rows)
