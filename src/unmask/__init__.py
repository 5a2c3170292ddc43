"""Train masked diffusion language models, generate with them, and learn the policy that unmasks.

    import unmask
    model = unmask.load()                        # the bundled model, or a checkpoint folder
    print(model.generate("To be", length=40).texts[0])

Nothing heavy is imported until a name is used.
"""

__all__ = ["Decoder", "Generation", "Model", "UnmaskError", "bundled", "load", "policies"]

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask import policies
    from unmask.api import Generation, Model, bundled, load
    from unmask.decode.loop import Decoder
    from unmask.errors import UnmaskError

__version__ = "0.1.0.dev0"

_HOMES = {
    "Decoder": "unmask.decode.loop",
    "Generation": "unmask.api",
    "Model": "unmask.api",
    "UnmaskError": "unmask.errors",
    "bundled": "unmask.api",
    "load": "unmask.api",
}


def __getattr__(name: str) -> Any:
    if name == "policies":
        return import_module("unmask.policies")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unmask' has no attribute '{name}'")
