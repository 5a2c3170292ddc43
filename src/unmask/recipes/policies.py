"""Recipes of policies: functions that return the settings of a training run; imported without torch."""

__all__ = ["RECIPES", "antibody", "automaton", "automaton_eos", "names", "paper", "read", "sudoku"]

from collections.abc import Callable

from unmask.config import from_dict
from unmask.disk.json import read_toml
from unmask.errors import ConfigError, did_you_mean
from unmask.policies.learned.settings import PolicySettings
from unmask.rl.settings import LearnRun, LearnSettings


def antibody() -> LearnRun:
    """The CDR3 of human antibodies with Sapiens, a published model; docs/results.md has the outcome.

        unmask fetch sapiens && unmask fetch human-heavy-chains && unmask learn antibody

    A pass takes three times that of the automaton, and there are 135 validation problems: fewer rounds, of fewer
    problems. It takes about five minutes on one thread.
    """
    learn = LearnSettings(
        rounds=60, prompts=8, warm=20, scored=48, valid_prompts=48, valid_every=20, save_every=10, calibrated=135
    )
    return LearnRun("sapiens", "antibody-cdr3", learn=learn)


def automaton() -> LearnRun:
    """The calibrated automaton: tuned threshold rules are hard to beat.

    unmask learn automaton
    """
    return LearnRun("automaton", "automaton:traces=mixed")


def automaton_eos() -> LearnRun:
    """The EOS-heavy automaton on the whole canvas: heuristics fail, and a learned policy can be better.

    unmask learn automaton_eos
    """
    return LearnRun("automaton_eos", "automaton:traces=mixed")


def paper() -> LearnRun:
    """The published recipe (arXiv:2512.09106), one network per alpha, on the EOS-heavy automaton.

        unmask learn paper --learn.alphas 1

    331 thousand parameters, raw confidence as the only feature, no warm start, unscaled advantages, equal weights of
    all rollouts, temperature 1 on the whole canvas. The released code trains without a fallback: a pass may reveal
    nothing, and masks may remain. Here every pass reveals at least one token, in training and in use. Learning rate and
    rounds are chosen for this size.
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
    """Sudoku 6x6: the order of reveals matters, and every most-confident-first rule does well.

    unmask learn sudoku
    """
    return LearnRun("sudoku", "sudoku")


RECIPES: dict[str, Callable[[], LearnRun]] = {
    "antibody": antibody,
    "automaton": automaton,
    "automaton_eos": automaton_eos,
    "paper": paper,
    "sudoku": sudoku,
}


def names() -> dict[str, str]:
    """The name of every recipe -> the first line of its docstring."""
    return {name: (recipe.__doc__ or "").splitlines()[0] for name, recipe in RECIPES.items()}


def read(name_or_path: str) -> LearnRun:
    """The name of a recipe, or a .toml file with checkpoint, task and the tables policy and learn -> the settings.

    Raises:
        ConfigError: for an unknown name, or an unknown key or impossible value in the file.
    """
    if name_or_path.endswith(".toml"):
        return from_dict(LearnRun, read_toml(name_or_path), name_or_path)
    if name_or_path not in RECIPES:
        raise ConfigError(f"There is no policy recipe named '{name_or_path}'; {did_you_mean(name_or_path, RECIPES)}")
    return RECIPES[name_or_path]()
