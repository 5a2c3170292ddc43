"""The questions about masked diffusion on text: one function each, options -> the cells that answer it.

`unmask reproduce --list` prints the first line of a function's docstring. Imports no torch.
"""

__all__ = [
    "EVERY",
    "QUESTIONS",
    "ablation",
    "baselines",
    "estimators",
    "names",
    "plan_of",
    "representations",
    "rules",
    "schedules",
    "steps",
    "time",
    "zero_shot",
]

import itertools
from collections.abc import Callable
from dataclasses import replace

from unmask.recipes.policies import learn2pd
from unmask.reproduce.dna_questions import dna, dna_rates
from unmask.reproduce.general_questions import general_policy
from unmask.reproduce.generation import generation, length, precision
from unmask.reproduce.kindred import holes, mask_agnostic
from unmask.reproduce.plan import plain
from unmask.reproduce.representations import SIZES, Classified
from unmask.reproduce.rules import Filtered, Tuned, grids
from unmask.reproduce.soft_questions import soft_masks
from unmask.reproduce.text import (
    Claim,
    Fit,
    Spread,
    TextCell,
    TextOptions,
    TextQuestion,
)
from unmask.reproduce.trainings import COMPARED, Planned, bounded, rates, trained, training_of


def baselines(options: TextOptions) -> Planned:
    """Perplexity of AR, MDLM, SEDD and D3PM: the same network, text and tokens.

    MDLM, Tables 1 and 2: AR is best, MDLM is the best of the diffusions, and SEDD is not worse than D3PM. The network
    of SEDD reads the time and has parameters for it; MDLM with time is the same network.
    """
    cells: list[TextCell] = []
    for seed in options.seeds:
        fits = [trained(options, label, seed, name) for label, name in COMPARED.items()]
        fits.append(trained(options, "MDLM with time", seed, timed=True))
        cells += [*fits, *(bounded(options, fit) for fit in fits)]
    pairs = (("AR", "MDLM"), ("MDLM", "SEDD"), ("MDLM with time", "SEDD"), ("SEDD", "D3PM"))
    return cells, [Claim(f"{low} < {high}", low, high) for low, high in pairs]


def ablation(options: TextOptions) -> Planned:
    """What continuous time, carry-over and zero masking contribute to the bound (MDLM, Table 8).

    Each row leaves out one part more than the row before; the last is D3PM. Discrete time has T = 1000.
    """
    cells: list[TextCell] = []
    for seed in options.seeds:
        fits = [
            trained(options, "MDLM", seed),
            trained(options, "discrete-time", seed, grid=1000),
            trained(options, "no-carry-over", seed, "zero-masking"),
            trained(options, "D3PM", seed, "d3pm"),
        ]
        cells += [*fits, *(bounded(options, fit) for fit in fits)]
    pairs = (("MDLM", "discrete-time"), ("discrete-time", "no-carry-over"))
    return cells, [Claim(f"{low} < {high}", low, high) for low, high in pairs]


def schedules(options: TextOptions) -> Planned:
    """The bound does not depend on the noise schedule, and its variance does (MDLM, Table 9). Trains no more."""
    numbers, cells = options.numbers, list[TextCell]()
    fit = trained(options, "MDLM", options.seeds[0])
    cells.append(fit)
    for schedule in ("linear", "cosine", "cosine-squared", "geometric", "polynomial"):
        name = f"spread-{schedule}-{fit.name}"
        draws, skip = max(8, numbers.draws), numbers.train.eval_draws
        cells.append(Spread(name, schedule, fit.seed, fit.name, schedule, draws, numbers.limit, skip))
    return cells, []


