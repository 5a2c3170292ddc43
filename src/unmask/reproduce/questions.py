"""The published questions about learned policies: one function each, options -> the cells that answer it.

`unmask reproduce` lists the first line of a function's docstring. Imports no torch.
"""

__all__ = [
    "QUESTIONS",
    "ablations",
    "alpha",
    "blocks",
    "check",
    "fast_end",
    "full",
    "hiding",
    "names",
    "open_questions",
    "plan_of",
    "seconds",
    "transfer",
]

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from unmask.disk.folders import resolve
from unmask.errors import ConfigError
from unmask.hf.names import locate
from unmask.model.zoo.read import read_model
from unmask.policies.learned.settings import PolicySettings
from unmask.reproduce.plan import (
    ALPHAS,
    AUTOMATON,
    COARSE,
    Blocked,
    Cell,
    Heuristics,
    Question,
    QuestionOptions,
    TaskSetup,
    Timed,
    Training,
    cells_of_setups,
    heuristics,
    measured,
    missing_tasks,
    plain,
    setups,
    trained,
)
from unmask.reproduce.rules import HIDING, PLAIN, Tuned, grids, require_plain
from unmask.reproduce.seconds import PassTimed
from unmask.rl.settings import LearnSettings

_NET, _LEARN = PolicySettings(), LearnSettings()
_Variant = tuple[PolicySettings, LearnSettings]
_PUBLISHED: dict[str, _Variant] = {
    "recipe": (_NET, _LEARN),
    "additive reward": (_NET, replace(_LEARN, reward="sum")),
    "no mask": (replace(_NET, mask=False), _LEARN),
    "no time": (replace(_NET, time=False), _LEARN),
    "confidence alone": (replace(_NET, features=("confidence",)), _LEARN),
    "Plackett-Luce head": (replace(_NET, head="plackett-luce"), replace(_LEARN, entropy=0.0)),
    "expert steering, no warm start": (_NET, replace(_LEARN, warm=0, steering=2)),
    "cold start": (_NET, replace(_LEARN, warm=0)),
}
_OURS: dict[str, _Variant] = {
    "raw probabilities": (replace(_NET, scale="raw"), _LEARN),
    "no positions": (replace(_NET, positions=False), _LEARN),
    "no entropy bonus": (_NET, replace(_LEARN, entropy=0.0)),
    "scale by group": (_NET, replace(_LEARN, scale="std")),
    "no scale": (_NET, replace(_LEARN, scale="none")),
}
_SEPARATE = (0.1, 1.0, 3.0, 10.0)  # without 0, which does not reward speed, and 30, which leads to a single pass
_BATCHES = (1, 8, 64)
_DENSE = (0.0, 0.3, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0)
_OF_LOG = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0, 1.3)
_WARMER = replace(_LEARN, mixed=True, fastest=True)
_FAST_END = {
    "recipe": _LEARN,
    "more alphas": replace(_LEARN, alphas=_DENSE),
    "mixed warm start": _WARMER,
    "both": replace(_WARMER, alphas=_DENSE),
    "both, alphas between": replace(_WARMER, alphas=_DENSE, between=True),
    "both, reward of log passes": replace(_WARMER, alphas=_OF_LOG, reward="log"),
}
_FEW = ("threshold", "margin-threshold", "entropy-bound", "confidence", "prefix", "left-to-right")
_HIDERS = ("threshold", "prefix", "saber", "rcr", "p2", "wino")
_TWICE = "automaton:length=48,traces=mixed"
_FULL, _INSIDE = "full canvas", f"blocks of {AUTOMATON.block}"  # labels of `full` and `blocks`, to share their cells


