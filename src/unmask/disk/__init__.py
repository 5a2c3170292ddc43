"""Files: written atomically, read strictly; checkpoints, and the facts of tensor files."""
