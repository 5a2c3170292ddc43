"""Train masked diffusion language models, generate with them, and learn the policy that unmasks.

    import unmask
    model = unmask.load()                        # the bundled model, or a checkpoint folder
    print(model.generate("To be", length=40).texts[0])

Nothing heavy is imported until a name is used.
"""

__all__ = [
    "Bound",
    "Choice",
    "Decoder",
    "Filling",
    "Generation",
    "Model",
    "Snapshot",
    "UnmaskError",
    "UnmaskWarning",
    "bundled",
    "load",
    "policies",
    "tasks",
    "testing",
]

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask import policies, tasks, testing
    from unmask.api import Model, bundled, load
    from unmask.decode.loop import Decoder
    from unmask.decode.rows import Snapshot
    from unmask.errors import UnmaskError, UnmaskWarning
    from unmask.fill.holes import Choice
    from unmask.objective.bound import Bound
    from unmask.results import Filling, Generation

__version__ = "0.1.0.dev0"

_HOMES = {
    "Bound": "unmask.objective.bound",
    "Choice": "unmask.fill.holes",
    "Decoder": "unmask.decode.loop",
    "Filling": "unmask.results",
    "Generation": "unmask.results",
    "Model": "unmask.api",
    "Snapshot": "unmask.decode.rows",
    "UnmaskError": "unmask.errors",
    "UnmaskWarning": "unmask.errors",
    "bundled": "unmask.api",
    "load": "unmask.api",
}


def __getattr__(name: str) -> Any:
    if name in ("policies", "tasks", "testing"):
        return import_module(f"unmask.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unmask' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
