"""`unmask learn`: train an unmasking policy by reinforcement learning, with its progress in the terminal."""

__all__ = ["LearnArguments", "LearnProgress", "run"]

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING

from unmask.cli.common import (
    Meter,
    OutputOptions,
    TrustOptions,
    draw_curves,
    keeping,
    print_json,
    resume_command,
    size,
    table,
)
from unmask.cli.parse import Flat, Positional, parse, refuse, typed_options, typed_positionals
from unmask.config import to_path
from unmask.errors import ConfigError
from unmask.output import note
from unmask.policies.learned.settings import PolicySettings
from unmask.ranges import Seed, Threads
from unmask.recipes.policies import read
from unmask.rl.settings import LearnRun, LearnSettings
from unmask.run.loop import Listener

if TYPE_CHECKING:
    from unmask.policies.learned.policy import Calibration
    from unmask.rl.learner import RoundReport
    from unmask.rl.loop import ValidationResult
    from unmask.rl.session import LearnSession
    from unmask.run.loop import RunResult


_MAY_CHANGE = {
    "resume",
    "checkpoint",  # its new place: the weights have to be the same
    "others",  # the same
    "task",
    "trust_recorded_tasks",
    "json",
    "learn.batch",
    "learn.rounds",
    "learn.device",
    "learn.threads",
    "workers",
    "ray",
}  # when a run is resumed


@dataclass(frozen=True, slots=True)
class LearnArguments:
    """Train an unmasking policy: it chooses the positions that a frozen denoiser fills in each pass.

    The reward comes from problems with a verifier. Ctrl-C finishes the round, saves, and prints the command that
    continues. --device and --dtype are short for --learn.device and --learn.dtype.
    """

    recipe: Positional[str] = "automaton_eos"
    """A name that `unmask list policy-recipes` shows, or a .toml file."""
    checkpoint: str | None = None
    """The frozen denoiser; by default that of the recipe. A checkpoint or run folder, or a bundled name."""
    task: str | None = None
    """The problems; by default those of the recipe. A name, name:key=value, or path.py:Class."""
    others: tuple[str, ...] = ()
    """Further pairs TASK=CHECKPOINT: one policy is trained on a mixture of all pairs; by default those of the recipe,
    none for no further ones."""
    policy: PolicySettings = field(default_factory=PolicySettings)
    """The policy network."""
    learn: LearnSettings = field(default_factory=LearnSettings)
    """The training."""
    seeds: tuple[Seed, ...] = ()
    """Train one policy for each of these seeds, in parallel processes."""
    separate: bool = False
    """Train one network for each alpha, without alpha as an input, instead of one network for all."""
    workers: Threads | None = None
    """Processes of one thread each that decode the rollouts of the training, or with --ray the number of actors; by
    default this process decodes. The training is the same for any number of them."""
    ray: str | None = None
    """Decode rollouts on a Ray cluster: HOST:PORT of its head, auto for the cluster of this machine, or local for one
    that is started now; an actor for each GPU or processor."""
    out: str | None = None
    """Folder of the run; by default the next free runs/learn-NAME-N."""
    resume: str | None = None
    """Folder of a run to continue."""
    dry: bool = False
    """Do every part once with a tiny random model of the family, print what the real run needs, and end."""
    trust: Flat[TrustOptions] = TrustOptions()
    output: Flat[OutputOptions] = OutputOptions()


def run(argv: Sequence[str]) -> int:
    """Words of the command line -> exit code; trains. It is 128 + signal where the run was interrupted and saved."""
    args, asked = _arguments(argv)
    args.trust.apply()
    if args.dry:
        from unmask.cli.dry import learn

        return learn(asked, args.output.json)
    if args.seeds or args.separate:
        return _many(args, asked)

    from unmask.rl.loop import fit
    from unmask.rl.session import open_learning

    session = open_learning(asked, out=args.out, resume=args.resume, workers=args.workers, ray=args.ray, note=note)
    first = session.group.first
    with closing(session), keeping(lambda: _kept(session.folder)):
        if first:
            note(*table(_rows(session)))
        with LearnProgress(asked.learn, session.learner.step, visible=first) as progress:
            result, tables = fit(session.learner, progress)
        template = session.learner.worlds[0].valid[0].example.template
        return _finish(result, tables, asked, template, args.output.json) if first else result.exit_code


def _kept(folder: Path) -> str:
    """Run folder -> what of the run is on disk, and the command that goes on from there."""
    from unmask.disk.folders import latest

    point = latest(folder)
    if point is None:
        return "no round was saved"
    round_ = int(point.name.removeprefix("step-"))
    kept = f"round {round_:,} is kept" if round_ else "a part of the warm start is kept"
    return f"{kept}; go on with: {resume_command('learn', folder)}"


