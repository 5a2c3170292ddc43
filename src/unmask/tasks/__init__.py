"""Problems whose answers can be checked exactly: what `frontier` measures and what a policy is trained on."""

__all__ = ["make", "names"]

from unmask.tasks.registry import make, names
