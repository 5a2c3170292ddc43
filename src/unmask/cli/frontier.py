"""`unmask frontier`: accuracy against passes, for every policy, value of its knob, and block size."""

__all__ = ["FrontierArguments", "run"]

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unmask.cli.common import Meter, OutputOptions, keeping, print_json
from unmask.cli.parse import Flat, Positional, parse, typed_options
from unmask.config import to_path
from unmask.errors import ConfigError
from unmask.output import note, show
from unmask.ranges import Count, Seed, Temperature, Threads

if TYPE_CHECKING:
    from unmask.eval.frontier import Frontiers
    from unmask.solve.sweep import Outcome

_OUTCOMES = "outcomes.jsonl"  # the file of the measured settings in the folder of a sweep


@dataclass(frozen=True, slots=True)
class FrontierArguments:
    """Measure accuracy and passes of policies on the problems of a task: a table, a CSV, a JSON and a picture.

    To continue a sweep that was stopped, repeat the command with the same --out.
    """

    checkpoint: Positional[str]
    """A checkpoint or run folder, or the name of a bundled model; or without --task a recipe, as of `unmask learn`."""
    task: str = ""
    """The problems: a name, or name:key=value (`unmask list tasks`); by default those of the recipe."""
    policies: tuple[str, ...] = ()
    """Policies: a name is measured with every value of its knob, a name with options as written; by default all."""
    blocks: tuple[str, ...] = ("full", "1/2", "1/4", "1/8")
    """Block sizes: full, a number of positions, or a share of the positions to fill."""
    count: Count = 256
    """Number of problems."""
    split: str = "test"
    """Split of the problems: train, valid or test."""
    seed: Seed = 0
    """Seed of the problems and of decoding."""
    temperature: Temperature = 0.0
    """0 takes the most probable token; 1 samples from the model."""
    workers: Threads | None = None
    """Number of processes, each with one thread; by default one for each processor, and a single process on a GPU; with
    --ray of actors, by default one for each GPU or processor of the cluster."""
    ray: str | None = None
    """Measure on a Ray cluster: HOST:PORT of its head, auto for the cluster of this machine, or local for one that is
    started now. The model and the files of the task have to be at the same place on every machine."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = "float32"
    """Arithmetic of the network; auto is the fastest on this machine. The default is the same on every machine,
    so that results can be compared."""
    batch: Count = 256
    """Problems that go through the network at once; the results do not depend on it."""
    out: str | None = None
    """The folder to write; by default runs/frontier-TASK-CHECKPOINT."""
    dry: bool = False
    """Measure one value of each knob with a tiny random model of the family, print what the real sweep needs, end."""
    output: Flat[OutputOptions] = OutputOptions()

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ConfigError(
                "blocks is empty; give at least one of full, a number such as 8, and a share such as 1/4."
            )


def run(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; measures every setting, writes and prints the results."""
    args = _from_recipe(parse(FrontierArguments, argv, "frontier"), argv)
    if args.dry:
        return _dry(args)
    folder = to_path(args.out or f"runs/frontier-{_plain(args.task)}-{_plain(Path(args.checkpoint).name)}")

    from unmask.disk.files import explained, refuse_foreign_folder

    with explained(folder):
        refuse_foreign_folder(folder, _OUTCOMES)  # before the model is loaded
    facts, result = _measure(args, folder, shlex.join(["unmask", "frontier", *argv]))
    if args.output.json:
        print_json(facts)
    else:
        _show(args, folder, result)
    return 0


def _from_recipe(args: FrontierArguments, argv: Sequence[str]) -> FrontierArguments:
    """Arguments without a task -> those with model, task, number format and batch of the recipe that they name."""
    if args.task:
        return args
    from unmask.recipes.policies import RECIPES, read

    if args.checkpoint not in RECIPES and not args.checkpoint.endswith(".toml"):
        raise ConfigError(
            f"frontier needs --task: give the problems (unmask list tasks), or a recipe in place of "
            f"'{args.checkpoint}' (unmask list policy-recipes)."
        )
    run = read(args.checkpoint)
    recipe = replace(args, checkpoint=run.checkpoint, task=run.task, dtype=run.learn.dtype, batch=run.learn.batch)
    typed = typed_options(FrontierArguments, argv, "frontier")
    return replace(recipe, **{name: getattr(args, name) for name in ("dtype", "batch") if name in typed})


def _dry(args: FrontierArguments) -> int:
    """Arguments -> exit code; see `cli.dry.evaluate`."""
    from unmask.cli.dry import evaluate, length_of
    from unmask.solve.settings import block_sizes, every_policy, settings_of

    length, names = length_of(args.task), args.policies or every_policy(args.temperature)
    count = len(settings_of(names, block_sizes(args.blocks, length), length))
    options = {"blocks": args.blocks, "temperature": args.temperature, "dtype": args.dtype}
    sweep = {"settings": count, "count": args.count, "batch": args.batch}
    return evaluate(args.checkpoint, args.task, names, options, sweep, args.output.json)


