"""The exponential moving average of a model's parameters, with which runs evaluate and save their best model."""

__all__ = ["Ema"]

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unmask.errors import CheckpointError, ConfigError


class Ema:
    """Averages of `params`, with a warm-up: after n updates the decay is min(decay, (1 + n) / (10 + n)).

    Raises ConfigError unless 0 <= decay < 1.
    """

    def __init__(self, params: Iterable[nn.Parameter], decay: float) -> None:
        """Set the averages to the current values of the parameters."""
        if not 0 <= decay < 1:
            raise ConfigError(f"an average cannot have the decay {decay}: give a number from 0 up to, but not, 1.")
        self.decay = decay
        self.updates = 0
        self._params = [param.detach() for param in params]
        self._averages = [param.clone() for param in self._params]

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the parameters; call it after each step of the optimiser."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(self._averages, self._params, 1 - decay)  # pyright: ignore[reportPrivateUsage]

    @contextmanager
    def swap(self) -> Generator[None]:
        """Inside the `with` block the model has the averages; after it, exactly its own parameters again."""
        own = [param.clone() for param in self._params]
        self._copy(self._averages)
        try:
            yield
        finally:
            self._copy(own)

    def state(self) -> dict[str, Tensor]:
        """The averages and the number of updates as named tensors, to be stored in a checkpoint."""
        averages = {f"{index:05d}": average for index, average in enumerate(self._averages)}
        return {"updates": torch.tensor(self.updates)} | averages

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the output of `state`. Raises CheckpointError if it is for other parameters."""
        names = [f"{index:05d}" for index in range(len(self._averages))]
        shapes = [state[name].shape if name in state else None for name in names]
        if len(state) != len(names) + 1 or shapes != [average.shape for average in self._averages]:
            raise CheckpointError(
                f"the stored averages are for {len(state) - 1} parameters of other shapes than this model's "
                f"{len(names)}: resume with the settings that the run began with."
            )
        self.updates = int(state["updates"])
        for average, name in zip(self._averages, names, strict=True):
            average.copy_(state[name])

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        """Write `values` into the parameters, in place."""
        torch._foreach_copy_(self._params, values)  # pyright: ignore[reportPrivateUsage]
