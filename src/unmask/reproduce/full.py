"""Over the whole canvas: does a learned policy beat tuned heuristics?

arXiv:2512.09106, section 5.2. One conditioned network for each denoiser and seed; in distribution and on long traces.
"""

__all__ = ["cells"]

from unmask.reproduce.parts import heuristics, kinds, measured, other_kinds, trained
from unmask.reproduce.plan import Cell, Options


def cells(options: Options) -> list[Cell]:
    """Trainings, heuristics and measurements."""
    trainings: list[Cell] = []
    rules: list[Cell] = []
    policies: list[Cell] = []
    for checkpoint, kind in kinds(options):
        found = [trained(options, "full", checkpoint, kind.train, seed) for seed in options.seeds]
        trainings += found
        for task in kind.tests:
            against = heuristics(options, checkpoint, task)
            rules.append(against)
            for seed, one in zip(options.seeds, found, strict=True):
                policies.append(measured(options, "full canvas", [one], against, seed=seed))
    return [*trainings, *rules, *policies, *other_kinds(options)]