def steps(options: TextOptions) -> Planned:
    """The bound falls as the reverse process gets more steps T, to that of continuous time (MDLM, Table 11).

    Trains no more. The row MDLM has the bound in continuous time.
    """
    cells: list[TextCell] = []
    for seed in options.seeds:
        fit = trained(options, "MDLM", seed)
        grids = [bounded(options, fit, f"T = {grid}", grid=grid) for grid in options.numbers.grids]
        cells += [fit, *grids, bounded(options, fit)]
    return cells, [Claim("MDLM in continuous time < T = 10", "MDLM", "T = 10")]


def time(options: TextOptions) -> Planned:
    """A network that is told the time is no better than one that is not (MDLM, Table 12)."""
    cells: list[TextCell] = []
    for seed in options.seeds:
        fits = [trained(options, "MDLM", seed), trained(options, "MDLM with time", seed, timed=True)]
        cells += [*fits, *(bounded(options, fit) for fit in fits)]
    return cells, [Claim("MDLM < MDLM with time", "MDLM", "MDLM with time")]


def zero_shot(options: TextOptions) -> Planned:
    """Perplexity on texts of other kinds than that of the training (MDLM, Table 3)."""
    cells: list[TextCell] = []
    for seed in options.seeds:
        for label, name in COMPARED.items():
            fit = trained(options, label, seed, name)
            others = options.numbers.others
            cells += [fit, *(bounded(options, fit, f"{label} on {text}", text) for text in others)]
    pairs = itertools.product((("AR", "MDLM"), ("MDLM", "SEDD")), options.numbers.others)
    labels = [(f"{low} on {text}", f"{high} on {text}") for (low, high), text in pairs]
    return cells, [Claim(f"{low} < {high}", low, high) for low, high in labels]


def estimators(options: TextOptions) -> Planned:
    """Training with each of the four estimators of the bound: does any learn faster?"""
    cells: list[TextCell] = []
    for seed in options.seeds:
        for estimator in ("uniform", "stratified", "count", "bernoulli"):
            label = "MDLM" if estimator == "count" else f"MDLM {estimator}"
            train = replace(options.numbers.train, estimator=estimator)
            fit = training_of(options, label, seed, options.numbers.model, train)
            cells += [fit, bounded(options, fit)]
    names = ("MDLM uniform", "MDLM stratified", "MDLM bernoulli")
    return cells, [Claim(f"MDLM (count) < {name}", "MDLM", name) for name in names]


def representations(options: TextOptions) -> Planned:
    """Classification of texts from AR, MLM and MDLM, features frozen or all weights trained (MDLM, Table 4).

    The three networks are equal in size, text and tokens. AR is worse than MDLM, and MDLM does not lose a point against
    MLM, which is the masked language model of BERT. The words of the texts are a baseline.
    """
    sizes, sets = SIZES[options.scale], ("vader-movies", "headline-sarcasm")
    cells = list[TextCell]()
    for number, seed in enumerate(options.seeds):
        for label in ("AR", "MLM", "MDLM"):
            fit = _backbone(options, label, seed)
            cells.append(fit)
            for how, data in itertools.product(("frozen", "tuned"), sets):
                name = f"{label} {how} on {data}"
                fold = number % sizes.folds if how == "tuned" else None
                cells.append(Classified(f"{plain(name)}-seed-{seed}", name, seed, fit.name, data, how, sizes, fold))
    for data in sets:
        cells.append(Classified(f"words-on-{data}", f"words on {data}", 0, None, data, "words", sizes))
    claims: list[Claim] = []
    for how in ("frozen", "tuned"):
        claims.append(Claim(f"{how}: accuracy of AR < MDLM", f"AR {how}", f"MDLM {how}"))
        text = f"{how}: accuracy of MLM < MDLM + {_MARGIN:g}"
        claims.append(Claim(text, f"MLM {how}", f"MDLM {how}", _MARGIN))
    return cells, claims


