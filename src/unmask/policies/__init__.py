"""Unmasking policies: which tokens appear when. One protocol (`base`), one file a rule, names in `registry`."""

__all__ = ["make", "names"]

from unmask.policies.registry import make, names
