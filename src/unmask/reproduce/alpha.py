"""Control of speed: separate networks for each alpha against one that is told alpha, and how far seeds lie apart.

arXiv:2512.09106, sections 3.3 and 6, where each alpha has its own network and the passes wander between seeds. Four
separate networks have four points, so the one network is measured at the same four too.
"""

__all__ = ["cells"]

from unmask.policies.learned.settings import PolicySettings
from unmask.reproduce.plan import AUTOMATON, Cell, Options, heuristics, measured, trained
from unmask.rl.settings import LearnSettings

_ALONE = (0.1, 1.0, 3.0, 10.0)  # alpha 0 asks for no speed, and 30 for a single pass


def cells(options: Options) -> list[Cell]:
    """Trainings, heuristics and measurements."""
    alphas = _ALONE[:2] if options.quick else _ALONE
    alone = PolicySettings(priced=False)
    found: list[Cell] = []
    for checkpoint in options.denoisers:
        against = [heuristics(options, checkpoint, task) for task in AUTOMATON.tests]
        found += against
        for seed in options.seeds:
            one = trained(options, "full", checkpoint, AUTOMATON.train, seed)
            many = [
                trained(options, f"alpha-{a:g}", checkpoint, AUTOMATON.train, seed, alone, LearnSettings(alphas=(a,)))
                for a in alphas
            ]
            found += [one, *many]
            for arena in against:
                found.append(measured(options, "full canvas", [one], arena, seed=seed))
                found.append(measured(options, "the same, at four alphas", [one], arena, seed=seed, alphas=alphas))
                found.append(measured(options, "a network for each alpha", many, arena, seed=seed))
    return found