def rules(options: TextOptions) -> Planned:
    """Unmasking rules: every rule tuned on the same budget, on fresh problems of the bundled tasks, by two areas.

    One measurement a rule and task; `seeds` are of the validation problems. Only the filter of Learn2PD is trained, for
    each denoiser.
    """
    fast, seed = options.scale == "fast", options.seeds[0]
    cells: list[TextCell] = []
    for checkpoint, task in _RULE_TASKS[:1] if fast else _RULE_TASKS:
        cells.append(filtering := _filtered(checkpoint, task, seed, fast))
        for rule, policies in grids(checkpoint).items():
            if fast and rule not in _FAST_RULES:
                continue
            numbers = (3, 8, 16) if fast else (24, 128, 512)
            label, blocks = f"{rule} on {task}", ("full",) if fast else ("full", "1/2", "1/4")
            cell = Tuned(f"tuned-{plain(label)}", label, seed, checkpoint, task, policies, blocks, *numbers)
            cells.append(replace(cell, training=filtering.name) if rule == "filter" else cell)
    return cells, []


def _filtered(checkpoint: str, task: str, seed: int, fast: bool) -> Filtered:
    """A denoiser and a task -> the training of the filter, on the problems that the bundled policy was trained on."""
    run = learn2pd()
    learn = replace(run.learn, seed=seed, device="cpu", threads=1)
    if fast:
        learn = replace(learn, warm=2, prompts=4, group=4, pool=32, valid_prompts=4, calibrated=4)
    task = run.task if task.partition(":")[0] == "automaton" else task
    name = f"filter-{plain(checkpoint)}"
    return Filtered(name, name, seed, replace(run, checkpoint=checkpoint, task=task, learn=learn))


_RULE_TASKS = (("automaton_eos", "automaton:traces=long"), ("automaton", "automaton"), ("sudoku", "sudoku"))
_FAST_RULES = ("threshold", "saber", "info-gain", "freedave over prefix", "filter", "learned")
_MARGIN = 0.01  # of accuracy: MDLM "does not lose" where it loses less


def _backbone(options: TextOptions, label: str, seed: int) -> Fit:
    """The training of AR, MDLM or MLM; that of MLM is judged by no bound, so that its last step is taken."""
    if label != "MLM":
        return trained(options, label, seed, COMPARED[label])
    train = options.numbers.train
    train = replace(train, eval_every=train.steps, save_every=train.eval_every)
    return training_of(options, label, seed, replace(options.numbers.model, parameterization="mlm"), train)


_ORDER = (
    rates,
    baselines,
    ablation,
    schedules,
    steps,
    time,
    generation,
    length,
    precision,
    zero_shot,
    estimators,
    representations,
    dna_rates,
    dna,
)
_MDLM = {f"mdlm-{question.__name__.replace('_', '-')}": question for question in _ORDER}
QUESTIONS: dict[str, Callable[[TextOptions], Planned]] = {
    **_MDLM,
    "kindred-holes": holes,
    "kindred-general-policy": general_policy,
    "kindred-mask-agnostic": mask_agnostic,
    "kindred-rules": rules,
    "kindred-soft-masks": soft_masks,
}
"""Each question by the name that `unmask reproduce` takes."""
EVERY = "mdlm"
"""The name of all of those about MDLM together."""


def names() -> dict[str, str]:
    """The name of every question with the line that describes it."""
    lines = {name: (question.__doc__ or "").splitlines()[0] for name, question in QUESTIONS.items()}
    return {EVERY: f"All of {', '.join(_MDLM)}."} | lines


def plan_of(name: str, options: TextOptions) -> TextQuestion:
    """A name of `QUESTIONS`, or `EVERY`, and options -> its plan."""
    if name == EVERY:
        parts = [plan_of(each, options) for each in _MDLM]
        unique = {cell.name: cell for part in parts for cell in part.cells}
        return TextQuestion(EVERY, names()[EVERY], tuple(unique.values()), (), options, tuple(parts))
    cells, claims = QUESTIONS[name](options)
    unique = {cell.name: cell for cell in cells}
    return TextQuestion(name, names()[name], tuple(unique.values()), tuple(claims), options)