def _arguments(argv: Sequence[str]) -> tuple[LearnArguments, LearnRun]:
    """Words of the command line -> arguments, and the run: the recipe or recorded run with the changes of the words."""
    first = parse(LearnArguments, argv, "learn")
    typed = typed_options(LearnArguments, argv, "learn")
    if first.seeds:
        refuse(typed & {"learn.seed"}, "--seeds, which gives a seed to each policy.")
    if first.seeds or first.separate:
        refuse(typed & {"workers", "ray"}, "--seeds and --separate, which train each policy in a process of its own.")
    if first.separate:
        refuse(typed & {"policy.priced"}, "--separate, which trains networks without the cost as an input.")
    if first.resume is not None:
        refuse(typed - _MAY_CHANGE, "--resume, which takes it from the run.")  # a task may be typed once more
        if typed_positionals(LearnArguments, argv, "learn"):
            raise ConfigError(f"--resume takes the recipe from the run; leave '{first.recipe}' out.")
        from unmask.rl.session import recorded_learning

        base = recorded_learning(first.resume)
        if first.task not in (None, base.task):
            raise ConfigError(
                f"The task of {first.resume} is {base.task}; --task can only repeat it when a run goes on."
            )
    else:
        base = read(first.recipe)
    args = parse(LearnArguments, argv, "learn", replace(LearnArguments(), policy=base.policy, learn=base.learn))
    policy = replace(args.policy, priced=True) if args.separate else args.policy  # as `separate_runs` expects
    return args, LearnRun(
        base.checkpoint if args.checkpoint is None else args.checkpoint,
        base.task if args.task is None else args.task,
        policy,
        args.learn,
        () if args.others == ("none",) else args.others or base.others,
    )


def _rows(session: "LearnSession") -> dict[str, str]:
    """Session -> the rows of the table that is printed before the training."""
    run, s = session.run, session.run.learn
    rows: dict[str, str] = {}
    for m, (pair, world) in enumerate(zip(run.pairs, session.learner.worlds, strict=True)):
        mark = f" {m + 1}" if run.others else ""
        counts = f"{len(world.train):,} problems to train on, {len(world.valid):,} to validate with"
        rows |= {f"denoiser{mark}": f"{pair.checkpoint}, frozen", f"task{mark}": f"{world.task.name}: {counts}"}
    return rows | {
        "policy": f"{sum(p.numel() for p in session.learner.params):,} parameters; {', '.join(run.policy.features)}",
        "training": f"{s.imitated}, {s.rounds} of {s.prompts} problems x {s.group} rollouts",
        "costs": f"alpha = {', '.join(f'{alpha:g}' for alpha in s.alphas)}, "
        + ("the whole canvas" if s.block_size is None else f"blocks of {s.block_size}"),
        "folder": str(session.folder),
    }


def _finish(result: "RunResult", tables: "Sequence[Calibration]", run: LearnRun, template: str, as_json: bool) -> int:
    """Draw the curves and print how the run ended -> exit code; `template` is a problem for the example to type."""
    from dataclasses import asdict

    folder = result.folder
    _, curves = draw_curves(folder)
    if as_json:
        print_json(
            {
                "round": result.step,
                "reason": result.reason,
                "best": result.merit,
                "best_round": result.best_step,
                "folder": str(folder),
                "calibration": asdict(tables[0]) if len(tables) == 1 else None,
                "calibrations": [asdict(table) for table in tables],
                "policy": str(folder / "policy"),
            }
        )
    if result.reason == "interrupted":
        where = f"after round {result.step}" if result.step else "in the warm start"
        note(f"Stopped {where}; saved. Go on with: {resume_command('learn', folder)}")
        return result.exit_code
    best = f"best mean reward {result.merit:.4f}, round {result.best_step}"
    note(f"Done after round {result.step:,} ({result.reason}); {best}.")
    for table_ in tables:
        shown = range(0, len(table_.dial), 4)
        if len(tables) > 1:
            note(table_.task)
        note("dial      " + "  ".join(f"{table_.dial[n]:7.2f}" for n in shown))
        note("passes    " + "  ".join(f"{table_.passes[n]:7.2f}" for n in shown))
        note("accuracy  " + "  ".join(f"{table_.accuracy[n]:7.3f}" for n in shown))
    note(*table({"policy": str(folder / "policy"), "curves": curves}))
    supervised = run.learn.teacher == "final" and not run.learn.rounds
    policy, dial = quote(f"{'filter' if supervised else 'learned'}:from={folder}"), " --dial 0.4" if tables else ""
    note(
        "",
        "Next:",
        f"  unmask frontier {quote(run.checkpoint)} --task {quote(run.task)} --policies {policy} prefix threshold",
        f"  unmask fill {quote(run.checkpoint)} {quote(template)} --temperature 0 --policy {policy}{dial}",
    )
    return 0


