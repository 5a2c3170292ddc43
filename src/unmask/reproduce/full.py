"""Over the whole canvas: does a learned policy beat tuned heuristics?

arXiv:2512.09106, section 5.2. One conditioned network for each denoiser and seed; in distribution and on long traces.
"""

__all__ = ["cells"]

from unmask.reproduce.plan import Cell, Options, contest


def cells(options: Options) -> list[Cell]:
    """Trainings, heuristics and measurements."""
    return contest(options, in_blocks=False)
