"""Transfer: policies used, untrained, with another denoiser, at another length, on another task, in other blocks.

arXiv:2512.09106, section 5.4. On the harder test of each task, at half of the alphas where a policy is away from home.
Lengths: a price of a pass goes with a policy, so that alpha grows with the length. The automaton with 48 places needs a
window of 97 tokens, so a denoiser of its own (--twice).
"""

__all__ = ["cells"]

from pathlib import Path

from unmask.reproduce.plan import (
    ALPHAS,
    AUTOMATON,
    COARSE,
    Blocked,
    Cell,
    Heuristics,
    Kind,
    Options,
    Training,
    heuristics,
    kinds,
    measured,
    other_kinds,
    trained,
)
from unmask.rl.settings import LearnSettings

_TWICE = "automaton:length=48,traces=mixed"
_HOME, _INSIDE = "full canvas", f"blocks of {AUTOMATON.block}"  # as in policies-full and -blocks: they share the cells


def cells(options: Options) -> list[Cell]:
    """Trainings, heuristics and measurements."""
    trainings: list[Cell] = []
    rules: list[Cell] = []
    policies: list[Cell] = []
    places = kinds(options)
    home = options.denoisers[0]
    arenas = {checkpoint: [heuristics(options, checkpoint, kind.tests[-1])] for checkpoint, kind in places}
    twice = [heuristics(options, options.twice, _TWICE)] if options.twice else []
    missing = Blocked("twice-the-length", "no denoiser was given; train one and add --twice CHECKPOINT")
    inside_too = [heuristics(options, home, AUTOMATON.tests[-1], AUTOMATON.block)]  # as policies-blocks has it
    rules += [*twice, *inside_too, *(arena for found in arenas.values() for arena in found)]

    def use(label: str, one: Training, on: list[Heuristics], seed: int, block: int | None = None) -> None:
        alphas = ALPHAS if label in (_HOME, _INSIDE) else COARSE
        policies.extend(measured(options, label, [one], a, seed=seed, block_size=block, alphas=alphas) for a in on)

    for seed in options.seeds:
        full = {c: trained(options, "full", c, kind.train, seed) for c, kind in places}
        block = AUTOMATON.block
        inside = LearnSettings(block_size=block)
        small = trained(options, _INSIDE, home, AUTOMATON.train, seed, learn=inside)
        trainings += [*full.values(), small]
        for source, target in _pairs(places, home):
            label = f"from {Path(source).name}" if source != target else _HOME
            use(label, full[source], arenas[target], seed)
        use(f"from {Path(home).name}, twice the length", full[home], twice, seed)
        use(f"{_HOME}, used in {_INSIDE}", full[home], inside_too, seed, block)
        use(f"{_HOME}, used in blocks of 12", full[home], arenas[home], seed, 12)
        use(_INSIDE, small, inside_too, seed, block)
        use(f"{_INSIDE}, used on the whole canvas", small, arenas[home], seed)
    return [*trainings, *rules, *policies, *([] if twice else [missing]), *other_kinds(options)]


def _pairs(places: list[tuple[str, Kind]], home: str) -> list[tuple[str, str]]:
    """(trained on, used with): everyone at home, the first denoiser's policy everywhere, everyone's on the first."""
    every = [checkpoint for checkpoint, _ in places]
    return list(dict.fromkeys([*((c, c) for c in every), *((home, c) for c in every), *((c, home) for c in every)]))
