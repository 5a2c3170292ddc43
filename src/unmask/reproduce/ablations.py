"""Ablations: what each part of the network and of its training is worth.

arXiv:2512.09106, section 5.5 and appendices E and F. Each differs from the recipe in what its name says; the
Plackett-Luce head has no entropy bonus either. On the first denoiser, long traces.
"""

__all__ = ["cells"]

from dataclasses import replace

from unmask.assets.bundled import locate
from unmask.disk.checkpoint import read_checkpoint
from unmask.policies.learned.settings import PolicySettings
from unmask.reproduce.plan import AUTOMATON, COARSE, Blocked, Cell, Options, heuristics, measured, trained
from unmask.rl.settings import LearnSettings

_NET, _LEARN = PolicySettings(), LearnSettings()
_Variant = tuple[PolicySettings, LearnSettings]
_PUBLISHED: dict[str, _Variant] = {
    "recipe": (_NET, _LEARN),
    "additive reward": (_NET, replace(_LEARN, reward="sum")),
    "no mask": (replace(_NET, mask=False), _LEARN),
    "no time": (replace(_NET, time=False), _LEARN),
    "confidence alone": (replace(_NET, features=("confidence",)), _LEARN),
    "Plackett-Luce head": (replace(_NET, head="plackett-luce"), replace(_LEARN, entropy=0.0)),
    "expert steering, no warm start": (_NET, replace(_LEARN, warm=0, steering=2)),
    "cold start": (_NET, replace(_LEARN, warm=0)),
}
_OURS: dict[str, _Variant] = {
    "raw probabilities": (replace(_NET, scale="raw"), _LEARN),
    "no positions": (replace(_NET, positions=False), _LEARN),
    "no entropy bonus": (_NET, replace(_LEARN, entropy=0.0)),
    "scale by group": (_NET, replace(_LEARN, scale="std")),
    "no scale": (_NET, replace(_LEARN, scale="none")),
}


def cells(options: Options) -> list[Cell]:
    """Trainings, heuristics and measurements."""
    checkpoint = options.denoisers[0]
    against = heuristics(options, checkpoint, AUTOMATON.tests[-1])
    variants, found = dict(_PUBLISHED), list[Cell]([against])
    width = read_checkpoint(locate(checkpoint)).config.get("model", {}).get("width")
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