def ablations(options: QuestionOptions) -> list[Cell]:
    """Ablations: how much does each part of the network and of its training contribute?

    arXiv:2512.09106, section 5.5 and appendices E and F. Each variant differs from the recipe in what its name says;
    that with the Plackett-Luce head also has no entropy bonus. Uses the first denoiser and long traces.
    """
    checkpoint = options.denoisers[0]
    against = heuristics(options, checkpoint, AUTOMATON.tests[-1])
    variants, cells = dict(_PUBLISHED), list[Cell]([against])
    width = read_model(locate(checkpoint)).network_fact("width")
    if width is None:
        cells.append(Blocked("hidden-state", f"the configuration of {checkpoint} has no width"))
    else:
        variants["hidden state"] = (replace(_NET, features=(*_NET.features, "hidden"), hidden=width), _LEARN)
    for label, (policy, learn) in {**variants, **_OURS}.items():
        for seed in options.seeds:
            name = "full" if label == "recipe" else label  # the training that other questions have too
            training = trained(options, name, checkpoint, AUTOMATON.train, seed, policy, learn)
            cells += [training, measured(options, label, [training], against, seed=seed, alphas=COARSE)]
    return cells


def alpha(options: QuestionOptions) -> list[Cell]:
    """Control of speed: a network for each alpha against one conditioned on alpha, and how much seeds differ.

    arXiv:2512.09106, sections 3.3 and 6, where each alpha has its own network and the passes vary between seeds. Four
    separate networks give four points, so the conditioned network is also measured at these four alphas alone.
    """
    alphas = _SEPARATE[:2] if options.fast else _SEPARATE
    unpriced = PolicySettings(priced=False)
    cells: list[Cell] = []
    for checkpoint in options.denoisers:
        against = [heuristics(options, checkpoint, task) for task in AUTOMATON.tests]
        cells += against
        for seed in options.seeds:
            joint = trained(options, "full", checkpoint, AUTOMATON.train, seed)
            separate = [
                trained(
                    options, f"alpha-{a:g}", checkpoint, AUTOMATON.train, seed, unpriced, LearnSettings(alphas=(a,))
                )
                for a in alphas
            ]
            cells += [joint, *separate]
            for rules in against:
                cells.append(measured(options, _FULL, [joint], rules, seed=seed))
                cells.append(measured(options, "the same, at four alphas", [joint], rules, seed=seed, alphas=alphas))
                cells.append(measured(options, "a network for each alpha", separate, rules, seed=seed))
    return cells


def blocks(options: QuestionOptions) -> list[Cell]:
    """In blocks: does a learned policy match tuned heuristics?

    arXiv:2512.09106, section 5.1. Policies are trained and measured in blocks: a quarter of the automaton's positions,
    a row of the Sudoku.
    """
    return cells_of_setups(options, in_blocks=True)


def full(options: QuestionOptions) -> list[Cell]:
    """Over the whole canvas: does a learned policy beat tuned heuristics?

    arXiv:2512.09106, section 5.2. One network conditioned on alpha for each denoiser and seed, measured in distribution
    and on long traces.
    """
    return cells_of_setups(options, in_blocks=False)


def seconds(options: QuestionOptions) -> list[Cell]:
    """Seconds, not only passes: is a policy still faster at equal accuracy, with the time of its network included?

    Batches of 1, 8 and 64. Each of these cells runs alone, in one thread, after all other cells; the first seed only.
    The time of a pass is also measured with a larger denoiser (--large), where a policy's own time hardly counts.
    """
    seed, rounds = options.seeds[0], 1 if options.fast else 3
    before: list[Cell] = []
    timed: list[Cell] = []
    for checkpoint, setup in setups(options):
        training = trained(options, "full", checkpoint, setup.train, seed)
        before.append(training)
        for task in setup.tests:
            against = heuristics(options, checkpoint, task)
            cell = measured(options, _FULL, [training], against, seed=seed)
            before += [against, cell]
            for batch in _BATCHES:
                name = f"seconds-{against.arena.name}-batch-{batch}"
                timed.append(Timed(name, against.arena, cell.name, against.name, batch, rounds))
    large, rules, repeated = options.large, ("threshold", "prefix"), 2 if options.fast else 20
    for batch in _BATCHES:
        name = f"pass-{plain(Path(large).name)}-batch-{batch}"
        timed.append(PassTimed(name, f"{large}, batch {batch}", seed, large, rules, batch, repeated))
    return [*before, *timed, *missing_tasks(options)]


