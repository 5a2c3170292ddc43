"""`unmask learn`: train an unmasking policy by reinforcement learning."""

__all__ = ["LearnArguments", "run"]

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from unmask.cli.parse import given_options, parse
from unmask.cli.show import note, print_json, table
from unmask.errors import ConfigError
from unmask.policies.learned.settings import PolicySettings
from unmask.recipes.learn import read
from unmask.rl.settings import LearnRun, LearnSettings

if TYPE_CHECKING:
    from unmask.rl.loop import LearnOutcome
    from unmask.rl.session import LearnSession


@dataclass(frozen=True, slots=True)
class LearnArguments:
    """Train the policy that decides which tokens appear when, on a frozen denoiser and problems with a verifier.

    Ctrl-C finishes the round, saves, and says how to go on.
    """

    recipe: tyro.conf.Positional[str] = "automaton_eos"
    """A name that `unmask list policy-recipes` shows, or a .toml file."""
    checkpoint: str = ""
    """The frozen denoiser, where it is not the recipe's: a checkpoint or run folder, or a bundled name."""
    task: str = ""
    """The problems, where they are not the recipe's: a name, name:key=value, or path.py:Class."""
    policy: PolicySettings = field(default_factory=PolicySettings)
    """The network."""
    learn: LearnSettings = field(default_factory=LearnSettings)
    """The training."""
    seeds: tuple[int, ...] = ()
    """Train one policy for each of these seeds, in processes side by side."""
    separate: bool = False
    """Train one network for each alpha, which is told no price, instead of one for all."""
    out: str | None = None
    """Folder of the run; by default the next free runs/learn-NAME-N."""
    resume: str | None = None
    """Folder of a run to go on with."""
    json: bool = False
    """Print one JSON object on stdout."""


def run(argv: Sequence[str]) -> int:
    """Train; 130 where the run was interrupted and saved."""
    args, asked = _arguments(argv)
    if args.seeds or args.separate:
        return _many(args, asked, argv)

    from unmask.cli.learning import Progress
    from unmask.rl.loop import fit
    from unmask.rl.session import open_learning

    session = open_learning(asked, out=args.out, resume=args.resume)
    first = session.group.first
    if first:
        note(table(_told(session)))
    try:
        with Progress(asked.learn, session.learner.round, visible=first) as progress:
            outcome = fit(session.learner, progress)
    finally:
        session.group.leave()
    return _finish(outcome, args.json) if first else 0


def _arguments(argv: Sequence[str]) -> tuple[LearnArguments, LearnRun]:
    """Read the words over the recipe or the recorded run that they name."""
    first = parse(LearnArguments, argv, "learn")
    if first.resume is not None:
        for name in given_options(LearnArguments, argv, "learn") - {"resume", "json", "learn.rounds", "learn.threads"}:
            raise ConfigError(f"--{name.replace('_', '-')} does not go with --resume, which takes it from the run.")
        from unmask.rl.session import recorded_learning

        base = recorded_learning(first.resume)
    else:
        base = read(first.recipe)
    if first.separate:
        base = replace(base, policy=replace(base.policy, priced=False), learn=replace(base.learn, alphas=(1.0,)))
    args = parse(LearnArguments, argv, "learn", replace(LearnArguments(), policy=base.policy, learn=base.learn))
    if args.separate:
        return args, base
    return args, LearnRun(args.checkpoint or base.checkpoint, args.task or base.task, args.policy, args.learn)


def _told(session: "LearnSession") -> dict[str, str]:
    run, world = session.run, session.learner.world
    s = run.learn
    return {
        "denoiser": f"{run.checkpoint}, frozen",
        "task": f"{world.task.name}: {len(world.train):,} problems to train on, {len(world.valid):,} to validate with",
        "policy": f"{sum(p.numel() for p in session.learner.params):,} parameters; {', '.join(run.policy.features)}",
        "training": f"{s.warm} rounds of imitation, {s.rounds} of {s.prompts} problems x {s.group} rollouts",
        "prices": f"alpha = {', '.join(f'{alpha:g}' for alpha in s.alphas)}, "
        + ("the whole canvas" if s.block_size is None else f"blocks of {s.block_size}"),
        "folder": str(session.folder),
    }


