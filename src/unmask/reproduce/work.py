"""A cell -> its result in the cell's file: the job of a worker process that `reproduce.run` starts."""

__all__ = ["main", "perform"]

import statistics
import time
import traceback
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.config import library_versions
from unmask.errors import ConfigError, DataError, RequestError, UnmaskError
from unmask.output import show
from unmask.reproduce.general import Policied, in_folder
from unmask.reproduce.plan import DEVICE, DTYPE, Arena, Cell, Heuristics, Measured, Timed, Training
from unmask.reproduce.results import Record, read, read_cell, run_folder, write
from unmask.reproduce.text import TextCell
from unmask.reproduce.text_work import perform_text
from unmask.rl.settings import LearnRun
from unmask.run.loop import Listener

if TYPE_CHECKING:
    from unmask.rl.loop import ValidationResult
    from unmask.solve.settings import Setting
    from unmask.solve.sweep import Bench, Outcome


def main(folder: str, name: str) -> int:
    """The folder and the name of a cell -> the exit code, after its result or error was written; 130 if interrupted."""
    path = Path(folder)
    cell = read_cell(path, name)
    before, start = read(path, cell).seconds, time.perf_counter()

    def spent() -> float:
        return before + time.perf_counter() - start

    try:
        result = perform(cell, path)
    except KeyboardInterrupt:
        write(path, cell, Record("stopped", "", spent()))
        return 130
    except UnmaskError as error:
        state = "impossible" if isinstance(error, RequestError) else "failed"
        write(path, cell, Record(state, str(error), spent()))
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        write(path, cell, Record("failed", f"{type(error).__name__}: {error}", spent()))
        return 1
    write(path, cell, Record("done", "", spent(), result, library_versions()))
    return 0


def perform(cell: Cell, folder: Path) -> dict[str, Any]:
    """A cell -> its result. Raises KeyboardInterrupt if a training is interrupted; the next call resumes it."""
    import torch

    torch.set_num_threads(1)
    if isinstance(cell, Training | Policied):
        run = cell.run if isinstance(cell, Training) else in_folder(cell.run, run_folder(folder, ""))
        return _train(run, run_folder(folder, cell.name))
    if isinstance(cell, TextCell):
        return perform_text(cell, run_folder(folder, cell.name), run_folder(folder, ""))
    if isinstance(cell, Heuristics):
        return _sweep_heuristics(cell, folder)
    if isinstance(cell, Measured):
        return _measure(cell, folder)
    if isinstance(cell, Timed):
        return _time_settings(cell, folder)
    raise RequestError(cell.reason)


class _TrainingLog(Listener[Any, "ValidationResult"]):
    """The listener of a training: prints a line for each validation."""

    def message(self, text: str) -> None:
        show(text)

    def validated(self, step: int, figure: "ValidationResult", best: bool) -> None:
        show(f"round {step}: reward {figure.value:.4f}{' (best so far)' if best else ''}")


# ---- training --------------------------------------------------------------------------------------------------------


def _train(run: LearnRun, folder: Path) -> dict[str, Any]:
    """Train from the newest checkpoint, if there is one -> figures of the training."""
    from unmask.disk.folders import latest
    from unmask.rl.loop import fit
    from unmask.rl.session import open_learning, recorded_learning

    resumed = latest(folder) is not None
    if resumed and _requested(recorded_learning(folder), run) != run:
        raise ConfigError(f"{folder} was trained with other settings; choose another folder with --out.")
    out, resume = (None, folder) if resumed else (folder, None)
    with closing(open_learning(run, out=out, resume=resume)) as session:
        result, _ = fit(session.learner, _TrainingLog())
    if result.reason == "interrupted":
        raise KeyboardInterrupt
    return {
        "rounds": result.step,
        "reason": result.reason,
        "best": result.merit,
        "best_round": result.best_step,
        "parameters": sum(p.numel() for p in session.learner.params),
        "spent": _seconds_spent(folder / "metrics.jsonl"),
    }


def _requested(recorded: LearnRun, cell_run: LearnRun) -> LearnRun:
    """A recorded run -> the run as it was requested: with the unit and the largest alpha of the cell's settings."""
    from unmask.config import absolute_path

    def placed(run: LearnRun) -> list[tuple[str, str]]:
        return [(absolute_path(pair.checkpoint), pair.task) for pair in run.pairs]

    policy = replace(recorded.policy, unit=cell_run.policy.unit, largest=cell_run.policy.largest)
    if placed(cell_run) == placed(recorded):  # a run records absolute paths
        recorded = replace(recorded, checkpoint=cell_run.checkpoint, others=cell_run.others)
    return replace(recorded, policy=policy)


def _seconds_spent(metrics: Path) -> dict[str, float]:
    """metrics.jsonl -> seconds of rollouts, verifier and updates over all rounds."""
    from unmask.run.metrics import read_metrics

    sums = {"roll_seconds": 0.0, "judge_seconds": 0.0, "update_seconds": 0.0}
    for values in read_metrics(metrics) if metrics.is_file() else []:
        for name in sums:
            sums[name] += values.get(name) or 0.0
    return sums


# ---- measuring -------------------------------------------------------------------------------------------------------


def _arguments(arena: Arena) -> dict[str, Any]:
    """An arena -> the arguments of `solve.sweep.open_bench`."""
    return {
        "checkpoint": arena.checkpoint,
        "task": arena.task,
        "split": "test",
        "count": arena.count,
        "seed": arena.seed,
        "temperature": 0.0,
        "device": DEVICE,
        "dtype": DTYPE,
    }


