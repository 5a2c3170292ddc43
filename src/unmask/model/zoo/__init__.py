"""Families of published models: for each a table of its config, its tensors and its tokens; imported without torch."""
