"""Sources of text -> rows of token ids for training and validation."""