def _measure(args: FrontierArguments, folder: Path, again: str) -> "tuple[dict[str, Any], Frontiers]":
    """Arguments -> (the data of frontier.json, the frontiers); the files are written. `again` continues the sweep."""
    from unmask.disk.files import run_lock
    from unmask.eval.frontier import frontiers
    from unmask.eval.report import write_frontiers
    from unmask.solve.problems import most_holes
    from unmask.solve.settings import block_sizes, every_policy, settings_of
    from unmask.solve.sweep import open_bench, recorded, stamps, sweep

    arguments = _arguments(args)
    opened = partial(open_bench, batch=args.batch)
    bench = opened(**arguments)
    length = most_holes(bench.problems)
    names, sizes = args.policies or every_policy(args.temperature), block_sizes(args.blocks, length)
    settings = settings_of(names, sizes, length)
    processors = os.cpu_count() if bench.device.type == "cpu" else 1
    workers = args.workers if args.ray else min(args.workers or processors or 1, len(settings))
    build = opened if args.ray or workers != 1 else lambda **_: bench  # one process: the model is loaded once
    count = len(bench.problems)
    stamp, record = stamps(args.checkpoint, args.task), folder / _OUTCOMES
    processes = "1 process" if workers == 1 else f"{workers} processes"
    processes = processes if args.ray is None else f"the Ray cluster at {args.ray}"
    keys = {name: [setting.key for setting in settings_of([name], sizes, length)] for name in names}
    by_key: dict[str, Outcome] = {}
    with run_lock(folder, note, _OUTCOMES), keeping(lambda: _kept(len(by_key), len(settings), folder, again)):
        known = recorded(record, arguments, settings, stamp)
        note(f"{len(settings)} settings on {count} problems of {bench.task.name}, {processes}, in {folder}")
        if known:  # a stopped sweep that goes on
            note(f"{len(known)} of them were measured before")
        with Meter("measuring", "setting", len(settings), len(known), visible=True) as meter:
            for outcome in sweep(build, arguments, settings, workers=workers, ray=args.ray, record=record, stamp=stamp):
                by_key[outcome.setting.key] = outcome
                if outcome.setting.key not in known:
                    meter.moved(len(by_key), _figures(outcome))
        result = frontiers([by_key[setting.key] for setting in settings], length, policies=keys, seed=args.seed)
        title = f"{Path(args.checkpoint).name} on {bench.task.name}: {count} problems, seed {args.seed}"
        return write_frontiers(result, folder, title, arguments), result


def _show(args: FrontierArguments, folder: Path, result: "Frontiers") -> None:
    """Print the table of the frontiers, a line about each policy that was named, and the files."""
    from unmask.eval.report import frontier_lines
    from unmask.policies.registry import names as policy_names

    show(*frontier_lines(result))
    lines = policy_names()
    about = {name: line for name in args.policies if (line := lines.get(name.partition(":")[0]))}
    if about:
        width = max(map(len, about))
        show("", *(f"  {name:<{width}}  {line}" for name, line in about.items()))
    picture = ", frontier.png" if (folder / "frontier.png").exists() else ""
    show("", f"written to {folder}: frontier.csv, frontier.json{picture}")


def _arguments(args: FrontierArguments) -> dict[str, Any]:
    """The arguments of `open_bench` in every process; device and dtype are chosen here, once for all processes."""
    from unmask.run.machine import choose_device, choose_dtype, prepare

    prepare()
    device = choose_device(args.device)
    named = {name: getattr(args, name) for name in ("checkpoint", "task", "split", "count", "seed", "temperature")}
    dtype = "int8" if args.dtype == "int8" else str(choose_dtype(args.dtype, device)).removeprefix("torch.")
    return {**named, "device": str(device), "dtype": dtype}


def _plain(text: str) -> str:
    """Text -> the same with "-" for every character that is no letter or digit, for a file name."""
    return "".join(sign if sign.isalnum() else "-" for sign in text).strip("-")


def _kept(done: int, total: int, folder: Path, again: str) -> str:
    """Numbers of settings -> what of the sweep is on disk, and the command that goes on from there."""
    return f"{done} of {total} settings are measured and kept in {folder}; go on with: {again}"


def _figures(outcome: "Outcome") -> str:
    """Outcome -> its figures in a line of progress."""
    return f"{outcome.accuracy:.3f} at {outcome.mean_passes:.1f} passes: {outcome.setting.key}"
