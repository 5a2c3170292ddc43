"""Whole runs by name: of denoisers, and of policies."""
