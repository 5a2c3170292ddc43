"""The questions about texts that models write: options -> the cells that answer them. Imports no torch."""

__all__ = ["generation"]

from unmask.reproduce.plan import plain
from unmask.reproduce.text import Fit, Judged, TextCell, TextOptions, Wrote
from unmask.reproduce.trainings import COMPARED, Planned, trained

_COLDER = (0.9, 0.8, 0.7)  # temperatures of the frontier beside 1, on the most steps
_JUDGED = 64  # texts of a cell that another judge reads, of at most so many tokens each:
_READ = 128


def generation(options: TextOptions) -> Planned:
    """Generative perplexity against time, with the entropy beside it: MDLM, SEDD and AR (MDLM, Figure 2).

    Ancestral sampling of MDLM on T steps: `uncached` has a pass for each step, `ancestral` none on an unchanged canvas,
    and `first hitting` is the limit of many steps. The semi-autoregressive one writes windows of half the length. SEDD
    has its analytic sampler. Each has a frontier of perplexity against entropy over steps, and over temperatures on the
    most steps.
    """
    cells: list[TextCell] = []
    for seed in options.seeds:
        judge, mdlm, sedd = (trained(options, label, seed, COMPARED[label]) for label in ("AR", "MDLM", "SEDD"))
        cells += [judge, mdlm, sedd]
        settings = _settings(options, mdlm, sedd, judge)
        last = {line: (fit, line, policy) for fit, line, policy in settings}
        wrote = [_wrote(options, *setting, 1.0, judge) for setting in settings]
        colder = _COLDER[1:2] if options.scale == "fast" else _COLDER
        cells += wrote
        cells += [_wrote(options, *setting, value, judge) for value in colder for setting in last.values()]
        if options.judge is not None and seed == options.seeds[0]:
            cells += [_judged(cell, options.judge) for cell in wrote]
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


def _wrote(options: TextOptions, fit: Fit, line: str, policy: str, temperature: float, judge: Fit) -> Wrote:
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


def _judged(cell: Wrote, judge: str) -> Judged:
    name, texts, length = f"judged-{plain(judge)}-{cell.name}", min(cell.texts, _JUDGED), min(cell.length, _READ)
    return Judged(name, cell.label, cell.seed, cell.name, cell.training, judge, texts, length)
