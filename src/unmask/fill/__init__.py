"""Holes in a text: filled, and compared by their likelihood."""
