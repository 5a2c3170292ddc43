"""The questions about texts that models write: options -> the cells that answer them. Imports no torch."""

__all__ = ["generation", "length", "precision", "wrote_cell"]

from dataclasses import replace
from typing import Literal

from unmask.reproduce.plan import plain
from unmask.reproduce.text import Diverged, Fit, Judged, Lengthened, Raced, TextCell, TextOptions, Wrote
from unmask.reproduce.trainings import COMPARED, Planned, trained

_COLDER = (0.9, 0.8, 0.7)  # temperatures of the frontier beside 1, on the most steps
_JUDGED = 64  # texts of a cell that another judge reads, of at most so many tokens each:
_READ = 128
_COMPARED_TEXTS, _CLUSTERS = 512, 50  # of MAUVE
_WINDOWS = 8  # length of the longest texts
_MANY = {"full": (64, 500, 4000), "fast": (16, 128), "published": (100, 1000, 10_000)}  # steps, by scale
_DTYPES: tuple[Literal["float32", "float64"], ...] = ("float32", "float64")


def generation(options: TextOptions) -> Planned:
    """Generative perplexity against time, with the entropy beside it: MDLM, SEDD and AR (MDLM, Figure 2).

    Ancestral sampling of MDLM on T steps: `uncached` has a pass for each step, `ancestral` none on an unchanged canvas,
    and `first hitting` is the limit of many steps. The semi-autoregressive one writes windows of half the length. SEDD
    has its analytic sampler. Each has a frontier of perplexity against entropy over steps, and over temperatures on the
    most steps; there also MAUVE, by the mean hidden states of the AR model.
    """
    cells: list[TextCell] = []
    for seed in options.seeds:
        judge, mdlm, sedd = (trained(options, label, seed, COMPARED[label]) for label in ("AR", "MDLM", "SEDD"))
        cells += [judge, mdlm, sedd]
        settings = _settings(options, mdlm, sedd, judge)
        last = {line: (fit, line, policy) for fit, line, policy in settings}
        wrote = [wrote_cell(options, *setting, 1.0, judge) for setting in settings]
        colder = _COLDER[1:2] if options.scale == "fast" else _COLDER
        cells += wrote
        cells += [wrote_cell(options, *setting, value, judge) for value in colder for setting in last.values()]
        if seed == options.seeds[0]:
            cells += [_diverged(options, wrote_cell(options, *setting, 1.0, judge)) for setting in last.values()]
        if options.judge is not None and seed == options.seeds[0]:
            cells += [_judged(cell, options.judge) for cell in wrote]
    return cells, []


def length(options: TextOptions) -> Planned:
    """Texts of up to eight windows: windows that slide by half against blocks of a quarter (MDLM, Table 5).

    Every part is written by first hitting, one token a pass, or on a quarter as many steps, by the same model; with the
    keys and values of the tokens before it computed anew at every pass, or once for the part (an approximation). The AR
    model slides by half a window too. A network of block-causal attention is not needed: what comes after a block is
    not on the canvas.
    """
    numbers, cells = options.numbers, list[TextCell]()
    texts, window = max(8, numbers.texts // 2), numbers.data.length
    for seed in options.seeds:
        judge, mdlm = (trained(options, label, seed, COMPARED[label]) for label in ("AR", "MDLM"))
        cells += [judge, mdlm]
        parts = [("sliding windows", window // 2, True), (f"blocks of {window // 4}", window // 4, False)]
        settings = [(mdlm, *part, pace, cached) for part in parts for cached in (False, True) for pace in (1, 4)]
        for fit, name, block, whole, pace, cached in [*settings, (judge, *parts[0], 1, False)]:
            label = f"{fit.label} {name}, {pace} {'token' if pace == 1 else 'tokens'} a pass{', cached' * cached}"
            shape = (texts, _WINDOWS, block, whole, pace, cached, judge.name)
            cells.append(Lengthened(f"long-{plain(label)}-seed-{seed}", label, seed, fit.name, *shape))
    return cells, []


def precision(options: TextOptions) -> Planned:
    """Gumbel noise in float32 against float64 in ancestral sampling: entropy and perplexity (arXiv:2409.02908).

    The published sampler takes the maximum over the vocabulary and MASK at every step. In float32 the noise has a
    largest value, so that rare tokens lose; the more steps, the more. Our own sampler draws in float64.
    """
    numbers, cells = options.numbers, list[TextCell]()
    texts = max(8, numbers.texts // 2)
    for seed in options.seeds:
        judge, mdlm = (trained(options, label, seed, COMPARED[label]) for label in ("AR", "MDLM"))
        cells += [judge, mdlm]
        for steps in _MANY[options.scale]:
            own = wrote_cell(options, mdlm, "ancestral", f"ancestral:steps={steps}", 1.0, judge)
            cells.append(replace(own, name=f"precision-{own.name}", texts=texts))
            for dtype in _DTYPES:
                label = f"MDLM {dtype} Gumbel, {steps} steps"
                shape = (mdlm.name, dtype, steps, texts, numbers.written, judge.name)
                cells.append(Raced(f"raced-{plain(label)}-seed-{seed}", label, seed, *shape))
    return cells, []


def _settings(options: TextOptions, mdlm: Fit, sedd: Fit, ar: Fit) -> list[tuple[Fit, str, str]]:
    """The trainings -> each sampler on each number of steps: training, name of the sampler, policy."""
    steps = options.numbers.passes
    settings = [(mdlm, "ancestral", f"ancestral:steps={count}") for count in steps]
    settings += [(mdlm, "uncached", f"reverse:steps={count}") for count in steps]
    settings += [(mdlm, "semi-autoregressive", f"ancestral:steps={count}") for count in steps[:-1]]
    settings += [(mdlm, "first hitting", "ancestral"), (mdlm, "confidence", "confidence")]
    settings += [(sedd, "analytic", f"reverse:steps={count}") for count in steps]
    return [*settings, (ar, "left to right", "left-to-right")]


def wrote_cell(options: TextOptions, fit: Fit, line: str, policy: str, temperature: float, judge: Fit) -> Wrote:
    """A training, a sampler and a temperature -> the cell of its texts, judged by an AR model."""
    numbers = options.numbers
    _, _, steps = policy.partition("steps=")
    label = f"{fit.label} {line}{f', {steps} steps' if steps else ''}, temperature {temperature:g}"
    window = numbers.written // 2 if line == "semi-autoregressive" else None
    return Wrote(
        f"wrote-{plain(label)}-seed-{fit.seed}",
        label,
        fit.seed,
        fit.name,
        f"{fit.label} {line}",
        policy,
        temperature,
        numbers.texts,
        numbers.written,
        judge.name,
        window,
    )


def _diverged(options: TextOptions, cell: Wrote) -> Diverged:
    texts, clusters = (_COMPARED_TEXTS, _CLUSTERS) if options.scale != "fast" else (40, 10)
    return Diverged(f"mauve-{cell.name}", cell.label, cell.seed, replace(cell, texts=texts), clusters)


def _judged(cell: Wrote, judge: str) -> Judged:
    name, texts, length = f"judged-{plain(judge)}-{cell.name}", min(cell.texts, _JUDGED), min(cell.length, _READ)
    return Judged(name, cell.label, cell.seed, cell.name, cell.training, judge, texts, length)
