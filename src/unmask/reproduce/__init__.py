"""The published questions about learned policies, one file each: what is trained and measured to answer them."""

__all__ = ["names", "plan_of"]

from importlib import import_module

from unmask.errors import ConfigError, did_you_mean
from unmask.reproduce.plan import Cell, Options, Plan

_NAMES = {
    "policies-ablations": "ablations",
    "policies-alpha": "alpha",
    "policies-blocks": "blocks",
    "policies-full": "full",
    "policies-seconds": "seconds",
    "policies-transfer": "transfer",
}


def names() -> dict[str, str]:
    """Every question's name with its one line."""
    return {name: _about(file) for name, file in _NAMES.items()}


def plan_of(name: str, options: Options) -> Plan:
    """What is to be done for a question. Raises ConfigError for a name that is none."""
    if name not in _NAMES:
        raise ConfigError(f"There is no question named '{name}'; {did_you_mean(name, _NAMES)}")
    cells = import_module(f"{__name__}.{_NAMES[name]}").cells(options)
    unique: dict[str, Cell] = {}
    for cell in cells:
        if unique.setdefault(cell.name, cell) != cell:
            raise ConfigError(
                f"Two different cells of {name} would be called {cell.name}: give each denoiser one task."
            )
    return Plan(name, _about(_NAMES[name]), tuple(unique.values()), options)


def _about(file: str) -> str:
    return (import_module(f"{__name__}.{file}").__doc__ or "").splitlines()[0]
