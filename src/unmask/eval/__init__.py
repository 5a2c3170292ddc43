"""What a model is worth, and at how many passes: information curves, paces and frontiers."""
