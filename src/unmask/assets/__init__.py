"""Files inside the library: corpora, small checkpoints and policies, each with its card; the player, and its pages."""
