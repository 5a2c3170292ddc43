"""A cell -> its result in the cell's file: the job of a worker process, which `reproduce.run` begins."""

__all__ = ["main", "perform"]

import statistics
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmask.errors import ConfigError, RequestError, UnmaskError
from unmask.reproduce.plan import DEVICE, DTYPE, Arena, Cell, Heuristics, Measured, Timed, Training
from unmask.reproduce.results import Record, read, read_cell, run_folder, write
from unmask.rl.settings import LearnRun
from unmask.run.loop import Listener

if TYPE_CHECKING:
    from unmask.rl.loop import Found
    from unmask.solve.settings import Setting
    from unmask.solve.sweep import Bench, Outcome


def main(folder: str, name: str) -> int:
    """Do a cell and write what came of it; 130 where it was stopped."""
    place = Path(folder)
    cell = read_cell(place, name)
    before, began = read(place, cell).seconds, time.perf_counter()

    def spent() -> float:
        return before + time.perf_counter() - began

    try:
        result = perform(cell, place)
    except KeyboardInterrupt:
        write(place, cell, Record("stopped", "", spent()))
        return 130
    except UnmaskError as error:
        state = "impossible" if isinstance(error, RequestError) else "failed"
        write(place, cell, Record(state, str(error), spent()))
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        write(place, cell, Record("failed", f"{type(error).__name__}: {error}", spent()))
        return 1
    write(place, cell, Record("done", "", spent(), result))
    return 0


def perform(cell: Cell, folder: Path) -> dict[str, Any]:
    """What a cell finds. Raises KeyboardInterrupt where a training was interrupted; it goes on the next time."""
    import torch

    torch.set_num_threads(1)
    if isinstance(cell, Training):
        return _train(cell, run_folder(folder, cell.name))
    if isinstance(cell, Heuristics):
        return _sweep_heuristics(cell, folder)
    if isinstance(cell, Measured):
        return _measure(cell, folder)
    if isinstance(cell, Timed):
        return _clock(cell, folder)
    raise RequestError(cell.reason)


class _Watching(Listener[Any, "Found"]):
    """The listener of a training: a line for each validation, for the log."""

    def noted(self, sentence: str) -> None:
        print(sentence, flush=True)

    def validated(self, step: int, figure: "Found", best: bool) -> None:
        print(f"round {step}: reward {figure.value:.4f}{' (best so far)' if best else ''}", flush=True)


# ---- training --------------------------------------------------------------------------------------------------------


def _train(cell: Training, folder: Path) -> dict[str, Any]:
    """Train, from the newest checkpoint where there is one."""
    from unmask.disk.folders import latest
    from unmask.rl.loop import fit
    from unmask.rl.session import open_learning, recorded_learning

    begun = latest(folder) is not None
    if begun and _asked(recorded_learning(folder), cell.run) != cell.run:
        raise ConfigError(f"{folder} was trained with other settings; choose another folder with --out.")
    session = open_learning(cell.run, resume=folder) if begun else open_learning(cell.run, out=folder)
    try:
        result, _ = fit(session.learner, _Watching())
    finally:
        session.group.leave()
    if result.reason == "interrupted":
        raise KeyboardInterrupt
    return {
        "rounds": result.step,
        "reason": result.reason,
        "best": result.merit,
        "best_round": result.best_step,
        "parameters": sum(p.numel() for p in session.learner.params),
        "spent": _spent(folder / "metrics.jsonl"),
    }


def _asked(recorded: LearnRun, wanted: LearnRun) -> LearnRun:
    """A recorded run as it was asked for, before the world decided on the units of its prices."""
    policy = replace(recorded.policy, unit=wanted.policy.unit, largest=wanted.policy.largest)
    return replace(recorded, policy=policy)


def _spent(metrics: Path) -> dict[str, float]:
    """Seconds of rollouts, verifier and updates over all rounds."""
    from unmask.run.metrics import read_metrics

    sums = {"roll_seconds": 0.0, "judge_seconds": 0.0, "update_seconds": 0.0}
    for values in read_metrics(metrics) if metrics.is_file() else []:
        for name in sums:
            sums[name] += values.get(name) or 0.0
    return sums


# ---- measuring -------------------------------------------------------------------------------------------------------


