"""Ablations: what each part of the network and of its training is worth.

arXiv:2512.09106, section 5.5 and appendices E and F. Each differs in one thing from the recipe, on the first denoiser.
"""

__all__ = ["VARIANTS", "cells"]

import json
from dataclasses import replace
from pathlib import Path

from unmask.assets.models import locate
from unmask.errors import RequestError
from unmask.policies.learned.settings import PolicySettings
from unmask.reproduce.parts import AUTOMATON, heuristics, measured, trained
from unmask.reproduce.plan import Blocked, Cell, Options
from unmask.rl.settings import LearnSettings

_NET, _LEARN = PolicySettings(), LearnSettings()
VARIANTS: dict[str, tuple[PolicySettings, LearnSettings]] = {
    "recipe": (_NET, _LEARN),
    "additive reward": (_NET, replace(_LEARN, reward="sum")),
    "no mask": (replace(_NET, mask=False), _LEARN),
    "no time": (replace(_NET, time=False), _LEARN),
    "no positions": (replace(_NET, positions=False), _LEARN),
    "raw probabilities": (replace(_NET, scale="raw"), _LEARN),
    "confidence alone": (replace(_NET, features=("confidence",)), _LEARN),
    "Plackett-Luce head": (replace(_NET, head="plackett-luce"), replace(_LEARN, entropy=0.0)),
    "no entropy bonus": (_NET, replace(_LEARN, entropy=0.0)),
    "expert steering, no warm start": (_NET, replace(_LEARN, warm=0, steering=2)),
    "cold start": (_NET, replace(_LEARN, warm=0)),
    "scale by group": (_NET, replace(_LEARN, scale="std")),
    "no scale": (_NET, replace(_LEARN, scale="none")),
}
"""All but the one that reads hidden states, whose width is the denoiser's."""


def cells(options: Options) -> list[Cell]:
    """Trainings, heuristics and measurements."""
    checkpoint = options.denoisers[0]
    against = [heuristics(options, checkpoint, task) for task in AUTOMATON.tests]
    variants, blocked = dict(VARIANTS), list[Cell]()
    width = _width(checkpoint)
    if width is None:
        blocked.append(Blocked("hidden-state", f"the configuration of {checkpoint} does not tell its width"))
    else:
        variants["hidden state"] = (replace(_NET, features=(*_NET.features, "hidden"), hidden=width), _LEARN)
    trainings: list[Cell] = []
    policies: list[Cell] = []
    for label, (policy, learn) in variants.items():
        for seed in options.seeds:
            name = "full" if label == "recipe" else label  # the training that the other questions have too
            one = trained(options, name, checkpoint, AUTOMATON.train, seed, policy, learn)
            trainings.append(one)
            policies += [measured(options, label, [one], arena, seed=seed) for arena in against]
    return [*trainings, *against, *policies, *blocked]


def _width(checkpoint: str) -> int | None:
    """The width of the hidden states, as config.json tells it."""
    folder = Path(locate(checkpoint))
    if not (folder / "config.json").is_file():
        from unmask.run.checkpoint import latest

        newest = latest(folder)
        if newest is None:
            raise RequestError(f"{checkpoint} holds no checkpoint; give a checkpoint or run folder.")
        folder = newest
    return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model", {}).get("width")
