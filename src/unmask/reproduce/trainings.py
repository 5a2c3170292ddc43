"""Trainings and bounds that questions about text share: equal ones have equal names, so that each is made once.

Imports no torch.
"""

__all__ = ["COMPARED", "Planned", "bounded", "rates", "trained", "training_of"]

from dataclasses import replace

from unmask.reproduce.plan import plain
from unmask.reproduce.text import Bounded, Claim, Fit, Parameterization, TextCell, TextOptions
from unmask.train.settings import ModelChoice, TextRun, TrainSettings

Planned = tuple[list[TextCell], list[Claim]]
"""The cells of a question in the order of work, and the claims that they decide."""
COMPARED: dict[str, Parameterization] = {"AR": "ar", "MDLM": "subs", "SEDD": "sedd", "D3PM": "d3pm"}
"""The objectives that are compared on one network, by label."""


def training_of(options: TextOptions, label: str, seed: int, model: ModelChoice, train: TrainSettings) -> Fit:
    """A label, a seed, a network and settings -> the training, with the learning rate of its objective."""
    numbers = options.numbers
    timed = model.time_conditioned and model.parameterization == "subs"  # the network of SEDD always reads the time
    rate = numbers.rates["subs-timed" if timed else model.parameterization]
    train = replace(train, seed=seed, lr=train.lr or rate)
    run = TextRun(numbers.data, model, train)
    return Fit(f"{plain(label)}-seed-{seed}", label, seed, run)


def trained(
    options: TextOptions,
    label: str,
    seed: int,
    parameterization: Parameterization = "subs",
    *,
    timed: bool = False,
    grid: int | None = None,
) -> Fit:
    """A label and what differs from MDLM -> the training; equal trainings of several questions have equal names."""
    numbers = options.numbers
    model = replace(numbers.model, parameterization=parameterization, time_conditioned=timed)
    return training_of(options, label, seed, model, replace(numbers.train, grid=grid))


def bounded(
    options: TextOptions, fit: Fit, label: str = "", source: str | None = None, grid: int | None = None
) -> Bounded:
    """A training -> its bound on held-out rows that no validation had, or on another text; `grid`: steps T."""
    numbers = options.numbers
    name = "-".join(part for part in ("bound", fit.name, source or "", f"T-{grid}" if grid else "") if part)
    skip = 0 if source else numbers.train.eval_draws  # validations choose a checkpoint by these rows
    return Bounded(name, label or fit.label, fit.seed, fit.name, numbers.draws, numbers.limit, source, grid, skip)


def rates(options: TextOptions, prefix: str = "", most: int = 2) -> Planned:
    """The learning rate of each objective: the same rates for each, on a quarter of the steps and other seeds."""
    numbers = options.numbers
    models = {label: replace(numbers.model, parameterization=name) for label, name in COMPARED.items()}
    if "subs-timed" in numbers.rates:
        models["MDLM with time"] = replace(models["MDLM"], time_conditioned=True)
    assert numbers.train.steps is not None, "a scale has a number of steps"
    trains = [replace(numbers.train, steps=numbers.train.steps // 4, lr=rate) for rate in numbers.tried]
    return [
        training_of(options, f"{prefix}{label} at {train.lr:g}", seed, model, train)
        for seed in range(1000, 1000 + min(most, len(options.seeds)))
        for label, model in models.items()
        for train in trains
    ], []
