"""What does not learn: the frozen denoiser, and problems with their verifier."""

__all__ = ["World", "load_world"]

from typing import NamedTuple

import torch

from unmask.assets.models import locate
from unmask.denoiser import Denoiser
from unmask.noise import derive
from unmask.solve.sweep import Problem, fitting, most_holes
from unmask.tasks import make
from unmask.tasks.base import Task
from unmask.text.tokenizer import Tokenizer
from unmask.train.folder import load_denoiser


class World(NamedTuple):
    """A denoiser, problems to train on and others to validate with."""

    denoiser: Denoiser
    task: Task
    tokenizer: Tokenizer
    train: list[Problem]
    valid: list[Problem]
    device: torch.device

    @property
    def length(self) -> int:
        """The most positions that a problem has to fill."""
        return most_holes(self.train)


def load_world(
    checkpoint: str, task: str, *, train: int, valid: int, seed: int, device: torch.device | None = None
) -> World:
    """The bundled or saved denoiser and so many problems. Raises RequestError where a problem does not fit it."""
    place = device or torch.device("cpu")
    loaded = load_denoiser(locate(checkpoint), str(place))
    chosen = make(task)
    window = loaded.denoiser.settings.max_length
    sets = [
        fitting(chosen, chosen.examples(split, count, derive(seed, number)), loaded.tokenizer, window, checkpoint)
        for number, (split, count) in enumerate((("train", train), ("valid", valid)))
    ]
    return World(loaded.denoiser, chosen, loaded.tokenizer, sets[0], sets[1], place)
