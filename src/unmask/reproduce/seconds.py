"""Seconds, not only passes: a policy's network costs time too; at equal accuracy, is it still worth it?

Batches of 1, 32 and 128, each cell alone in one thread of this machine, after all others are done.
"""

__all__ = ["cells"]

from unmask.reproduce.plan import Cell, Options, Timed, heuristics, kinds, measured, other_kinds, trained

_BATCHES = (1, 32, 128)


def cells(options: Options) -> list[Cell]:
    """Trainings, heuristics, measurements, and then the clock; one seed, the first."""
    seed, rounds = options.seeds[0], 1 if options.quick else 3
    before: list[Cell] = []
    clocks: list[Cell] = []
    for checkpoint, kind in kinds(options):
        one = trained(options, "full", checkpoint, kind.train, seed)
        before.append(one)
        for task in kind.tests:
            against = heuristics(options, checkpoint, task)
            cell = measured(options, "full canvas", [one], against, seed=seed)
            before += [against, cell]
            for batch in _BATCHES:
                name = f"seconds-{against.arena.name}-batch-{batch}"
                clocks.append(Timed(name, against.arena, cell.name, against.name, batch, rounds))
    return [*before, *clocks, *other_kinds(options)]