def _finish(outcome: "LearnOutcome", as_json: bool) -> int:
    """Draw the curves and say how it ended."""
    from dataclasses import asdict

    from unmask.run.metrics import plot_curves

    folder = outcome.folder
    metrics, curves = folder / "metrics.jsonl", folder / "curves.png"
    drawn = metrics.exists() and metrics.stat().st_size > 0 and plot_curves(metrics, curves)
    if as_json:
        facts: dict[str, Any] = asdict(outcome) | {"folder": str(folder), "policy": str(folder / "policy")}
        print_json(facts)
    if outcome.reason == "interrupted":
        if outcome.round == 0:
            note("Stopped during the warm start; there is nothing to go on from.")
        else:
            note(f"Stopped after round {outcome.round}; saved. Go on with: unmask learn --resume {folder}")
        return 130
    best = f"best mean reward {outcome.best:.4f}, round {outcome.best_round}"
    note(f"Done after round {outcome.round:,} ({outcome.reason}); {best}.")
    if outcome.calibration is not None:
        c = outcome.calibration
        shown = range(0, len(c.dial), 4)
        note("dial      " + "  ".join(f"{c.dial[n]:7.2f}" for n in shown))
        note("passes    " + "  ".join(f"{c.passes[n]:7.2f}" for n in shown))
        note("accuracy  " + "  ".join(f"{c.accuracy[n]:7.3f}" for n in shown))
    note(table({"policy": str(folder / "policy"), "curves": str(curves) if drawn else "pip install 'unmask[plots]'"}))
    note(f"\nNext:\n  unmask frontier CHECKPOINT --task TASK --policies learned:from={folder} prefix threshold")
    return 0


# ---- several ---------------------------------------------------------------------------------------------------------


def _many(args: LearnArguments, asked: LearnRun, argv: Sequence[str]) -> int:
    """One process a seed and, with --separate, an alpha; as many at once as there are processors."""
    from unmask.train.session import default_folder

    words = _without(argv, ("--seeds", "--out", "--json", "--separate", "--learn.alphas", "--learn.seed"))
    folder = Path(args.out or default_folder("learn-many"))
    alphas: Sequence[float | None] = args.learn.alphas if args.separate else (None,)
    if args.separate and args.learn.alphas == (1.0,):
        alphas = read(args.recipe).learn.alphas
    seeds = args.seeds or (asked.learn.seed,)
    jobs: dict[str, list[str]] = {}
    for alpha, seed in product(alphas, seeds):
        name = f"seed-{seed}" if alpha is None else f"alpha-{alpha:g}-seed-{seed}"
        own = ["--learn.seed", str(seed), "--learn.threads", "1", "--out", str(folder / name)]
        if alpha is not None:
            own += ["--policy.no-priced", "--learn.alphas", f"{alpha:g}"]
        elif "--learn.alphas" in argv:
            own += ["--learn.alphas", *(f"{one:g}" for one in args.learn.alphas)]
        jobs[name] = [*words, *own]
    codes = _side_by_side(jobs)
    if args.json:
        print_json({"folder": str(folder), "policies": {name: str(folder / name / "policy") for name in jobs}})
    note("\n".join(f"{name}: {folder / name / 'policy'}" for name in jobs))
    return max(codes)


def _without(argv: Sequence[str], names: Sequence[str]) -> list[str]:
    """The words without some options and their values."""
    kept: list[str] = []
    skipping = False
    for word in argv:
        if word.startswith("--"):
            skipping = word.partition("=")[0] in names
        if not skipping:
            kept.append(word)
    return kept


def _side_by_side(jobs: dict[str, list[str]]) -> list[int]:
    """Run `unmask learn` with each list of words; their lines come with their names."""
    gate = threading.Semaphore(os.cpu_count() or 1)
    codes: dict[str, int] = {}

    def work(name: str, words: list[str]) -> None:
        with gate:
            code = "import sys; from unmask.cli.main import main; sys.exit(main())"
            command = [sys.executable, "-c", code, "learn", *words]
            with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
                assert process.stderr is not None
                for line in process.stderr:
                    note(f"{name}: {line.rstrip()}")
            codes[name] = process.returncode

    threads = [threading.Thread(target=work, args=job) for job in jobs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [codes[name] for name in jobs]
