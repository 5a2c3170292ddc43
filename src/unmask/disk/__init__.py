"""Files: atomic writes, strict JSON, checkpoints, and the headers of tensor files."""
