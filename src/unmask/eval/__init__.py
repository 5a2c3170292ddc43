"""The quality of a model against its number of passes: information curves, paces and frontiers."""
