"""Runs as functions that return frozen dataclasses, one file each; found by name, and read without torch."""

__all__ = ["get", "names", "read"]

from importlib import import_module
from pathlib import Path

from unmask.config import from_dict, read_toml
from unmask.errors import ConfigError, did_you_mean
from unmask.train.settings import TextRun

_NAMES = ("automaton", "automaton_eos", "dna", "mdlm_owt", "shakespeare", "sudoku", "text")


def names() -> dict[str, str]:
    """Every recipe's name with its one line."""
    return {name: (import_module(f"{__name__}.{name}").__doc__ or "").splitlines()[0] for name in _NAMES}


def get(name: str) -> TextRun:
    """The run that a recipe describes. Raises ConfigError for a name that is not one."""
    if name not in _NAMES:
        if Path(name).exists():
            say = f"unmask train --data.source {name}"
            raise ConfigError(f"'{name}' is not a recipe; to train on that text, say: {say}")
        raise ConfigError(f"There is no recipe named '{name}'; {did_you_mean(name, _NAMES)}")
    return import_module(f"{__name__}.{name}").recipe()


def read(name_or_path: str) -> TextRun:
    """A recipe by name, or from a .toml file with the tables data, model and train.

    Raises ConfigError for an unknown name, and for a key or value in the file that cannot be.
    """
    if name_or_path.endswith(".toml"):
        return from_dict(TextRun, read_toml(name_or_path), name_or_path)
    return get(name_or_path)