def _arguments(arena: Arena) -> dict[str, Any]:
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
    """The settings, one after the other; what is on the record is not done again."""
    from unmask.solve.problems import most_holes
    from unmask.solve.sweep import stamps, sweep

    by_key: dict[str, Outcome] = {}
    stamp = stamps(arena.checkpoint, arena.task)
    for outcome in sweep(lambda **_: bench, _arguments(arena), settings, workers=1, record=record, stamp=stamp):
        by_key[outcome.setting.key] = outcome
        print(f"{len(by_key)} of {len(settings)}: {outcome.setting.key}", flush=True)
    return {"length": most_holes(bench.problems), "outcomes": [asdict(by_key[one.key]) for one in settings]}


def _sweep_heuristics(cell: Heuristics, folder: Path) -> dict[str, Any]:
    from unmask.solve.problems import most_holes
    from unmask.solve.settings import block_sizes, every_policy, settings_of
    from unmask.solve.sweep import open_bench

    bench = open_bench(**_arguments(cell.arena))
    length = most_holes(bench.problems)
    settings = settings_of(cell.policies or every_policy(0.0), block_sizes(cell.blocks, length), length)
    return _outcomes(bench, cell.arena, settings, folder / "cells" / f"{cell.name}.jsonl")


def _measure(cell: Measured, folder: Path) -> dict[str, Any]:
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
        policy, text = read_policy(locate_policy(str(run))), f"learned:from={run}"
        if policy.settings.priced:
            dials = [policy.dial_of(alpha) for alpha in cell.alphas]
            settings += [Setting(f"{text},dial={dial:.6f}", block) for dial in dials]
            alphas += cell.alphas
        else:
            settings.append(Setting(text, block))
            alphas.append(_alpha(run))
    return {**_outcomes(bench, cell.arena, settings, folder / "cells" / f"{cell.name}.jsonl"), "alphas": alphas}


def _alpha(run: Path) -> float:
    """The one alpha that a policy without a price was trained for."""
    from unmask.disk.checkpoint import read_checkpoint

    return float(read_checkpoint(run / "policy").config["trained_on"]["learn"]["alphas"][0])


# ---- the clock -------------------------------------------------------------------------------------------------------

_TIMED_PROBLEMS, _TIMED_BATCHES = 128, 32  # at most so many of each


def _clock(cell: Timed, folder: Path) -> dict[str, Any]:
    """Median seconds a problem, verifier included; the settings take turns, so that what disturbs one disturbs all."""
    from unmask.eval.frontier import frontier, grouped
    from unmask.reproduce.results import outcomes_of, shown
    from unmask.solve.problems import most_holes, solve
    from unmask.solve.sweep import open_bench

    given = [outcomes_of(read(folder, read_cell(folder, name)).result) for name in (cell.measured, cell.against)]
    bench = open_bench(**_arguments(cell.arena))
    length, chosen = most_holes(bench.problems), [given[0][n].setting for n in shown(len(given[0]))]
    for some in grouped(given[1]).values():
        found = frontier(some, length, resamples=1)
        chosen += [found.outcomes[n].setting for n in found.best]
    settings = {one.key: one for one in chosen}
    problems = bench.problems[: min(_TIMED_PROBLEMS, _TIMED_BATCHES * cell.batch)]
    where, every = bench.device, (bench.task, problems, bench.tokenizer)
    solve(bench.decoder(chosen[0]), bench.task, problems[:8], bench.tokenizer, device=where)  # what is slow once only
    seconds: dict[str, list[float]] = {key: [] for key in settings}
    wall, busy = time.perf_counter(), time.process_time()
    for round_ in range(cell.rounds):
        for key, setting in settings.items():
            decoder = bench.decoder(setting)
            began = time.perf_counter()
            solve(decoder, *every, device=where, seed=bench.seed, batch=cell.batch)
            seconds[key].append((time.perf_counter() - began) / len(problems))
        print(f"round {round_ + 1} of {cell.rounds}", flush=True)
    share = (time.process_time() - busy) / (time.perf_counter() - wall)
    middle = {key: statistics.median(some) for key, some in seconds.items()}
    return {"length": length, "problems": len(problems), "share": share, "seconds": middle}
