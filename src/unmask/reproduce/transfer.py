"""Transfer: policies used, untrained, with another denoiser, at another length, on another task, in other blocks.

arXiv:2512.09106, section 5.4. Lengths: a price of a pass goes with a policy, so that alpha grows with the length. The
automaton with 48 places needs a window of 97 tokens; denoisers of the bundled size have 49, and the cell then says so.
"""

__all__ = ["cells"]

from unmask.reproduce.parts import AUTOMATON, Kind, heuristics, kinds, measured, other_kinds, trained
from unmask.reproduce.plan import Cell, Heuristics, Options, Training
from unmask.rl.settings import LearnSettings

_TWICE = "automaton:length=48,traces=mixed"


def cells(options: Options) -> list[Cell]:
    """Trainings, heuristics and measurements."""
    trainings: list[Cell] = []
    rules: list[Cell] = []
    policies: list[Cell] = []
    places = kinds(options)
    home = options.denoisers[0]
    arenas = {checkpoint: [heuristics(options, checkpoint, t) for t in kind.tests] for checkpoint, kind in places}
    arenas["twice"] = [heuristics(options, home, _TWICE)]
    rules += [arena for found in arenas.values() for arena in found]

    def use(label: str, one: Training, on: list[Heuristics], seed: int, block: int | None = None) -> None:
        policies.extend(measured(options, label, [one], arena, seed=seed, block_size=block) for arena in on)

    for seed in options.seeds:
        full = {c: trained(options, "full", c, kind.train, seed) for c, kind in places}
        block = AUTOMATON.block
        inside = LearnSettings(block_size=block)
        small = trained(options, f"blocks of {block}", home, AUTOMATON.train, seed, learn=inside)
        trainings += [*full.values(), small]
        for source, target in _pairs(places, home):
            use(f"from {_short(source)}" if source != target else "at home", full[source], arenas[target], seed)
        use(f"from {_short(home)}, twice the length", full[home], arenas["twice"], seed)
        use(f"full canvas, used in blocks of {block}", full[home], arenas[home], seed, block)
        use("full canvas, used in blocks of 12", full[home], arenas[home], seed, 12)
        use(f"blocks of {block}, used there", small, arenas[home], seed, block)
        use(f"blocks of {block}, used on the whole canvas", small, arenas[home], seed)
    return [*trainings, *rules, *policies, *other_kinds(options)]


def _pairs(places: list[tuple[str, Kind]], home: str) -> list[tuple[str, str]]:
    """(trained on, used with): everyone at home, the first denoiser's policy everywhere, everyone's on the first."""
    every = [checkpoint for checkpoint, _ in places]
    return list(dict.fromkeys([*((c, c) for c in every), *((home, c) for c in every), *((c, home) for c in every)]))


def _short(checkpoint: str) -> str:
    return checkpoint.rstrip("/").split("/")[-1]
