"""Control of speed: separate networks for each alpha against one that is told alpha, and how far seeds lie apart.

arXiv:2512.09106, sections 3.3 and 6, where each alpha has its own network and the passes wander between seeds.
"""

__all__ = ["cells"]

from unmask.policies.learned.settings import PolicySettings
from unmask.reproduce.parts import AUTOMATON, heuristics, measured, trained
from unmask.reproduce.plan import Cell, Options
from unmask.rl.settings import LearnSettings


def cells(options: Options) -> list[Cell]:
    """Trainings, heuristics and measurements."""
    trainings: list[Cell] = []
    rules: list[Cell] = []
    policies: list[Cell] = []
    alphas = (0.0, 30.0) if options.quick else LearnSettings().alphas
    alone = PolicySettings(priced=False)
    for checkpoint in options.denoisers:
        against = [heuristics(options, checkpoint, task) for task in AUTOMATON.tests]
        rules += against
        for seed in options.seeds:
            one = trained(options, "full", checkpoint, AUTOMATON.train, seed)
            many = [
                trained(options, f"alpha-{a:g}", checkpoint, AUTOMATON.train, seed, alone, LearnSettings(alphas=(a,)))
                for a in alphas
            ]
            trainings += [one, *many]
            for arena in against:
                policies.append(measured(options, "one network, told alpha", [one], arena, seed=seed))
                policies.append(measured(options, "a network for each alpha", many, arena, seed=seed))
    return [*trainings, *rules, *policies]