def _outcomes(bench: "Bench", arena: Arena, settings: "list[Setting]", record: Path) -> dict[str, Any]:
    """Settings -> their outcomes and L, the most positions to fill; outcomes that `record` has are not computed again.

    The settings run one after the other.
    """
    from unmask.solve.problems import most_holes
    from unmask.solve.sweep import stamps, sweep

    by_key: dict[str, Outcome] = {}
    stamp = stamps(arena.checkpoint, arena.task)
    for outcome in sweep(lambda **_: bench, _arguments(arena), settings, workers=1, record=record, stamp=stamp):
        by_key[outcome.setting.key] = outcome
        show(f"{len(by_key)} of {len(settings)}: {outcome.setting.key}")
    return {"length": most_holes(bench.problems), "outcomes": [asdict(by_key[setting.key]) for setting in settings]}


def _sweep_heuristics(cell: Heuristics, folder: Path) -> dict[str, Any]:
    """Measure every setting of the heuristics."""
    from unmask.solve.problems import most_holes
    from unmask.solve.settings import block_sizes, every_policy, settings_of
    from unmask.solve.sweep import open_bench

    bench = open_bench(**_arguments(cell.arena))
    length = most_holes(bench.problems)
    settings = settings_of(cell.policies or every_policy(0.0), block_sizes(cell.blocks, length), length)
    return _outcomes(bench, cell.arena, settings, folder / "cells" / f"{cell.name}.jsonl")


def _measure(cell: Measured, folder: Path) -> dict[str, Any]:
    """Measure trained policies at the alphas of the cell."""
    from unmask.disk.folders import locate_policy
    from unmask.policies.learned.policy import read_policy
    from unmask.solve.problems import most_holes
    from unmask.solve.settings import Setting
    from unmask.solve.sweep import open_bench

    bench = open_bench(**_arguments(cell.arena))
    block = None if cell.block_size is None or cell.block_size >= most_holes(bench.problems) else cell.block_size
    settings: list[Setting] = []
    alphas: list[float] = []
    for name in cell.trainings:
        run = run_folder(folder, name)
        policy, text = read_policy(locate_policy(str(run))), f"learned:from={run.absolute()}"
        if not cell.cut:
            policy, text = replace(policy, last=cell.alphas[-1]), f"{text},last={cell.alphas[-1]:g}"
        if policy.settings.priced:
            dials = [policy.dial_of(alpha) for alpha in cell.alphas]
            settings += [Setting(f"{text},dial={dial:.6f}", block) for dial in dials]
            alphas += cell.alphas
        else:
            settings.append(Setting(text, block))
            alphas.append(_alpha(run))
    return {**_outcomes(bench, cell.arena, settings, folder / "cells" / f"{cell.name}.jsonl"), "alphas": alphas}


def _alpha(run: Path) -> float:
    """The run folder of a policy that has no dial -> the alpha that it was trained with."""
    from unmask.disk.checkpoint import read_checkpoint

    alphas = read_checkpoint(run / "policy").fact(list[float], "config.json", "trained_on", "learn", "alphas")
    if not alphas:
        raise DataError(
            f"{run / 'policy'} does not say which alpha it was trained with; delete {run} to train it again."
        )
    return alphas[0]


# ---- seconds ---------------------------------------------------------------------------------------------------------

_TIMED_PROBLEMS, _TIMED_BATCHES = 128, 32  # the maximum of each


def _time_settings(cell: Timed, folder: Path) -> dict[str, Any]:
    """Median seconds a problem of each setting, verifier included.

    In each round all settings run once, so that a disturbance by other processes affects all of them alike.
    """
    from unmask.eval.frontier import frontier, grouped
    from unmask.reproduce.results import outcomes_of, shown
    from unmask.solve.problems import most_holes, solve
    from unmask.solve.sweep import open_bench

    learned, rules = (
        outcomes_of(read(folder, read_cell(folder, name)).result) for name in (cell.measured, cell.against)
    )
    bench = open_bench(**_arguments(cell.arena))
    length, chosen = most_holes(bench.problems), [learned[n].setting for n in shown(len(learned))]
    for group in grouped(rules).values():
        front = frontier(group, length, resamples=1)
        chosen += [front.outcomes[n].setting for n in front.best]
    settings = {setting.key: setting for setting in chosen}
    problems = bench.problems[: min(_TIMED_PROBLEMS, _TIMED_BATCHES * cell.batch)]
    device, arguments = bench.device, (bench.task, problems, bench.tokenizer)
    solve(bench.decoder(chosen[0]), bench.task, problems[:8], bench.tokenizer, device=device)  # the first call is slow
    seconds: dict[str, list[float]] = {key: [] for key in settings}
    wall, busy = time.perf_counter(), time.process_time()
    for round_ in range(cell.rounds):
        for key, setting in settings.items():
            decoder = bench.decoder(setting)
            start = time.perf_counter()
            solve(decoder, *arguments, device=device, seed=bench.seed, batch=cell.batch)
            seconds[key].append((time.perf_counter() - start) / len(problems))
        show(f"round {round_ + 1} of {cell.rounds}")
    share = (time.process_time() - busy) / (time.perf_counter() - wall)
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return {"length": length, "problems": len(problems), "share": share, "seconds": medians}