def fast_end(options: QuestionOptions) -> list[Cell]:
    """The fast end: which training reaches few passes by itself, without the lower cut at the end of the dial?

    Each variant is measured with the whole dial, and with the alphas of its training alone. Test problems are those of
    the first test of each task, on which few passes are worth something. Few rules are measured beside them: variants
    are to be compared with each other.
    """
    cells: list[Cell] = []
    few, variants = (1, list(_FAST_END)[-1:]) if options.fast else (None, list(_FAST_END))
    for checkpoint, setup in setups(options)[:few]:
        against = heuristics(options, checkpoint, setup.tests[0])
        if not options.fast:
            against = replace(against, name=f"{against.name}-few", policies=_FEW)
        cells.append(against)
        for label in variants:
            learn = _FAST_END[label]
            last = max(learn.alphas)
            inside = (*(alpha for alpha in ALPHAS if alpha < last), last)
            for seed in options.seeds:
                name = "full" if label == "recipe" else label  # the training that other questions have too
                training = trained(options, name, checkpoint, setup.train, seed, learn=learn)
                whole = measured(options, label, [training], against, seed=seed)
                own = measured(options, f"{label}, no lower cut", [training], against, seed=seed, alphas=inside)
                cells += [training, whole, replace(own, cut=False)]
    return cells


def hiding(options: QuestionOptions) -> list[Cell]:
    """Hiding again as an action of the policy: against the policy without it, Saber and RCR, all tuned alike.

    Each rule and policy has as many settings on the same validation problems; those that no other one dominates there
    are measured on fresh test problems.
    """
    cells: list[Cell] = []
    numbers, few = ((3, 8, 16), 1) if options.fast else ((24, 256, options.count), None)
    blocks = ("full",) if options.fast else tuple(size for size in options.blocks if size != "1/8")
    for checkpoint, setup in setups(options)[:few]:
        policies: dict[str, Training] = {}
        for seed in options.seeds:
            policies[f"{PLAIN}{seed}"] = trained(options, "full", checkpoint, setup.train, seed)
            own = replace(_NET, hides=1)
            policies[f"{HIDING}{seed}"] = trained(options, "hiding", checkpoint, setup.train, seed, own)
        cells += policies.values()
        for task in setup.tests[:few]:
            for rule, training in {**dict.fromkeys(_HIDERS[:few]), **policies}.items():
                label = f"{rule} on {Path(checkpoint).name}, {task}"
                texts = () if training else grids(checkpoint)[rule]
                name, of = f"tuned-{plain(label)}", training.name if training else None
                cells.append(Tuned(name, label, options.seeds[0], checkpoint, task, texts, blocks, *numbers, of))
    return cells


def open_questions(options: QuestionOptions) -> list[Cell]:
    """Transfer, control by alpha, seconds, the fast end and hiding again, all with the whole dial: five questions.

    A fast run has the first denoiser alone.
    """
    options = replace(options, calibrated=(), others=()) if options.fast else options
    parts = (transfer, alpha, fast_end, hiding, seconds)
    return [cell for part in parts for cell in part(options)]


