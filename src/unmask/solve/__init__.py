"""Problems with a verifier, decoded with many settings: problems, sweeps, and the best of their outcomes."""
