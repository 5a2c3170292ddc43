"""Unmasking policies: which masked positions are revealed in which pass.

The protocol is in `base`, each rule in a file of its own, the names in `registry`. Settings of learned policies are
read without torch, so `make` and `names` are imported at their first use.
"""

__all__ = ["make", "names"]

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask.policies.registry import make, names


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("unmask.policies.registry"), name)
    raise AttributeError(f"module 'unmask.policies' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
