"""`--dry` of `unmask learn` and `unmask frontier`: what was walked through, and what the real run needs, as a table."""

__all__ = ["evaluate", "learn", "length_of"]

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.cli.common import duration, print_json, size, table
from unmask.output import show
from unmask.rl.settings import LearnRun

if TYPE_CHECKING:
    from unmask.solve.needs import Needs

_FEWER = 4  # passes of a row at most, divided by the passes that the second figure of time is for


def learn(run: LearnRun, as_json: bool) -> int:
    """The settings of a training -> exit code; every part is done once in a temporary folder, and the needs printed."""
    from unmask.rl.dry import estimate, walk

    with tempfile.TemporaryDirectory(prefix="unmask-dry-") as folder:
        walked = walk(run, Path(folder))
        pairs = estimate(run, Path(folder)) if run.others else []
    s = run.learn
    length = length_of(run.task)
    needs = _needs(run.checkpoint, length, s.block_size or length, s.batch)
    if as_json:
        facts = {"walked": asdict(walked), "needs": None if needs is None else asdict(needs)}
        print_json(facts | {"pairs": [asdict(pair) for pair in pairs]})
        return 0
    rows = {"denoiser": _denoiser(run.checkpoint, needs)}
    for n, pair in enumerate(pairs, 1):
        parts = [f"{_hours(getattr(pair, name))} for the {name}" for name in ("rules", "rounds", "validations")]
        more = f"{_hours(pair.warm)} for the warm start, {_hours(pair.calibration)} for the calibration"
        rows[f"pair {n}"] = f"{pair.pair}: {_hours(pair.total)}: {', '.join(parts)}, {more}"
    if pairs:
        rows["time"] = f"{_hours(sum(pair.total for pair in pairs))} on one thread of this machine"
    elif needs is not None:
        rollouts, validations = s.prompts * s.group, 1 + s.rounds // s.valid_every
        whole = rollouts * s.rounds + s.valid_prompts * len(s.alphas) * validations
        rows |= {
            "memory": _memory(needs, s.dtype, s.batch),
            "round": f"{rollouts} rollouts of at most {needs.most} passes: "
            f"{rollouts * needs.most * needs.pass_operations:.1e} operations",
            "time": _time(needs, {"a round": rollouts, f"for {s.rounds} with validations": whole}),
            "disk": f"{size(needs.weights['bfloat16'])} for the model, "
            f"{size(s.keep * walked.checkpoint_bytes)} for checkpoints",
        }
    rows["walked"] = (
        f"{walked.network}, {duration(walked.seconds)}: {walked.rollouts} rollouts of {walked.passes:.0f} passes, "
        f"an update of {walked.parameters:,} parameters, validation, checkpoint, frontier"
    )
    show(*table(rows))
    return 0


def evaluate(
    checkpoint: str, task: str, policies: Sequence[str], options: dict[str, Any], sweep: dict[str, Any], as_json: bool
) -> int:
    """A model, a task, policies, options of `rl.dry.measure` and facts of the sweep -> exit code; prints as `learn`.

    The facts are the number of `settings`, of problems (`count`), and of problems at once (`batch`).
    """
    from unmask.rl.dry import measure

    with tempfile.TemporaryDirectory(prefix="unmask-dry-") as folder:
        measured = measure(checkpoint, task, policies, options.pop("blocks"), Path(folder), **options)
    length = length_of(task)
    needs = _needs(checkpoint, length, length, sweep["batch"])
    if as_json:
        print_json({"walked": asdict(measured), "needs": None if needs is None else asdict(needs)})
        return 0
    rows = {"denoiser": _denoiser(checkpoint, needs)}
    if needs is not None:
        count, settings = sweep["count"], sweep["settings"]
        rows |= {
            "memory": _memory(needs, options["dtype"], sweep["batch"]),
            "sweep": f"{settings} settings on {count} problems of at most {needs.most} passes",
            "time": _time(needs, {"a setting": count, "for all": count * settings}),
            "disk": f"{size(needs.weights['bfloat16'])} for the model",
        }
    rows["walked"] = (
        f"{measured.network}, {duration(measured.seconds)}: {measured.settings} settings on {measured.problems} "
        f"problems, {measured.passes:.0f} passes on average"
    )
    show(*table(rows))
    return 0


def length_of(task: str) -> int:
    """The text of a task -> the positions that a problem has to fill: its option `length`."""
    from unmask.tasks.registry import options

    name, _, rest = task.partition(":")
    typed = [item.removeprefix("length=") for item in rest.split(",") if item.startswith("length=")]
    known = {} if ".py" in name else options(name)
    value = typed[0] if typed else known.get("length", "256")
    return int(value) if value.isdecimal() else 256


def _needs(checkpoint: str, length: int, block: int, batch: int) -> "Needs | None":
    """A model -> its needs; None for a network that is no transformer."""
    from unmask.rl.dry import real_network
    from unmask.solve.needs import needs_of

    settings = real_network(checkpoint)[1]
    return None if settings is None else needs_of(settings, length=length, block=block, batch=batch)


def _denoiser(checkpoint: str, needs: "Needs | None") -> str:
    if needs is None:
        return checkpoint
    sizes = ", ".join(f"{size(count)} in {name}" for name, count in needs.weights.items())
    return f"{checkpoint}: {needs.parameters:,} parameters, {sizes}"


def _memory(needs: "Needs", dtype: str, batch: int) -> str:
    """Needs, the number format and the rows at once -> the bytes of weights and of a pass."""
    weights = needs.weights.get("bfloat16" if dtype == "auto" else dtype, 2 * needs.weights["bfloat16"])
    whole, row = size(weights + needs.pass_bytes), size(needs.cache)
    return f"about {whole}: weights, and {size(needs.pass_bytes)} for a pass of {batch} rows; a cache takes {row} a row"


def _time(needs: "Needs", rows: dict[str, float]) -> str:
    """Needs, and numbers of rows by what they are -> hours for the most passes and for fewer, at a stated rate."""
    from unmask.solve.needs import RATE

    fewer = max(1, needs.most // _FEWER)
    most = " and ".join(f"{_hours(needs.hours(count, needs.most))} {what}" for what, count in rows.items())
    less = " and ".join(_hours(needs.hours(count, fewer)) for count in rows.values())
    return f"{most} at {RATE / 1e12:.0f} TFLOP/s; with {fewer} passes {less}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"