# ---- several ---------------------------------------------------------------------------------------------------------


def _many(args: LearnArguments, asked: LearnRun) -> int:
    """Train a policy for each seed and, with --separate, each alpha, in processes of one thread -> exit code."""
    from unmask.disk.folders import latest
    from unmask.rl.session import learn_side_by_side, separate_runs
    from unmask.run.machine import choose_device
    from unmask.train.checkpoint import default_folder

    folder = to_path(args.out or default_folder("learn-many"))
    runs = separate_runs(asked, args.seeds or (asked.learn.seed,), each_alpha=args.separate)
    listen = partial(LearnProgress, begun=0, visible=True)
    workers = 1 if choose_device(asked.learn.device).type != "cpu" else os.cpu_count() or 1  # a GPU serves one run
    codes = learn_side_by_side(runs, folder, workers=workers, listen=listen, note=note)
    if args.output.json:
        print_json({"folder": str(folder), "policies": {name: str(folder / name / "policy") for name in runs}})
    for name, code in codes.items():
        saved = (folder / name).is_dir() and latest(folder / name) is not None
        more = f"go on with: {resume_command('learn', folder / name)}" if saved else "nothing was saved"
        note(f"{name}: {folder / name / 'policy' if code == 0 else more}")
    return max(codes.values())


_SMOOTH = 0.9


class LearnProgress(Meter, Listener["RoundReport", "ValidationResult"]):
    """The listener of a run that prints its progress; it prints nothing unless `visible`."""

    def __init__(self, settings: LearnSettings, begun: int, *, visible: bool, name: str = "") -> None:
        """`begun` rounds are done already; a run that is one of several has a `name`."""
        super().__init__("learning", "round", settings.rounds, begun, visible=visible, name=name)
        self._alphas = settings.alphas
        self._mean: RoundReport | None = None
        self._seconds = [0.0, 0.0, 0.0]

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the bar, and print how time and memory were used."""
        super().__exit__(error_type, error, trace)
        if self._mean is not None:
            roll, judge, update = self._seconds
            self.line(f"seconds: rollouts {roll:.0f}, verifier {judge:.1f}, updates {update:.0f}")
            self.line(
                f"memory: {size(self._mean.trajectory_bytes)} for the passes of a round, "
                f"{size(self._mean.peak_bytes)} at most"
            )

    def message(self, text: str) -> None:
        """Print a sentence."""
        self.line(text)

    def stopping(self, folder: Path) -> None:
        """Print that the run saves, and the command that goes on with it; of several runs the parent prints it."""
        if not self._name:
            self.line("Saving after this round; Ctrl-C again ends at once, without saving.")
            self.line(f"Go on with: {resume_command('learn', folder)}")

    def stepped(self, report: "RoundReport") -> None:
        """Show running means of the round's figures."""
        before = self._mean or report
        mixed = [_SMOOTH * old + (1 - _SMOOTH) * new for old, new in zip(before[1:], report[1:], strict=True)]
        m = self._mean = type(report)(report.round, *mixed)._replace(peak_bytes=report.peak_bytes)
        for n, spent in enumerate((report.roll_seconds, report.judge_seconds, report.update_seconds)):
            self._seconds[n] += spent
        self.moved(
            report.round,
            f"reward {m.reward:.3f}  accuracy {m.accuracy:.3f}  passes {m.passes:.2f}  "
            f"entropy {m.entropy:.3f}  without signal {m.silent:.0%}",
        )

    def validated(self, step: int, figure: "ValidationResult", best: bool) -> None:
        """Print accuracy and passes at each alpha; and a warning for a policy that always uses one pass."""
        points = zip(self._alphas, figure.accuracy.tolist(), figure.passes.tolist(), strict=True)
        results = "  ".join(f"{alpha:g}: {accuracy:.2f}@{passes:.1f}" for alpha, accuracy, passes in points)
        self.line(f"round {step:,}: reward {figure.value:.4f}{' (best so far)' if best else ''}  {results}")
        if figure.by_pair:
            self.line("  ".join(f"{name}: {value:.3f}" for name, value in figure.by_pair.items()))
        if step and float(figure.passes.max()) < 1.05:
            self.line(_one_pass(float(figure.accuracy.mean())))


def _one_pass(accuracy: float) -> str:
    """Mean accuracy of a policy that reveals everything in one pass -> what that result means."""
    if accuracy > 0.9:
        return f"One pass is right {accuracy:.0%} of the time: this denoiser leaves a policy nothing to decide here."
    return (
        f"The policy reveals everything in one pass at every alpha, with an accuracy of {accuracy:.2f}: give it a warm "
        "start (learn.warm) if a rule with more passes is more accurate, else passes are not worth anything here."
    )
