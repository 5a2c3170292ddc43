"""Files that ship inside the library: corpora and small checkpoints, each with its card."""
