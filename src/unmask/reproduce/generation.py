"""The questions about texts that models write: options -> the cells that answer them. Imports no torch."""

__all__ = ["generation"]

from unmask.reproduce.text import TextCell, TextOptions, Wrote
from unmask.reproduce.trainings import COMPARED, Planned, trained


def generation(options: TextOptions) -> Planned:
    """Generative perplexity against time, with the entropy beside it: MDLM, SEDD and AR (MDLM, Figure 2)."""
    numbers, cells = options.numbers, list[TextCell]()
    for seed in options.seeds:
        judge, mdlm, sedd = (trained(options, label, seed, COMPARED[label]) for label in ("AR", "MDLM", "SEDD"))
        cells += [judge, mdlm, sedd]
        settings = [(mdlm, f"ancestral:steps={count}") for count in numbers.passes]
        settings += [(mdlm, "ancestral"), (mdlm, "confidence"), (judge, "left-to-right")]
        settings += [(sedd, f"reverse:steps={count}") for count in numbers.passes]
        for temperature in (1.0, 0.8):
            for fit, policy in settings:
                label = f"{fit.label} {policy} at {temperature:g}"
                name = f"wrote-{label.replace(' ', '-').replace(':', '-').replace('=', '-')}-seed-{seed}"
                size, length = numbers.texts, numbers.written
                cells.append(Wrote(name, label, seed, fit.name, policy, temperature, size, length, judge.name))
    return cells, []
