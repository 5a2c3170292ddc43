"""Training runs of policies by name: functions that return frozen dataclasses; read without torch."""

__all__ = ["RECIPES", "automaton", "automaton_eos", "names", "paper", "read", "sudoku"]

from collections.abc import Callable

from unmask.config import from_dict, read_toml
from unmask.errors import ConfigError, did_you_mean
from unmask.policies.learned.settings import PolicySettings
from unmask.rl.settings import LearnRun, LearnSettings


def automaton() -> LearnRun:
    """The honest automaton: tuned thresholds are hard to beat here.

    unmask learn automaton
    """
    return LearnRun("automaton", "automaton:traces=mixed")


def automaton_eos() -> LearnRun:
    """The EOS-heavy automaton, full canvas: where heuristics fail and a policy can win.

    unmask learn automaton_eos
    """
    return LearnRun("automaton_eos", "automaton:traces=mixed")


def paper() -> LearnRun:
    """The published recipe (arXiv:2512.09106), one network for one alpha, on the EOS-heavy automaton.

        unmask learn paper --learn.alphas 1

    331 thousand parameters, raw confidence, no warm start, plain advantages, each rollout of the same weight,
    temperature 1 on the whole canvas. The released code trains without a fallback, so that a pass may reveal nothing
    and masks may stay; under our loop every pass reveals something, in training as in use. Learning rate and rounds are
    for this size.
    """
    return LearnRun(
        "automaton_eos",
        "automaton:traces=mixed",
        PolicySettings(width=128, features=("confidence",), scale="raw", priced=False),
        LearnSettings(
            alphas=(1.0,), scale="none", weight="rollouts", warm=0, entropy=0.0, lr=3e-4, weight_decay=0.1, max_norm=0.2
        ),
    )


def sudoku() -> LearnRun:
    """Sudoku 6x6: order matters, and every sure-first rule knows it.

    unmask learn sudoku
    """
    return LearnRun("sudoku", "sudoku")


RECIPES: dict[str, Callable[[], LearnRun]] = {
    "automaton": automaton,
    "automaton_eos": automaton_eos,
    "paper": paper,
    "sudoku": sudoku,
}


def names() -> dict[str, str]:
    """Every recipe's name with the first line of its docstring."""
    return {name: (recipe.__doc__ or "").splitlines()[0] for name, recipe in RECIPES.items()}


def read(name_or_path: str) -> LearnRun:
    """A recipe's name, or a .toml file with checkpoint, task and the tables policy and learn -> the run.

    Raises ConfigError for an unknown name, and for a key or value in the file that is not possible.
    """
    if name_or_path.endswith(".toml"):
        return from_dict(LearnRun, read_toml(name_or_path), name_or_path)
    if name_or_path not in RECIPES:
        raise ConfigError(f"There is no policy recipe named '{name_or_path}'; {did_you_mean(name_or_path, RECIPES)}")
    return RECIPES[name_or_path]()