def transfer(options: QuestionOptions) -> list[Cell]:
    """Transfer: policies with a denoiser, a length, a task or blocks that they were not trained on.

    arXiv:2512.09106, section 5.4. Measured on the hardest test of each task; transfers are measured at every other
    alpha. At another length a policy keeps its cost of a pass, so that alpha grows with the length. The automaton with
    48 positions needs a window of 97 tokens, so a denoiser of its own (--twice).
    """
    trainings: list[Cell] = []
    policies: list[Cell] = []
    pairs = setups(options)
    first, block = options.denoisers[0], AUTOMATON.block
    rules = {checkpoint: [heuristics(options, checkpoint, task.tests[-1])] for checkpoint, task in pairs}
    twice = [heuristics(options, options.twice, _TWICE)] if options.twice else []
    missing = Blocked("twice-the-length", "no denoiser was given; train one and add --twice CHECKPOINT")
    in_blocks = [heuristics(options, first, AUTOMATON.tests[-1], block)]  # the same cell as in `blocks`

    def use(label: str, training: Training, on: list[Heuristics], seed: int, size: int | None = None) -> None:
        alphas = ALPHAS if label in (_FULL, _INSIDE) else COARSE
        policies.extend(measured(options, label, [training], a, seed=seed, block_size=size, alphas=alphas) for a in on)

    for seed in options.seeds:
        whole = {c: trained(options, "full", c, task.train, seed) for c, task in pairs}
        inside = trained(options, _INSIDE, first, AUTOMATON.train, seed, learn=LearnSettings(block_size=block))
        trainings += [*whole.values(), inside]
        for source, target in _transfers(pairs, first):
            label = f"from {Path(source).name}" if source != target else _FULL
            use(label, whole[source], rules[target], seed)
        use(f"from {Path(first).name}, twice the length", whole[first], twice, seed)
        use(f"{_FULL}, used in {_INSIDE}", whole[first], in_blocks, seed, block)
        use(f"{_FULL}, used in blocks of 12", whole[first], rules[first], seed, 12)
        use(_INSIDE, inside, in_blocks, seed, block)
        use(f"{_INSIDE}, used on the whole canvas", inside, rules[first], seed)
    every_rule = [*twice, *in_blocks, *(cell for cells in rules.values() for cell in cells)]
    return [*trainings, *every_rule, *policies, *([] if twice else [missing]), *missing_tasks(options)]


def _transfers(pairs: list[tuple[str, TaskSetup]], first: str) -> list[tuple[str, str]]:
    """(denoiser of the training, denoiser of the use): each with itself, and the first with each other both ways."""
    names = [checkpoint for checkpoint, _ in pairs]
    return list(dict.fromkeys([*((c, c) for c in names), *((first, c) for c in names), *((c, first) for c in names)]))


_PARTS = (ablations, alpha, blocks, fast_end, full, hiding, seconds, transfer)
QUESTIONS: dict[str, Callable[[QuestionOptions], list[Cell]]] = {
    **{f"policies-{question.__name__.replace('_', '-')}": question for question in _PARTS},
    "kindred-open-questions": open_questions,
}
"""Each question by the name that `unmask reproduce` takes."""


def names() -> dict[str, str]:
    """The name of every question with the line that describes it."""
    return {name: _about(name) for name in QUESTIONS}


def plan_of(name: str, options: QuestionOptions) -> Question:
    """A name of `QUESTIONS` and options -> its plan. Raises ConfigError for two tasks of one denoiser."""
    unique: dict[str, Cell] = {}
    for cell in QUESTIONS[name](options):
        if unique.setdefault(cell.name, cell) != cell:
            raise ConfigError(
                f"Two different cells of {name} would be called {cell.name}: give each denoiser one task."
            )
    return Question(name, _about(name), tuple(unique.values()), options)


def check(plan: Question, folder: Path) -> None:
    """Raise the error of a missing denoiser or task, or of a folder whose name has a separator of policy names.

    Raises ConfigError for the folder or a block size, RequestError or PluginError for a denoiser or task.
    """
    from unmask.solve.settings import block_sizes
    from unmask.tasks.registry import make

    require_plain(folder)
    block_sizes(plan.options.blocks, 1)
    for cell in plan.cells:
        if isinstance(cell, Heuristics):
            resolve(locate(cell.arena.checkpoint))
            make(cell.arena.task)
        if isinstance(cell, PassTimed):
            resolve(locate(cell.checkpoint))


def _about(name: str) -> str:
    return (QUESTIONS[name].__doc__ or "").splitlines()[0]
