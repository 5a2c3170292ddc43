"""The published recipe (arXiv:2512.09106), one network for one alpha, on the EOS-heavy automaton.

    unmask learn paper --learn.alphas 1

331 thousand parameters, raw confidence, no warm start, plain advantages, each rollout of the same weight, temperature 1
on the whole canvas. The released code trains without a fallback, so that a pass may reveal nothing and masks may stay;
under our loop every pass reveals something, in training as in use. Learning rate and rounds are for this size.
"""

__all__ = ["recipe"]

from unmask.policies.learned.settings import PolicySettings
from unmask.rl.settings import LearnRun, LearnSettings


def recipe() -> LearnRun:
    """The run."""
    return LearnRun(
        "automaton_eos",
        "automaton:traces=mixed",
        PolicySettings(width=128, features=("confidence",), scale="raw", priced=False),
        LearnSettings(
            alphas=(1.0,), scale="none", weight="rollouts", warm=0, entropy=0.0, lr=3e-4, weight_decay=0.1, max_norm=0.2
        ),
    )
