"""Recipes, complete settings of training runs by name: of denoisers and of policies."""
