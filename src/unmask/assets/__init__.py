"""Files inside the library: corpora, small checkpoints and policies, each with its card, and the trace player."""
