"""Ablations: what each part of the network and of its training is worth.

arXiv:2512.09106, section 5.5 and appendices E and F. Each differs in one thing from the recipe; on the first denoiser,
long traces.
"""

__all__ = ["VARIANTS", "cells"]

import json
from dataclasses import replace
from pathlib import Path

from unmask.assets.models import locate
from unmask.errors import RequestError
from unmask.policies.learned.settings import PolicySettings
from unmask.reproduce.parts import AUTOMATON, COARSE, heuristics, measured, trained
from unmask.reproduce.plan import Blocked, Cell, Options
from unmask.rl.settings import LearnSettings

_NET, _LEARN = PolicySettings(), LearnSettings()
Variant = tuple[PolicySettings, LearnSettings]
_PUBLISHED: dict[str, Variant] = {
    "recipe": (_NET, _LEARN),
    "additive reward": (_NET, replace(_LEARN, reward="sum")),
    "no mask": (replace(_NET, mask=False), _LEARN),
    "no time": (replace(_NET, time=False), _LEARN),
    "confidence alone": (replace(_NET, features=("confidence",)), _LEARN),
    "Plackett-Luce head": (replace(_NET, head="plackett-luce"), replace(_LEARN, entropy=0.0)),
    "expert steering, no warm start": (_NET, replace(_LEARN, warm=0, steering=2)),
    "cold start": (_NET, replace(_LEARN, warm=0)),
}
_OURS: dict[str, Variant] = {
    "raw probabilities": (replace(_NET, scale="raw"), _LEARN),
    "no positions": (replace(_NET, positions=False), _LEARN),
    "no entropy bonus": (_NET, replace(_LEARN, entropy=0.0)),
    "scale by group": (_NET, replace(_LEARN, scale="std")),
    "no scale": (_NET, replace(_LEARN, scale="none")),
}
VARIANTS = {**_PUBLISHED, **_OURS}
"""All but the one that reads hidden states, whose width is the denoiser's."""


def cells(options: Options) -> list[Cell]:
    """Trainings, heuristics and measurements."""
    checkpoint = options.denoisers[0]
    against = heuristics(options, checkpoint, AUTOMATON.tests[-1])
    variants, found = dict(_PUBLISHED), list[Cell]([against])
    width = _width(checkpoint)
    if width is None:
        found.append(Blocked("hidden-state", f"the configuration of {checkpoint} does not tell its width"))
    else:
        variants["hidden state"] = (replace(_NET, features=(*_NET.features, "hidden"), hidden=width), _LEARN)
    for label, (policy, learn) in {**variants, **_OURS}.items():
        for seed in options.seeds:
            name = "full" if label == "recipe" else label  # the training that the other questions have too
            one = trained(options, name, checkpoint, AUTOMATON.train, seed, policy, learn)
            found += [one, measured(options, label, [one], against, seed=seed, alphas=COARSE)]
    return found


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
